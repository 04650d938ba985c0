# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The logger of the toolkit, for those who use it by its public name. Importing it installs no handler."""

import logging
import os
from typing import ClassVar

from mct_quantizers import logger as runtime

__all__ = ["LOGGER_NAME", "Logger", "set_log_folder"]

LOGGER_NAME = "Model Compression Toolkit"


class Logger(runtime.Logger):
    """Logs under `NAME`; the same functions as `mct_quantizers.logger.Logger`."""

    NAME: ClassVar[str] = LOGGER_NAME
    LOG_PATH: ClassVar[str | None] = None


def set_log_folder(folder: str | os.PathLike[str], level: int | str = logging.INFO) -> None:
    """Log to standard error and to a file, the toolkit under `folder` and the runtime under `<folder>_MCTQ`.

    Args:
        folder: where each makes its folder of the date; see `mct_quantizers.logger.Logger.set_log_file`.
        level: what is logged, from this severity on.

    Raises:
        OSError: a folder or file cannot be made.

    Example:
        >>> import model_compression_toolkit as mct
        >>> mct.set_log_folder("logs")  # doctest: +SKIP
    """
    runtime.set_up(Logger, folder, level)
    runtime.set_log_folder(f"{os.fspath(folder)}_MCTQ", level)

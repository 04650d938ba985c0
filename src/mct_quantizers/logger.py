# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The logger of the package, for those who use it by its public name. Importing it installs no handler.

Differs from release 1.7.0 of the original: `Logger.error` raises, as `critical` and `exception` do.
"""

import logging
import os
from datetime import datetime
from pathlib import Path
from typing import ClassVar, NoReturn

__all__ = ["LOGGER_NAME", "Logger", "set_log_folder"]

LOGGER_NAME = "MCT Quantizers"
_LOG_FILE = "mct_log.log"


class Logger:
    """Logs under `NAME` through Python's `logging`.

    Attributes:
        NAME: the name of the logger.
        LOG_PATH: the folder that `set_log_file` made last; None before, and after `shutdown`.
    """

    NAME: ClassVar[str] = LOGGER_NAME
    DEBUG: ClassVar[int] = logging.DEBUG
    INFO: ClassVar[int] = logging.INFO
    WARNING: ClassVar[int] = logging.WARNING
    ERROR: ClassVar[int] = logging.ERROR
    CRITICAL: ClassVar[int] = logging.CRITICAL
    LOG_PATH: ClassVar[str | None] = None

    @classmethod
    def get_logger(cls) -> logging.Logger:
        """The logger itself."""
        return logging.getLogger(cls.NAME)

    @classmethod
    def set_logger_level(cls, log_level: int | str = logging.INFO) -> None:
        """Log what is at least as severe as `log_level`."""
        cls.get_logger().setLevel(log_level)

    @classmethod
    def set_handler_level(cls, log_level: int | str = logging.INFO) -> None:
        """Let every handler of the logger pass what is at least as severe as `log_level`."""
        for handler in cls.get_logger().handlers:
            handler.setLevel(log_level)

    @classmethod
    def set_stream_handler(cls) -> None:
        """Log to standard error, unless the logger has a stream already."""
        logger = cls.get_logger()
        streams = [item for item in logger.handlers if isinstance(item, logging.StreamHandler)]
        # A file is a stream to `logging`.
        if all(isinstance(item, logging.FileHandler) for item in streams):
            logger.addHandler(logging.StreamHandler())

    @classmethod
    def set_log_file(cls, log_folder: str | os.PathLike[str] | None = None) -> None:
        """Log to `logs_<date>_<time>/mct_log.log` too, and print where that is.

        Args:
            log_folder: where to make the folder; None: the environment variable LOG_PATH, or else the current folder.
        """
        parent = Path(log_folder or os.environ.get("LOG_PATH") or Path.cwd())
        folder = parent / datetime.now().strftime("logs_%d%m%Y_%H%M%S")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _LOG_FILE
        logger = cls.get_logger()
        files = [item.baseFilename for item in logger.handlers if isinstance(item, logging.FileHandler)]
        # Twice within a second is the same file: no line twice.
        if str(path.absolute()) not in files:
            logger.addHandler(logging.FileHandler(path, encoding="utf-8"))
        cls.LOG_PATH = str(folder)
        print(f"log file is in {path}")

    @classmethod
    def shutdown(cls) -> None:
        """Close and remove the handlers of this logger; the rest of the process keeps its own."""
        logger = cls.get_logger()
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        cls.LOG_PATH = None

    @classmethod
    def debug(cls, msg: str) -> None:
        """Log at level DEBUG."""
        cls.get_logger().debug(msg, stacklevel=2)

    @classmethod
    def info(cls, msg: str) -> None:
        """Log at level INFO."""
        cls.get_logger().info(msg, stacklevel=2)

    @classmethod
    def warning(cls, msg: str) -> None:
        """Log at level WARNING."""
        cls.get_logger().warning(msg, stacklevel=2)

    @classmethod
    def error(cls, msg: str) -> NoReturn:
        """Log at level ERROR, and raise.

        Raises:
            ValueError: always, with `msg`.
        """
        cls.get_logger().error(msg, stacklevel=2)
        raise ValueError(msg)

    @classmethod
    def critical(cls, msg: str) -> NoReturn:
        """Log at level CRITICAL, and raise.

        Raises:
            ValueError: always, with `msg`.
        """
        cls.get_logger().critical(msg, stacklevel=2)
        raise ValueError(msg)

    @classmethod
    def exception(cls, msg: str) -> NoReturn:
        """Log at level ERROR, with the traceback of the exception that is being handled, and raise.

        Raises:
            ValueError: always, with `msg`.
        """
        cls.get_logger().exception(msg, stacklevel=2)
        raise ValueError(msg)


def set_log_folder(folder: str | os.PathLike[str] | None, level: int | str = logging.INFO) -> None:
    """Log to standard error and to a file under `folder`, from `level` on; see `Logger.set_log_file`."""
    set_up(Logger, folder, level)


def set_up(logger: type[Logger], folder: str | os.PathLike[str] | None, level: int | str) -> None:
    """Let `logger` write to standard error and to a file under `folder`, from `level` on."""
    logger.set_stream_handler()
    logger.set_log_file(folder)
    logger.set_logger_level(level)
    logger.set_handler_level(level)

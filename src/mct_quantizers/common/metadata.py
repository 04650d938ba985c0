# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a model carries about itself: a dictionary of plain values, completed with versions."""

import sys
import warnings
from typing import Any

from mct_quantizers._version import __version__
from mct_quantizers.common.constants import MCTQ_VERSION, PYTHON_VERSION

__all__ = ["verify_and_init_metadata"]


def verify_and_init_metadata(metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """Check metadata, and add the versions of Python and of this package where they are missing.

    Args:
        metadata: numbers, text, lists of such values, and dictionaries of them by text; changed in place. None starts
            a new dictionary.

    Returns:
        `metadata` itself. A value of another type stays, with a warning: files may not be able to hold it.

    Raises:
        TypeError: `metadata` is no dictionary, or a key, also of a dictionary inside, is no text; nothing is changed.
    """
    metadata = {} if metadata is None else metadata
    _check_keys(metadata, "metadata")
    for key, value in metadata.items():
        if not _is_plain(value):
            warnings.warn(
                "`metadata` should hold numbers, text, None, lists and dictionaries of them. "
                f"Received: {type(value).__name__} for {key!r}",
                stacklevel=2,
            )
    metadata.setdefault(PYTHON_VERSION, sys.version)
    metadata.setdefault(MCTQ_VERSION, __version__)
    return metadata


def _check_keys(value: Any, name: str) -> None:
    if not isinstance(value, dict):
        raise TypeError(f"`{name}` must be a dictionary. Received: {name}={value!r}")
    for key, inner in value.items():
        if not isinstance(key, str):
            raise TypeError(f"`{name}` must have text as keys. Received: {key!r}")
        if isinstance(inner, dict):
            _check_keys(inner, f"{name}[{key!r}]")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    return value is None or isinstance(value, (int, float, str))

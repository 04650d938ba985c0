# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What is checked of a file before it is read: what it is, how much it declares, how deeply it is nested."""

import json
import zipfile
from pathlib import Path
from typing import Any

__all__ = [
    "MAX_EXPANSION",
    "check_archive",
    "check_expansion",
    "check_is_file",
    "check_size",
    "parse_json",
    "shortened",
]

MAX_EXPANSION = 10
"""An archive may hold this many times its own bytes; .keras files of Keras hold less than their own."""
_SMALL = 2**24
"""Bytes that are read of any file."""
_TEXT_LENGTH = 2000


def check_is_file(path: Path, name: str = "path") -> None:
    """Refuse what cannot be opened or may never end, with the error that says why.

    Args:
        path: the file.
        name: the argument that gave it, for the text of errors.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        IsADirectoryError: `path` is a folder.
        OSError: `path` is a pipe, a socket or a device.
    """
    if path.is_dir():
        raise IsADirectoryError(f"`{name}` must name a file. Received the folder: {path}")
    if not path.exists():
        raise FileNotFoundError(f"`{name}` must name a file that exists. Received: {path}")
    if not path.is_file():
        raise OSError(f"`{name}` must name a regular file. Received a pipe, socket or device: {path}")


def check_size(path: Path, allowed: int, what: str) -> None:
    """The file has not more bytes than what is read from it can need.

    Args:
        path: the file.
        allowed: bytes.
        what: what sets the limit, for the text of the error.

    Raises:
        ValueError: it has more.
    """
    size, limit = path.stat().st_size, allowed + _SMALL
    if size > limit:
        raise ValueError(f"The file {path} must have at most {limit:,} bytes for {what}. Received: {size:,} bytes")


def check_archive(path: Path) -> None:
    """A zip archive does not hold many times more than its own bytes.

    Raises:
        ValueError: it does, by what it declares; reading stops at the declared size.
        zipfile.BadZipFile: the archive is damaged.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    check_expansion(str(path), size, declared)


def check_expansion(name: str, size: int, declared: int) -> None:
    """What is compressed does not become many times larger.

    Args:
        name: of the file or of the part of one.
        size: its bytes.
        declared: the bytes that it says to hold.

    Raises:
        ValueError: it does.
    """
    limit = MAX_EXPANSION * size + _SMALL
    if declared > limit:
        raise ValueError(
            f"What takes {size:,} bytes must hold at most {limit:,} bytes. Received: {name}, which declares "
            f"{declared:,} bytes"
        )


def parse_json(text: str | bytes) -> Any:
    """The value that a text stands for.

    Raises:
        ValueError: the text is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("The JSON is nested too deeply") from error


def shortened(error: BaseException) -> str:
    """The text of an error, without the middle where it repeats values at length."""
    text, half = str(error), _TEXT_LENGTH // 2
    return text if len(text) <= _TEXT_LENGTH else f"{text[:half]} … {text[-half:]}"

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The file formats, and writing a file so that a failure leaves the old one whole."""

import os
import secrets
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

__all__ = ["ExportFormat", "check_writable", "format_of", "write_atomically"]


class ExportFormat(StrEnum):
    """What a quantized model is written as."""

    ONNX = "onnx"
    """Standard ONNX with QuantizeLinear and DequantizeLinear: runs without this package."""
    SAFETENSORS = "safetensors"
    """Packed integers and the plan: loads back into the float architecture."""


def format_of(path: str | Path) -> ExportFormat:
    """The format that the suffix of `path` names.

    Raises:
        ValueError: another suffix; the text lists those that exist.
    """
    try:
        return ExportFormat(Path(path).suffix.lower().removeprefix("."))
    except ValueError:
        suffixes = [f".{member.value}" for member in ExportFormat]
        raise ValueError(f"`path` must end with one of {suffixes}. Received: {str(path)!r}") from None


def check_writable(path: str | Path) -> Path:
    """The file that writing to `path` makes or replaces; links are followed. Call it before long work.

    Raises:
        FileNotFoundError: the folder does not exist.
        NotADirectoryError: the parent is no folder.
        IsADirectoryError: `path` is a folder.
        PermissionError: the folder cannot be written to.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"`path` must name a file. Received the folder: {target}")
    if not target.parent.exists():
        raise FileNotFoundError(f"The folder of `path` must exist. Received: {target}, without {target.parent}")
    if not target.parent.is_dir():
        raise NotADirectoryError(f"`path` must lie in a folder. Received: {target}, where {target.parent} is a file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"The folder of `path` must be writable. Received: {target}")
    return target


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> Path:
    """Write a file so that at every moment either the old or the new one is there, whole.

    Args:
        path: the file to make or replace.
        write: writes the content to the binary file that it is given.

    Returns:
        The file that was written.

    Raises:
        OSError: the file cannot be written; what was there before stays, and nothing else.
    """
    target = check_writable(path)
    # In the same folder, because a rename is atomic only inside one file system.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # Not `Path.replace`, which does the same: this is the one call that tests interrupt.
        os.replace(temporary, target)  # noqa: PTH105
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Files: written so that a failure leaves the old one whole; .safetensors files, the same each time and sealed."""

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from mct_quantizers.common.untrusted import check_size, parse_json

__all__ = [
    "CHECKSUM_KEY",
    "FORMAT_KEY",
    "FORMAT_VERSION_KEY",
    "FROZEN_FORMAT",
    "UNSEALED",
    "check_seal",
    "check_tensor_bytes",
    "check_writable",
    "describe",
    "is_safetensors",
    "read_metadata",
    "read_tensors",
    "reproducible",
    "seal",
    "write_atomically",
]

FORMAT_KEY = "format"
FORMAT_VERSION_KEY = "format_version"
CHECKSUM_KEY = "checksum"

FROZEN_FORMAT = "quantizers-infrastructure.frozen-model"
"""What `model_compression_toolkit` writes: packed integers and a plan."""

UNSEALED = "0" * 64
"""The checksum in the metadata of a content that `seal` has not completed yet."""

MAX_HEADER_BYTES = 100_000_000
"""Readers of the format refuse a longer header; older versions of the library write it."""


def check_writable(path: str | Path, name: str = "path") -> Path:
    """The file that writing to `path` makes or replaces; links are followed. Call it before long work.

    Args:
        path: the file.
        name: the argument that gave it, for the text of errors.

    Raises:
        FileNotFoundError: the folder does not exist.
        NotADirectoryError: the parent is no folder.
        IsADirectoryError: `path` is a folder.
        PermissionError: the folder cannot be written to.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"`{name}` must name a file. Received the folder: {target}")
    if not target.parent.exists():
        raise FileNotFoundError(f"The folder of `{name}` must exist. Received: {target}, without {target.parent}")
    if not target.parent.is_dir():
        raise NotADirectoryError(f"`{name}` must lie in a folder. Received: {target}, where {target.parent} is a file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"The folder of `{name}` must be writable. Received: {target}")
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


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a .safetensors file does: the length of a header in eight bytes, then the header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def describe(path: Path) -> str:
    """What a file that is no .safetensors file seems to be."""
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) < 9:
        return f"a file of {len(start)} bytes"
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive, such as `torch.save` writes"
    if start[0] == 0x80 and start[1] in range(2, 6):
        return "a pickle, such as `torch.save` of old versions writes"
    return "a file of an unknown format"


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors file, empty where it has none.

    Raises:
        ValueError: the file is not whole.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise _not_whole(path, error) from error
    return metadata


def read_tensors(path: Path, framework: str) -> dict[str, Any]:
    """All tensors of a .safetensors file.

    Args:
        path: the file.
        framework: whose tensors: `np` or `pt`.

    Raises:
        ValueError: the file is not whole.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, framework=framework) as file:
            return {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise _not_whole(path, error) from error


def check_tensor_bytes(path: Path, allowed: int, what: str) -> None:
    """The tensors of a .safetensors file take not more bytes than what is read from it can need.

    Args:
        path: the file, in which a header was found.
        allowed: bytes.
        what: what sets the limit, for the text of the error.

    Raises:
        ValueError: they take more.
    """
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    check_size(path, header + allowed, what)


def reproducible(content: bytes) -> bytes:
    """The same .safetensors file with its metadata in a fixed order: the library writes them in another every time.

    Raises:
        ValueError: the header is longer than the format allows.
    """
    start = _start_of_tensors(content)
    header = parse_json(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors start at a multiple of eight.
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(
            f"The names and configurations of a model must take at most {MAX_HEADER_BYTES:,} bytes in a file. "
            f"Received: {len(text):,}"
        )
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[start:]))


def seal(content: bytes) -> bytes:
    """The same .safetensors file with the checksum of all other bytes in its metadata, where `UNSEALED` stood."""
    start = _start_of_tensors(content)
    digest = hashlib.sha256(content).hexdigest()
    return b"".join((content[:start].replace(_entry(UNSEALED), _entry(digest), 1), memoryview(content)[start:]))


def check_seal(path: Path, checksum: str | None) -> None:
    """The file is, byte by byte, what `seal` made. This finds damage; who means harm can write a new checksum.

    Args:
        path: the file, in which a header was found.
        checksum: what its metadata say.

    Raises:
        ValueError: it is not.
    """
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        digest = hashlib.sha256(length + header.replace(_entry(str(checksum)), _entry(UNSEALED), 1))
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != checksum:
        raise ValueError(f"The file {path} is damaged: it was changed after it was written")


def _entry(checksum: str) -> bytes:
    return f'"{CHECKSUM_KEY}":"{checksum}"'.encode()


def _start_of_tensors(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _not_whole(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(f"Expected a whole .safetensors file. Received: {path} ({error})")

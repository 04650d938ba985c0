# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The file formats."""

from enum import StrEnum
from pathlib import Path

__all__ = ["ExportFormat", "format_of"]


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

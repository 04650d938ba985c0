# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The file formats."""

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path

__all__ = ["ExportFormat", "format_of"]


class ExportFormat(StrEnum):
    """What a quantized model is written as."""

    ONNX = "onnx"
    """Standard ONNX with QuantizeLinear and DequantizeLinear: runs without this package."""
    SAFETENSORS = "safetensors"
    """Of PyTorch models: packed integers and the plan; loads back into the float architecture."""
    LITERT = "tflite"
    """Of Keras models: LiteRT with 8-bit integers; runs without this package."""
    KERAS = "keras"
    """Of Keras models: the model itself; `keras_load_quantized_model` loads it."""


def format_of(path: str | Path, allowed: Collection[ExportFormat] = tuple(ExportFormat)) -> ExportFormat:
    """The format that the suffix of `path` names.

    Args:
        path: a file.
        allowed: the formats that make sense here.

    Raises:
        ValueError: another suffix; the text lists those that are allowed.
    """
    suffixes = {f".{member.value}": member for member in allowed}
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"`path` must end with one of {list(suffixes)}. Received: {str(path)!r}")
    return suffixes[suffix]

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The words of the interface's export functions, and which of their combinations this version writes."""

from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from model_compression_toolkit.exporter.common.format import ExportFormat, format_of

__all__ = [
    "KerasExportSerializationFormat",
    "PytorchExportSerializationFormat",
    "QuantizationFormat",
    "check_combination",
    "check_suffix",
]


class PytorchExportSerializationFormat(Enum):
    """What kind of file `pytorch_export_model` writes."""

    TORCHSCRIPT = 0
    """A traced module: `torch.jit.load` reads it without this package."""
    ONNX = 1
    """An .onnx file."""


class KerasExportSerializationFormat(Enum):
    """What kind of file `keras_export_model` writes."""

    KERAS = 0
    """A .keras file."""
    TFLITE = 1
    """A .tflite file."""


class QuantizationFormat(Enum):
    """How quantization stands in an exported file."""

    FAKELY_QUANT = 0
    """Quantized values as floating-point numbers."""
    INT8 = 1
    """Integers of 8 bits."""
    MCTQ = 2
    """The quantizers of `mct_quantizers`: its layers, or its operators in ONNX."""


def check_combination(
    serialization_format: Any, quantization_format: Any, allowed: Mapping[Any, Collection[QuantizationFormat]]
) -> None:
    """Both formats are members of their enumerations, and this version writes one as the other.

    Args:
        serialization_format: the kind of file.
        quantization_format: how quantization stands in it.
        allowed: the quantization formats of each kind of file.

    Raises:
        TypeError: no member of the enumeration.
        ValueError: a combination that this version does not write.
    """
    kinds = type(next(iter(allowed)))
    for name, value, enum in (
        ("serialization_format", serialization_format, kinds),
        ("quantization_format", quantization_format, QuantizationFormat),
    ):
        if not isinstance(value, enum):
            raise TypeError(f"`{name}` must be a {enum.__name__}. Received: {name}={value!r}")
    if quantization_format not in allowed[serialization_format]:
        pairs = [f"{kind.name} as {form.name}" for kind, forms in allowed.items() for form in forms]
        raise ValueError(
            f"`serialization_format` and `quantization_format` must be one of: {', '.join(pairs)}. "
            f"Received: {serialization_format.name} as {quantization_format.name}"
        )


def check_suffix(save_model_path: str | Path, file_format: ExportFormat) -> Path:
    """The path, which ends as files of its format do.

    Raises:
        ValueError: another suffix.
    """
    format_of(save_model_path, (file_format,))
    return Path(save_model_path)

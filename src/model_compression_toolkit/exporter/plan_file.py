# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Read the quantization plan of any file that this package wrote."""

from pathlib import Path

from mct_quantizers._lazy import import_optional
from mct_quantizers.common.untrusted import check_is_file, check_size
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.exporter.common.format import ExportFormat, format_of
from model_compression_toolkit.exporter.common.inspect import (
    FileInfo,
    info_of,
    plan_of_metadata,
    read_safetensors_plan,
)

__all__ = ["read_plan"]

_MAX_ONNX_BYTES = 2**31


def read_plan(path: str | Path) -> tuple[QuantizationPlan, FileInfo]:
    """The plan that an exported file carries, and what the file says of itself; needs no model and runs nothing.

    Args:
        path: a .onnx or .safetensors file that `export` or `save_frozen` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: another suffix; a file that is truncated, damaged, foreign or of another version.
        ImportError: onnx is not installed and the file is .onnx.
    """
    path = Path(path)
    if format_of(path, (ExportFormat.ONNX, ExportFormat.SAFETENSORS)) is ExportFormat.SAFETENSORS:
        return read_safetensors_plan(path)
    metadata = _onnx_metadata(path)
    return plan_of_metadata(metadata, path), info_of(path, ExportFormat.ONNX, metadata)


def _onnx_metadata(path: Path) -> dict[str, str]:
    onnx = import_optional("onnx", needed_by="read_plan")
    check_is_file(path)
    check_size(path, _MAX_ONNX_BYTES, "a file that protobuf can hold")
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf's error belongs to the implementation that is installed
        raise ValueError(f"Expected a whole .onnx file. Received: {path} ({error})") from error
    return {item.key: item.value for item in model.metadata_props}

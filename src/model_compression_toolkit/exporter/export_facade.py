# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Write a frozen model of any framework to a file, and prove that the file computes what the model computes."""

from pathlib import Path
from typing import Any

from mct_quantizers.common.files import check_writable
from model_compression_toolkit.core.common.framework import wing_module
from model_compression_toolkit.exporter.common.export_report import ExportReport
from model_compression_toolkit.exporter.common.format import format_of

_WING = "model_compression_toolkit.exporter.{}.export_facade"


def export(model: Any, path: str | Path, example: Any = None, verify: Any = None, quiet: bool = False) -> ExportReport:
    """Write a frozen model to a file, and compare the file with the model.

    Args:
        model: a model that `quantize` or `finalize` returned; it is not changed.
        path: where to write; the suffix tells the format: .onnx (standard ONNX, runs without this package); of PyTorch
            models .safetensors (packed integers, loads back into the float architecture); of Keras models .tflite
            (LiteRT, 8-bit integers, runs without this package; on the TensorFlow backend) or .keras.
        example: inputs as for calibration, of which the first batch is used; .onnx of a PyTorch model needs it where
            `verify` is not given.
        verify: inputs as for calibration, on all of which file and model are compared; a .keras file is loaded for it.
            For .safetensors the integers of the weights are read back and compared, on no inputs.
        quiet: whether to print nothing.

    Returns:
        What was written; `parity` holds the comparison where `verify` was given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: another suffix; a model that is not frozen or cannot be exported; unusable inputs.
        OSError: the file cannot be written; what was there before stays.
        ParityError: `verify` was given, and file and model differ; the file stays, the error has the report.
        ImportError: what the format needs is not installed.
    """
    format_of(path)
    check_writable(path)
    report: ExportReport = wing_module(model, _WING).export(model, path, example, verify, quiet)
    return report


def load(path: str | Path, model: Any) -> Any:
    """Restore a frozen PyTorch model from a .safetensors file.

    A Keras model is restored from its .keras file by `keras_load_quantized_model`.

    Args:
        path: the file that `export` or `save_frozen` wrote.
        model: the float architecture; it is not changed.

    Raises:
        TypeError: `model` is no model.
        ValueError: a file that is truncated, damaged, foreign or of another version, or does not fit `model`; a Keras
            model.
        OSError: the file cannot be read.
    """
    return wing_module(model, _WING).load(path, model)

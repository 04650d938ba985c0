# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Write a frozen Keras model to a file, and prove that the file computes what the model computes."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import keras

from mct_quantizers._lazy import import_optional
from mct_quantizers.common.files import check_writable, write_atomically
from model_compression_toolkit.core.common.progress import working
from model_compression_toolkit.core.keras.data import batches_of
from model_compression_toolkit.core.keras.layerwise_model import LayerwiseModel
from model_compression_toolkit.core.keras.surgery import names_of, plan_of, quantizer_of
from model_compression_toolkit.exporter.common.export_report import ExportReport, finish
from model_compression_toolkit.exporter.common.format import ExportFormat, format_of
from model_compression_toolkit.exporter.common.parity import ParityReport
from model_compression_toolkit.exporter.keras.frozen_parity import compare_keras

__all__ = ["export", "load"]

FORMATS = (ExportFormat.ONNX, ExportFormat.LITERT, ExportFormat.KERAS)
_ROOM = "model_compression_toolkit.exporter.keras"


def export(
    model: keras.Model, path: str | Path, example: Any = None, verify: Any = None, quiet: bool = False
) -> ExportReport:
    """Write a frozen model to a file, and compare the file with the model.

    Args:
        model: a model that `quantize` or `finalize` returned; it is not changed.
        path: where to write; the suffix tells the format: .onnx (standard ONNX), .tflite (LiteRT, 8-bit integers; on
            the TensorFlow backend) or .keras (the model itself).
        example: not needed; the shapes of a Keras model are known.
        verify: inputs as for calibration, on all of which file and model are compared; a .keras file is loaded for it.
        quiet: whether to print nothing.

    Returns:
        What was written; `parity` holds the comparison where `verify` was given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: another suffix; a model that is not frozen or cannot be exported; unusable inputs; another backend
            than the format needs.
        OSError: the file cannot be written; what was there before stays.
        ParityError: `verify` was given, and file and model differ; the file stays, the error has the report.
        ImportError: what the format needs is not installed.
    """
    del example
    file_format = format_of(path, FORMATS)
    target = check_writable(path)
    check_frozen(model)
    if isinstance(model, LayerwiseModel) and file_format is not ExportFormat.KERAS:
        raise ValueError(
            f"`path` must end with .keras for this model, whose own code computes it. Received: {target.name}. Other "
            f"formats need a graph of calls: {'; '.join(plan_of(model).notes)}"
        )
    notes: list[str] = []
    write = _write_keras if file_format is ExportFormat.KERAS else _write
    parity = write(model, target, file_format, verify, notes)
    report = ExportReport(target, file_format, target.stat().st_size, tuple(notes), parity)
    return finish(report, quiet)


def load(path: str | Path, model: keras.Model) -> keras.Model:
    """Not for Keras models, whose files need no architecture.

    Raises:
        ValueError: always; it says what to use.
    """
    raise ValueError(
        f"`model` must be a torch.nn.Module. Received: {type(model).__name__}. A Keras model is in its .keras file: "
        f"keras_load_quantized_model({str(path)!r})"
    )


def check_frozen(model: keras.Model) -> None:
    """A model that is quantized and not in training any more.

    Raises:
        ValueError: it is not.
    """
    for tensor in plan_of(model).quantized():
        if callable(getattr(quantizer_of(model, tensor), "convert2inferable", None)):
            raise ValueError("`model` is still in quantization-aware training: `finalize` it first.")


def _write(
    model: keras.Model, target: Path, file_format: ExportFormat, verify: Any, notes: list[str]
) -> ParityReport | None:
    name = "onnx" if file_format is ExportFormat.ONNX else "litert"
    needed_by = f"export to .{file_format.value}"
    exporter = import_optional(f"{_ROOM}.{name}_export", needed_by=needed_by)
    batches = None
    if verify is not None:
        # Before the work, so that a missing engine and unusable inputs are told at once.
        parity = import_optional(f"{_ROOM}.{name}_parity", needed_by=f"{needed_by} with verify")
        batches = batches_of(verify)
    with working(f"Exporting to {'ONNX' if name == 'onnx' else 'LiteRT'}"):
        if file_format is ExportFormat.ONNX:
            content = exporter.export_onnx(model, plan_of(model)).SerializeToString()
        else:
            content = exporter.export_litert(model, notes)
    write_atomically(target, lambda file: file.write(content))
    if batches is None:
        return None
    compared: ParityReport = getattr(parity, f"compare_{name}")(model, target, batches)
    return _by_plan_names(compared, model)


def _write_keras(
    model: keras.Model, target: Path, file_format: ExportFormat, verify: Any, notes: list[str]
) -> ParityReport | None:
    del file_format, notes
    batches = None if verify is None else batches_of(verify)
    content = _keras_content(model)
    write_atomically(target, lambda file: file.write(content))
    return None if batches is None else compare_keras(model, target, batches)


def _by_plan_names(report: ParityReport, model: keras.Model) -> ParityReport:
    """The report with the names of the plan instead of those of the layers that stand for its tensors."""
    names, known = names_of(model), {}
    for tensor in plan_of(model).quantized():
        layer = names[tensor.name]
        known[f"{layer}.{tensor.site.tensor}" if tensor.is_weight else layer] = tensor.name
    tensors = [dataclasses.replace(tensor, name=known.get(tensor.name, tensor.name)) for tensor in report.tensors]
    return dataclasses.replace(report, tensors=tuple(tensors))


def _keras_content(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        return path.read_bytes()

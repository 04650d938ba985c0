# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Write a frozen PyTorch model to a file, prove that the file computes what the model computes, load it back."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch import nn

from mct_quantizers._lazy import import_optional
from mct_quantizers.common.files import check_writable, write_atomically
from model_compression_toolkit.core.common.progress import working
from model_compression_toolkit.core.pytorch.arguments import positional_batch
from model_compression_toolkit.core.pytorch.data import Batch, batches_of
from model_compression_toolkit.core.pytorch.unwrapping import unwrapped
from model_compression_toolkit.exporter.common.export_report import ExportReport, finish
from model_compression_toolkit.exporter.common.format import ExportFormat, format_of
from model_compression_toolkit.exporter.common.parity import ParityReport
from model_compression_toolkit.exporter.pytorch.frozen import frozen_plan
from model_compression_toolkit.exporter.pytorch.frozen_model import load_frozen, save_frozen
from model_compression_toolkit.exporter.pytorch.frozen_parity import compare_frozen

__all__ = ["export", "load"]

FORMATS = (ExportFormat.ONNX, ExportFormat.SAFETENSORS)
_PEEKED = 2
"""Batches of `verify` that are looked at for axes of several sizes."""
_ROOM = "model_compression_toolkit.exporter.pytorch"


def export(
    model: nn.Module, path: str | Path, example: Any = None, verify: Any = None, quiet: bool = False
) -> ExportReport:
    """Write a frozen model to a file, and compare the file with the model.

    Args:
        model: a model that `quantize` or `finalize` returned, also inside of DistributedDataParallel, DataParallel,
            AveragedModel or `torch.compile`; it is not changed.
        path: where to write; the suffix tells the format: .onnx (standard ONNX, runs without this package) or
            .safetensors (packed integers, loads back into the float architecture).
        example: inputs as for calibration, of which the first batch is used; .onnx needs it where `verify` is not
            given. In .onnx the batch size is open, and so are axes whose sizes differ between this batch and the first
            two of `verify`, where the model works with several sizes.
        verify: inputs as for calibration, on all of which file and model are compared. For .safetensors the integers of
            the weights are read back and compared, on no inputs.
        quiet: whether to print nothing.

    Returns:
        What was written; `parity` holds the comparison where `verify` was given.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: another suffix; a model that is not frozen or cannot be exported, as one with a quantizer of the
            user's own that has neither grid nor table cannot be to .safetensors; unusable inputs.
        OSError: the file cannot be written; what was there before stays.
        ParityError: `verify` was given, and file and model differ; the file stays, the error has the report.
        ImportError: onnx or onnxruntime is not installed and the file is .onnx.
    """
    file_format = format_of(path, FORMATS)
    target = check_writable(path)
    model = unwrapped(model)
    frozen_plan(model)
    if file_format is ExportFormat.ONNX:
        notes, parity = _export_onnx(model, target, example, verify)
    else:
        save_frozen(model, target)
        notes, parity = (), None if verify is None else compare_frozen(model, target)
    report = ExportReport(target, file_format, target.stat().st_size, notes, parity)
    return finish(report, quiet)


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Restore a frozen model from a .safetensors file; see `load_frozen`.

    Args:
        path: the file that `export` or `save_frozen` wrote.
        model: the float architecture; it is not changed.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: a file that is truncated, damaged, foreign or of another version, or does not fit `model`.
        OSError: the file cannot be read.
    """
    return load_frozen(path, model)


def _export_onnx(
    model: nn.Module, target: Path, example: Any, verify: Any
) -> tuple[tuple[str, ...], ParityReport | None]:
    exporter = import_optional(f"{_ROOM}.onnx_export", needed_by="export to .onnx")
    if example is None and verify is None:
        raise ValueError("Export to .onnx needs inputs: give `example`, or `verify` to compare as well.")
    batches: Iterator[Batch] | None = None
    if verify is not None:
        # Before the work, so that a missing engine is told at once.
        parity = import_optional(f"{_ROOM}.parity", needed_by="export with verify")
        batches = (positional_batch(model, batch) for batch in batches_of(verify))
    seen = [] if batches is None else list(islice(batches, _PEEKED))
    batches = None if batches is None else chain(seen, batches)
    given = [] if example is None else [positional_batch(model, next(batches_of(example)))]
    first, *others = [*given, *seen]
    with working("Exporting to ONNX"):
        exported = exporter.export_onnx(model, first, others)
        content = exported.model.SerializeToString()
    write_atomically(target, lambda file: file.write(content))
    return exported.notes, None if batches is None else parity.compare_onnx(model, target, batches)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`pytorch_export_model`: export of PyTorch models under the name and arguments of the interface."""

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mct_quantizers._lazy import import_optional
from mct_quantizers.common.files import check_writable, write_atomically
from mct_quantizers.pytorch.copying import copy_of
from mct_quantizers.pytorch.metadata import add_onnx_metadata, get_metadata
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from model_compression_toolkit.core.common.interface import refuse_unsupported
from model_compression_toolkit.core.pytorch.arguments import positional_batch
from model_compression_toolkit.core.pytorch.data import Batch, batches_of
from model_compression_toolkit.core.pytorch.unwrapping import unwrapped
from model_compression_toolkit.exporter.common.format import ExportFormat
from model_compression_toolkit.exporter.common.serialization import (
    PytorchExportSerializationFormat,
    QuantizationFormat,
    check_combination,
    check_suffix,
)
from model_compression_toolkit.exporter.pytorch.export_facade import export
from model_compression_toolkit.exporter.pytorch.frozen import frozen_plan

__all__ = ["pytorch_export_model"]

_ONNX, _TORCHSCRIPT = PytorchExportSerializationFormat.ONNX, PytorchExportSerializationFormat.TORCHSCRIPT
_ALLOWED = {
    _ONNX: (QuantizationFormat.MCTQ, QuantizationFormat.FAKELY_QUANT),
    _TORCHSCRIPT: (QuantizationFormat.FAKELY_QUANT,),
}
_DEFAULT_OPSET = 20


def pytorch_export_model(
    model: nn.Module,
    save_model_path: str | Path,
    repr_dataset: Callable[[], Any],
    is_layer_exportable_fn: Any = None,
    serialization_format: PytorchExportSerializationFormat = PytorchExportSerializationFormat.ONNX,
    quantization_format: QuantizationFormat = QuantizationFormat.MCTQ,
    onnx_opset_version: int = _DEFAULT_OPSET,
    output_names: Sequence[str] | None = None,
) -> None:
    """Write a frozen PyTorch model to a file, under the name and arguments of the interface.

    | serialization | quantization | what is written |
    |---|---|---|
    | `ONNX` | `MCTQ` | the operators of `mct_quantizers`; run it with `mct_quantizers.get_ort_session_options()` |
    | `ONNX` | `FAKELY_QUANT` | standard ONNX as `mct.export` writes it: opset 21, integers and their scales |
    | `TORCHSCRIPT` | `FAKELY_QUANT` | a traced module; its layers hold the quantized weights |

    Args:
        model: a model that `quantize`, `finalize` or a facade of the interface returned; it is not changed.
        save_model_path: where to write; .onnx for ONNX, any name for TorchScript.
        repr_dataset: function that returns an iterable of batches; the first is the example.
        is_layer_exportable_fn: must be None: every layer is exportable.
        serialization_format: ONNX or TorchScript.
        quantization_format: how quantization stands in the file.
        onnx_opset_version: of ONNX with `MCTQ`; with `FAKELY_QUANT` it must be 20 (the default) or 21.
        output_names: names of the outputs in ONNX with `MCTQ`; otherwise it must be None.

    Raises:
        NotImplementedError: an argument that is not supported.
        TypeError: an argument of the wrong type.
        ValueError: a combination of formats that is not written; a model that is not frozen; another number of
            output names than outputs.
        OSError: the file cannot be written; what was there before stays.

    Example:
        >>> import torch, model_compression_toolkit as mct
        >>> quantized = mct.quantize(torch.nn.Linear(4, 2), torch.rand(32, 4))
        >>> mct.exporter.pytorch_export_model(quantized, "model.onnx", lambda: [[torch.rand(1, 4)]])  # doctest: +SKIP
    """
    refuse_unsupported(is_layer_exportable_fn=is_layer_exportable_fn)
    check_combination(serialization_format, quantization_format, _ALLOWED)
    if serialization_format is _ONNX:
        check_suffix(save_model_path, ExportFormat.ONNX)
    target = check_writable(save_model_path)
    model = unwrapped(model)
    frozen_plan(model)
    example = positional_batch(model, next(batches_of(repr_dataset)))
    if quantization_format is QuantizationFormat.MCTQ:
        _write_operators(model, target, example, onnx_opset_version, output_names)
        return
    refuse_unsupported(output_names=output_names)
    if serialization_format is _TORCHSCRIPT:
        _write_torchscript(model, target, example)
        return
    if onnx_opset_version not in (_DEFAULT_OPSET, 21):
        raise ValueError(
            "`onnx_opset_version` must be 21 for FAKELY_QUANT, whose integers need it. "
            f"Received: onnx_opset_version={onnx_opset_version!r}"
        )
    export(model, target, example=[example], quiet=True)


def _write_operators(
    model: nn.Module, target: Path, example: Batch, opset: int, output_names: Sequence[str] | None
) -> None:
    onnx = import_optional("onnx", needed_by="export to .onnx")
    copied = copy_of(model).eval()
    for part in copied.modules():
        if isinstance(part, BasePyTorchInferableQuantizer):
            part.enable_custom_impl()
    with torch.no_grad():
        outputs = copied(*example)
    count = len(outputs) if isinstance(outputs, (list, tuple)) else 1
    names = _names("output", count) if output_names is None else list(output_names)
    if len(names) != count:
        raise ValueError(f"`output_names` must have {count} names, one for each output. Received: {output_names!r}")
    inputs = _names("input", len(example))
    # The dictionary of the exporter that names axes: the first axis of each tensor is the batch.
    axes = {name: {0: "batch_size"} for name in (*inputs, *names)}

    content = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that names axes is the older one, which warns of its age and of constants.
        warnings.simplefilter("ignore")
        write: Any = torch.onnx.export  # its types leave out the files in memory that it writes to
        write(
            copied,
            tuple(example),
            content,
            dynamo=False,
            opset_version=opset,
            input_names=inputs,
            output_names=names,
            dynamic_axes=axes,
        )
    stored = onnx.load_from_string(content.getvalue())
    if get_metadata(model):
        stored = add_onnx_metadata(stored, get_metadata(model))
    write_atomically(target, lambda file: file.write(stored.SerializeToString()))


def _names(base: str, count: int) -> list[str]:
    return [base] if count == 1 else [f"{base}_{index}" for index in range(count)]


def _write_torchscript(model: nn.Module, target: Path, example: Batch) -> None:
    plain = _with_quantized_weights(copy_of(model).eval())
    with warnings.catch_warnings(), torch.no_grad():
        # Shapes that the quantizers check are constants of the trace.
        warnings.simplefilter("ignore")
        trace: Any = torch.jit.trace  # torch has no types here
        traced = trace(plain, tuple(example))
        write_atomically(target, lambda file: torch.jit.save(traced, file))


def _with_quantized_weights(model: nn.Module) -> nn.Module:
    """The model with each wrapper of named weights replaced by its layer, which holds the quantized values."""
    for path, module in list(model.named_modules()):
        if not isinstance(module, PytorchQuantizationWrapper):
            continue
        values = module.get_quantized_weights()
        if not isinstance(module.layer, nn.Module) or not all(isinstance(key, str) for key in values):
            continue
        for name, value in values.items():
            module.layer.register_parameter(str(name), nn.Parameter(value.detach(), requires_grad=False))
        model.set_submodule(path, module.layer)
    return model

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A frozen model as standard ONNX: a copy marks its quantized tensors, torch exports it, the marks are rewritten."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass
from torch import Tensor, nn

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.capture import run_model
from model_compression_toolkit.core.pytorch.data import Batch
from model_compression_toolkit.core.pytorch.surgery import quantizer_of, replace_quantizer
from model_compression_toolkit.exporter.common.inspect import plan_metadata
from model_compression_toolkit.exporter.onnx_biases import separate_biases
from model_compression_toolkit.exporter.pytorch.frozen import (
    float32_copy,
    frozen_plan,
    own_quantized,
    replace_quantizers,
)
from model_compression_toolkit.exporter.pytorch.onnx_graph import check_domains, rewrite_marks
from model_compression_toolkit.exporter.pytorch.onnx_marks import MarkedQuantizer, marked, translations
from model_compression_toolkit.exporter.pytorch.onnx_names import (
    axis_names,
    input_names,
    name_outputs,
    open_axes,
    output_names,
)

__all__ = ["OPSET", "OnnxExport", "export_onnx"]

OPSET = 21
"""The first with QuantizeLinear and DequantizeLinear of 4 and 16 bits."""


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """An exported model.

    Attributes:
        model: the checked ONNX model.
        notes: what a reader should know, such as a batch size that is fixed.
    """

    model: onnx.ModelProto
    notes: tuple[str, ...]


def export_onnx(model: nn.Module, example: Batch, others: Sequence[Batch] = ()) -> OnnxExport:
    """Export a frozen model to standard ONNX, opset 21, without custom operators.

    Weights become INT4, INT8 or INT16 (or unsigned) initializers with the codes of the NumPy reference, activations
    UINT8 or UINT16. A weight on the levels of a table becomes a UINT4 or UINT8 initializer of indices and the table; an
    activation on them a search among the boundaries of the levels. Where a value is NaN, ONNX Runtime gives the lowest
    code or level. What quantizers of the user's own make, which have neither, is told in the notes: of a weight the
    float32 values, of an activation the operations of the quantizer's call.

    Args:
        model: a model that `quantize` or `finalize` returned, on any device, of any floating dtype; it is not changed.
        example: one batch of its inputs; axes keep their sizes, but the first and those that differ in `others`.
        others: more batches.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: the model is not frozen, does not take the example, or cannot be exported.
    """
    plan = frozen_plan(model)
    own = own_quantized(plan)
    copied = replace_quantizers(float32_copy(model, plan), (t for t in plan.quantized() if t not in own), marked)
    for tensor in own:
        replace_quantizer(copied, tensor, MarkedQuantizer(tensor, quantizer_of(copied, tensor)).eval())
    example = tuple(item.detach().cpu().float() if item.is_floating_point() else item.cpu() for item in example)
    outputs = output_names(run_model(copied, example))
    names = input_names(copied, len(example))
    notes = (*map(_note, own), *_needs(plan))
    axes, exported = open_axes([example, *others]), None
    if any(of_input - {0} for of_input in axes):
        exported = _export_dynamic(copied, example, names, axes)
        if exported is None:
            axes = [of_input & {0} for of_input in axes]
            notes = (*notes, "only the batch size is open, because the model works with one size of other axes only")
    if exported is None:
        exported = _export_dynamic(copied, example, names, axes)
    if exported is None:
        size = next((item.shape[0] for item in example if item.dim()), 1)
        notes = (*notes, f"the batch size is fixed to {size}, because the model works with one size only")
        exported = _export_fixed(copied, example, names, plan)
    try:
        return OnnxExport(_finished(exported, plan, outputs), notes)
    except ValueError:
        _check_own_quantizers(copied, example, plan)
        raise


def _export_dynamic(
    model: nn.Module, example: Batch, names: list[str], open_sizes: Sequence[set[int]]
) -> ir.Model | None:
    """The exported model with open axes; None where it works with one size of any of them only."""
    for axis in sorted({axis for axes in open_sizes for axis in axes}):
        # torch takes a size of 1 for a constant.
        example = tuple(
            torch.cat([x, x], axis) if axis in axes and x.shape[axis] == 1 else x
            for x, axes in zip(example, open_sizes, strict=True)
        )
    shapes = tuple(dict.fromkeys(sorted(axes), torch.export.Dim.AUTO) or None for axes in open_sizes)
    try:
        program = _torch_export(model, example, names, shapes)
    except Exception:  # the exporter runs the user's code, which may raise anything; the fixed export gives the reason
        return None
    # Dim.AUTO declares an axis open even where the network works with one size of it only.
    if any(sizes.is_singleton() for sizes in program.exported_program.range_constraints.values()):
        return None
    inputs = program.model.graph.inputs
    if any(isinstance(value.shape[axis], int) for value, axes in zip(inputs, open_sizes, strict=True) for axis in axes):
        return None
    program.rename_axes(axis_names(inputs, open_sizes))
    result: ir.Model = program.model
    return result


def _export_fixed(model: nn.Module, example: Batch, names: list[str], plan: QuantizationPlan) -> ir.Model:
    try:
        result: ir.Model = _torch_export(model, example, names, None).model
    except Exception as error:  # the exporter runs the user's code, which may raise anything
        _check_own_quantizers(model, example, plan)
        raise ValueError(
            "The model cannot be exported to ONNX: its control flow depends on the data, or an operation has no ONNX "
            f"operator. Reason: {_reason(error)}"
        ) from error
    return result


def _note(tensor: TensorPlan) -> str:
    what = "the" if tensor.is_weight else "operations that compute the"
    return f"{tensor.name} is exported as {what} {tensor.reason}"


def _needs(plan: QuantizationPlan) -> Iterator[str]:
    tables = [tensor.params for tensor in plan.quantized(QuantizationTarget.Weights)]
    if any(isinstance(table, LookupTable) and len(np.unique(table.lut_values)) <= 16 for table in tables):
        yield "the file needs ONNX Runtime 1.23 or later, the first that casts the UINT4 indices of tables"


def _check_own_quantizers(model: nn.Module, example: Batch, plan: QuantizationPlan) -> None:
    """Export each activation quantizer of the user's own alone.

    Raises:
        ValueError: one of them cannot be exported.
    """
    inputs: dict[MarkedQuantizer, Tensor] = {}

    def keep_input(module: Any, args: tuple[Tensor]) -> None:
        inputs[module] = args[0].detach().clone()

    own = [module for module in model.modules() if isinstance(module, MarkedQuantizer)]
    hooks = [module.register_forward_pre_hook(keep_input) for module in own]
    run_model(model, example)
    for hook in hooks:
        hook.remove()
    for module, x in inputs.items():
        try:
            alone = _torch_export(module, (x,), ["x"], None).model
            rewrite_marks(alone.graph, plan)
            check_domains(alone)
        except Exception as error:  # as above
            raise ValueError(
                f"{module.tensor.name} cannot be exported to ONNX: the call of its quantizer, of class "
                f"{type(module.quantizer).__name__}, must consist of operations that torch.onnx can export. "
                f"Reason: {_reason(error)}"
            ) from error


def _torch_export(model: nn.Module, example: Batch, names: list[str], shapes: Any) -> Any:
    with torch.no_grad(), _quiet():
        return torch.onnx.export(
            model,
            example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            custom_translation_table=translations(),
            input_names=names,
        )


def _finished(model: ir.Model, plan: QuantizationPlan, outputs: list[str] | None) -> onnx.ModelProto:
    name_outputs(model.graph, outputs)
    rewrite_marks(model.graph, plan)
    grids = [tensor.params for tensor in plan.quantized() if isinstance(tensor.params, QuantParams)]
    RemoveUnusedNodesPass()(model)  # the float weights, too
    RemoveUnusedOpsetsPass()(model)
    check_domains(model)
    for node in model.graph:
        # Stack traces of the machine that exported.
        node.metadata_props.clear()
        node.doc_string = None
    model.metadata_props.clear()
    model.metadata_props.update(plan_metadata(plan))
    proto = ir.to_proto(model)
    if grids:
        separate_biases(proto.graph, of_integers=any(grid.num_bits < 8 for grid in grids))
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    return proto


def _reason(error: BaseException) -> str:
    """First line of the innermost cause: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or ["no text"]
    return f"{type(error).__name__}: {lines[0]}"


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")  # reports that torchvision is missing
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # torch warns of a copy of its own inputs that it makes itself
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        logger.setLevel(level)

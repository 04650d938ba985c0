# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Applies the plan of a file to the float architecture once more."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.pytorch.argument_forms import from_json
from model_compression_toolkit.core.pytorch.arguments import optional_arguments, required_arguments
from model_compression_toolkit.core.pytorch.batch_norm import affine_of, set_bias
from model_compression_toolkit.core.pytorch.capture import Captured, capture
from model_compression_toolkit.core.pytorch.surgery import apply_plan, bypass_layer, fold_batch_norms, wrapper_of
from model_compression_toolkit.ptq.pytorch.quantization_facade import inferable_quantizer

__all__ = ["rebuild"]


def rebuild(model: nn.Module, plan: QuantizationPlan, path: Path) -> nn.Module:
    """The float architecture, quantized by a plan: the structure of the saved model, without its weights.

    Args:
        model: the float architecture; it is not changed.
        plan: the plan of a frozen model.
        path: the file, for the text of errors.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: `model` is quantized already, or the plan does not fit it.
    """
    arguments = _arguments(model, plan, path) if isinstance(model, nn.Module) else {}
    try:
        captured = capture(model, plan.capture, arguments=arguments)
    except ValueError as error:
        raise ValueError(f"`model` cannot be captured as the plan in {path} says. {error}") from error
    try:
        return _apply(captured, plan)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"The plan in {path} does not fit `model`: {error}") from error


def _arguments(model: nn.Module, plan: QuantizationPlan, path: Path) -> dict[str, Any]:
    """What each argument was given as."""
    if not plan.arguments:
        # Plans of earlier releases tell optional arguments only by their tensors.
        listed = [tensor.site.layer for tensor in plan.tensors if tensor.site.type == "input"]
        return required_arguments(model) | {name: Tensor for name in optional_arguments(model) if name in listed}
    try:
        return {name: from_json(values) for name, values in plan.arguments.items()}
    except (LookupError, TypeError) as error:
        raise ValueError(f"The plan in {path} describes arguments of the model in an unknown way: {error}") from error


def _apply(captured: Captured, plan: QuantizationPlan) -> nn.Module:
    # Where a plan lists the output of a batch norm, the batch norm was live when the model was changed: it goes last,
    # so that what stands behind it gets the names that it had.
    listed = {tensor.site.layer for tensor in plan.tensors}
    live = {norm for norm in plan.batch_norms if norm in listed}
    shapes = {norm: affine_of(captured.model.get_submodule(norm))[1].shape for norm in live}
    fold_batch_norms(captured, dict(plan.batch_norms), live)
    model = apply_plan(captured, plan, inferable_quantizer, inferable_quantizer).eval()
    for norm in live:
        bypass_layer(model, norm)
        layer = model.get_submodule(plan.batch_norms[norm])
        inner = layer.layer if isinstance(layer, PytorchQuantizationWrapper) else layer
        # The value is loaded; the structure needs the bias that folding made.
        set_bias(inner, np.zeros(shapes[norm]), like=next(layer.parameters()))
    for tensor in plan.quantized(QuantizationTarget.Weights):
        wrapper = wrapper_of(model, tensor.site.layer)
        weight = wrapper.get_parameter(tensor.site.tensor)
        # A parameter of its own: weights that layers share may have grids that differ.
        own = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        wrapper.register_parameter(tensor.site.tensor, own)
    return model

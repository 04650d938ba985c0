# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What every export takes from a frozen model: its plan as it runs, the integers of its weights, a copy to change."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.quant_params import IntArray, QuantParams
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.surgery import holder_of, plan_of, quantizer_of, wrapper_of


class QuantizerStandIn(BaseInferableQuantizer, nn.Module):
    """Takes the place of a quantizer in a copy of a model.

    Args:
        tensor: the tensor that it quantizes, with parameters.
        call: what happens to a value.
    """

    def __init__(self, tensor: TensorPlan, call: Callable[[Tensor, TensorPlan], Tensor]) -> None:
        super().__init__()
        self.tensor = tensor
        self.call = call

    def forward(self, inputs: Tensor) -> Tensor:
        """What `call` makes of `inputs`."""
        return self.call(inputs, self.tensor)


def frozen_plan(model: nn.Module) -> QuantizationPlan:
    """The plan of a frozen model, with the grids that its quantizers hold now.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: the model is not quantized, is still in quantization-aware training, or has a quantizer without an
            integer grid.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module. Received: {type(model).__name__}")
    plan = plan_of(model)
    params: dict[str, QuantParams] = {}
    for tensor in plan.quantized():
        quantizer = quantizer_of(model, tensor)
        if callable(getattr(quantizer, "convert2inferable", None)):
            raise ValueError("`model` is still in quantization-aware training: `finalize` it first.")
        grid = getattr(quantizer, "params", None)
        if not isinstance(grid, QuantParams):
            raise ValueError(f"The quantizer of {tensor.name} must have an integer grid. Received: {quantizer!r}")
        params[tensor.name] = grid
    if plan.live_batch_norms:
        raise ValueError("`model` still has live batch norms: `finalize` it first.")
    return plan.with_params(params)


def params_of(tensor: TensorPlan) -> QuantParams:
    """The grid of a quantized tensor.

    Raises:
        ValueError: it has none.
    """
    if tensor.params is None:
        raise ValueError(f"{tensor.name} has no parameters: it is not quantized, or not calibrated yet.")
    return tensor.params


def weight_of(model: nn.Module, tensor: TensorPlan) -> nn.Parameter:
    """The float weight of a quantized weight."""
    return wrapper_of(model, tensor.site.layer).get_parameter(tensor.site.tensor)


def weight_codes(model: nn.Module, tensor: TensorPlan) -> IntArray:
    """The integers of a quantized weight by the NumPy reference: int32, shape of the weight.

    Raises:
        ValueError: NaN in the weight.
    """
    weight = weight_of(model, tensor).detach().cpu()
    # NumPy has no bfloat16; half precision is computed in float32 anyway.
    values = (weight.float() if weight.dtype.itemsize < 4 else weight).numpy()
    codes: IntArray = arithmetic.quantize(values, params_of(tensor), numpy_ops)
    return codes


def weight_from_codes(codes: IntArray, params: QuantParams, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values of integers, computed in float32: on the CPU, shape of `codes`."""
    values = arithmetic.dequantize(codes, params, numpy_ops, like=np.float32(0))
    return torch.tensor(values).to(dtype)


def export_copy(
    model: nn.Module, plan: QuantizationPlan, call: Callable[[Tensor, TensorPlan], Tensor], weights: bool = True
) -> nn.Module:
    """A copy in float32 on the CPU, in evaluation mode, whose quantizers are replaced.

    Its float weights hold the values of the model's integers, which quantize to the same integers again, so that the
    dtype of the model does not matter.

    Args:
        model: the frozen model; it is not changed.
        plan: its `frozen_plan`.
        call: what the copy does where the model quantizes.
        weights: whether weights are handed to `call`; else they are quantized already.
    """
    codes = {tensor.name: weight_codes(model, tensor) for tensor in plan.quantized() if tensor.is_weight}
    copied = copy.deepcopy(model).to("cpu").float().eval()
    for tensor in plan.quantized():
        if tensor.is_weight:
            wrapper = wrapper_of(copied, tensor.site.layer)
            value = weight_from_codes(codes[tensor.name], params_of(tensor))
            # A parameter of its own: weights that layers share may have grids that differ.
            wrapper.register_parameter(tensor.site.tensor, nn.Parameter(value, requires_grad=False))
            wrapper.set_quantizer(tensor.site.tensor, QuantizerStandIn(tensor, call if weights else _as_it_is))
        else:
            holder_of(copied, tensor).set_quantizer(QuantizerStandIn(tensor, call))
    return copied


def _as_it_is(inputs: Tensor, tensor: TensorPlan) -> Any:
    del tensor
    return inputs

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What every export takes from a frozen model: its plan as it runs, the integers of its weights, a copy to change."""

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import IntArray, QuantParams
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.surgery import plan_of, quantizer_of, replace_quantizer, wrapper_of

TensorCall = Callable[[Tensor, TensorPlan], Tensor]


class QuantizerStandIn(BaseInferableQuantizer, nn.Module):
    """Takes the place of a quantizer in a copy of a model.

    Args:
        tensor: the tensor that it quantizes, with parameters.
        call: what happens to a value.
    """

    def __init__(self, tensor: TensorPlan, call: TensorCall) -> None:
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
    return tensor.calibrated()[1]


def weight_of(model: nn.Module, tensor: TensorPlan) -> nn.Parameter:
    """The float weight of a quantized weight."""
    return wrapper_of(model, tensor.site.layer).get_parameter(tensor.site.tensor)


def weight_codes(model: nn.Module, tensor: TensorPlan) -> IntArray:
    """The integers of a quantized weight by the NumPy reference: int32, shape of the weight.

    Raises:
        ValueError: NaN in the weight.
    """
    return quantize_values(weight_of(model, tensor), params_of(tensor))


def quantize_values(values: Tensor, params: QuantParams) -> IntArray:
    """The integers of a tensor by the NumPy reference, in the dtype of the tensor: int32, its shape."""
    values = values.detach().cpu()
    # NumPy has no bfloat16; half precision is computed in float32 anyway.
    array = (values.float() if values.dtype.itemsize < 4 else values).numpy()
    codes: IntArray = arithmetic.quantize(array, params, numpy_ops)
    return codes


def weight_from_codes(codes: IntArray, params: QuantParams, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values of integers, computed in float32: on the CPU, shape of `codes`."""
    values = arithmetic.dequantize(codes, params, numpy_ops, like=np.float32(0))
    return torch.tensor(values).to(dtype)


def float32_copy(model: nn.Module, plan: QuantizationPlan) -> nn.Module:
    """A copy in float32 on the CPU, in evaluation mode, with the integers of the model whatever the model's dtype is.

    Args:
        model: the frozen model; it is not changed.
        plan: its `frozen_plan`.
    """
    copied = copy.deepcopy(model).to("cpu").float().eval()
    for tensor in plan.quantized(QuantizationTarget.Weights):
        if weight_of(model, tensor).dtype.itemsize > 4:
            # Rounded to float32 a weight could get another integer; the values of its integers keep theirs.
            value = weight_from_codes(weight_codes(model, tensor), params_of(tensor))
            parameter = nn.Parameter(value, requires_grad=False)
            wrapper_of(copied, tensor.site.layer).register_parameter(tensor.site.tensor, parameter)
    return copied


def replace_quantizers(model: nn.Module, tensors: Iterable[TensorPlan], call: TensorCall) -> nn.Module:
    """Make `model` do `call` where it quantized `tensors`; it is changed and returned."""
    for tensor in tensors:
        replace_quantizer(model, tensor, QuantizerStandIn(tensor, call))
    return model

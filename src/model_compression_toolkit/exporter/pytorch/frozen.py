# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What every export takes from a frozen model: its plan as it runs, the integers of its weights, a copy to change."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import IntArray, QuantParams
from mct_quantizers.pytorch.copying import copy_of
from model_compression_toolkit.core.common.quantization_plan import FrozenParams, QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.surgery import plan_of, quantizer_of, replace_quantizer, wrapper_of
from model_compression_toolkit.exporter.common.sorted_table import table_indices, weight_with_indices
from model_compression_toolkit.exporter.pytorch.own_quantizers import FixedValues, values_of

TensorCall = Callable[[Tensor, TensorPlan], Tensor]


class QuantizerStandIn(BaseInferableQuantizer, nn.Module):
    """Takes the place of a quantizer in a copy of a model.

    Args:
        tensor: the tensor that it quantizes.
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
    """The plan of a frozen model, with the grids and tables that its quantizers hold now.

    A tensor that a quantizer of the user's own quantizes, which has neither, has no parameters and a `reason`.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: the model is not quantized, or is still in quantization-aware training.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module. Received: {type(model).__name__}")
    plan = plan_of(model)
    tensors = []
    for tensor in plan.tensors:
        if tensor.config is None:
            tensors.append(tensor)
            continue
        quantizer = quantizer_of(model, tensor)
        if callable(getattr(quantizer, "convert2inferable", None)):
            raise ValueError("`model` is still in quantization-aware training: `finalize` it first.")
        params = getattr(quantizer, "params", None)
        if isinstance(params, (QuantParams, LookupTable)):
            tensors.append(dataclasses.replace(tensor, params=params, reason=""))
        else:
            reason = f"float32 values of {type(quantizer).__name__}, a quantizer of its own without integers"
            tensors.append(dataclasses.replace(tensor, params=None, reason=reason))
    if plan.live_batch_norms:
        raise ValueError("`model` still has live batch norms: `finalize` it first.")
    return dataclasses.replace(plan, tensors=tuple(tensors))


def params_of(tensor: TensorPlan) -> FrozenParams:
    """The grid or table of a quantized tensor.

    Raises:
        ValueError: it has neither.
    """
    if tensor.params is None:
        raise ValueError(f"{tensor.name} has neither a grid nor a table.")
    return tensor.params


def own_quantized(plan: QuantizationPlan) -> tuple[TensorPlan, ...]:
    """The tensors of a frozen model that quantizers of the user's own quantize, without grid or table."""
    return tuple(tensor for tensor in plan.quantized() if tensor.params is None)


def weight_of(model: nn.Module, tensor: TensorPlan) -> nn.Parameter:
    """The float weight of a quantized weight."""
    return wrapper_of(model, tensor.site.layer).get_parameter(tensor.site.tensor)


def weight_codes(model: nn.Module, tensor: TensorPlan) -> IntArray:
    """The integers of a quantized weight, or its indices into the sorted table, by the NumPy reference: int32.

    Raises:
        ValueError: NaN in the weight.
    """
    return quantize_values(weight_of(model, tensor), params_of(tensor))


def quantize_values(values: Tensor, params: FrozenParams) -> IntArray:
    """The integers or indices of a tensor by the NumPy reference, in the dtype of the tensor: int32, its shape."""
    values = values.detach().cpu()
    # NumPy has no bfloat16; half precision is computed in float32 anyway.
    array = (values.float() if values.dtype.itemsize < 4 else values).numpy()
    if isinstance(params, LookupTable):
        return table_indices(array, params)
    codes: IntArray = arithmetic.quantize(array, params, numpy_ops)
    return codes


def weight_from_codes(codes: IntArray, params: FrozenParams, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight that is quantized to these integers or indices, computed in float32: on the CPU, shape of `codes`."""
    if isinstance(params, LookupTable):
        return torch.tensor(weight_with_indices(codes, params), device="cpu").to(dtype)
    values = arithmetic.dequantize(codes, params, numpy_ops, like=np.float32(0))
    return torch.tensor(values, device="cpu").to(dtype)


def own_values(model: nn.Module, tensor: TensorPlan) -> Tensor:
    """What a quantizer of the user's own makes of its weight: float32, on the CPU."""
    return values_of(quantizer_of(model, tensor), weight_of(model, tensor))


def float32_copy(model: nn.Module, plan: QuantizationPlan) -> nn.Module:
    """A copy in float32 on the CPU, in evaluation mode, with the quantized weights of the model whatever its dtype is.

    Args:
        model: the frozen model; it is not changed.
        plan: its `frozen_plan`.
    """
    copied = copy_of(model).to("cpu").float().eval()
    for tensor in plan.quantized(QuantizationTarget.Weights):
        if tensor.params is None:
            replace_quantizer(copied, tensor, FixedValues(own_values(model, tensor)))
        elif weight_of(model, tensor).dtype.itemsize > 4:
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

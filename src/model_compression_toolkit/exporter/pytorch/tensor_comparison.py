# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Compares what a file made of an activation with what the model makes of the same input."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mct_quantizers.common import arithmetic
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.pytorch import ops as torch_ops
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.exporter.common.parity import VALUE_TOLERANCE
from model_compression_toolkit.exporter.common.sorted_table import sorted_table
from model_compression_toolkit.exporter.pytorch.own_quantizers import in_inference

__all__ = ["Difference", "compare_activation", "quantized_by", "values_in_file"]

_ROUNDING = 2.0**-13
"""How far an input may be off by the order of a float sum, relative to the greatest one; see `near_tie_bound`."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How two versions of a quantized tensor differ.

    Attributes:
        num_elements: elements compared.
        num_different: how many of them differ.
        max_steps: greatest difference of integers or indices.
        excess: how far beyond a tie the model's value lies where they differ, in steps; for values how far the file's
            are from all that the model's quantizer gives around its input, relative to the greatest value.
        max_difference: greatest difference of values.
    """

    num_elements: int
    num_different: int = 0
    max_steps: int = 0
    excess: float = 0.0
    max_difference: float = 0.0


def compare_activation(x: Tensor, theirs: Tensor, tensor: TensorPlan, own: Any) -> Difference:
    """Compare what the file has for a use of `tensor` with what the model makes of `x`.

    Args:
        x: the model's value, float32.
        theirs: of the file, as in `Run.quantized`.
        tensor: the plan of the tensor.
        own: its quantizer, where it has neither grid nor table.
    """
    if isinstance(tensor.params, QuantParams):
        return _compare_integers(x, theirs.float(), tensor.params)
    if isinstance(tensor.params, LookupTable):
        return _compare_indices(x, theirs, tensor.params)
    return _compare_values(x, theirs, own)


def values_in_file(theirs: Tensor, tensor: TensorPlan) -> Tensor:
    """The real values that the file computes with, from what it has for a use of `tensor`."""
    if isinstance(tensor.params, QuantParams):
        return theirs.float() * _tensor(tensor.params.scale)
    if isinstance(tensor.params, LookupTable):
        arrays = sorted_table(tensor.params, theirs.dim())
        return torch.from_numpy(arrays.levels)[theirs.long()] * _tensor(arrays.threshold)
    return theirs


def quantized_by(x: Tensor, tensor: TensorPlan, own: Any) -> Tensor:
    """What the model makes of `x`."""
    result: Tensor
    if isinstance(tensor.params, QuantParams):
        result = arithmetic.fake_quantize(x, tensor.params, torch_ops)
    elif isinstance(tensor.params, LookupTable):
        result = arithmetic.lut_quantize(x, tensor.params, torch_ops)
    else:
        result = in_inference(own, x)
    return result


def _compare_integers(x: Tensor, centered: Tensor, params: QuantParams) -> Difference:
    low, high = params.quant_min - int(params.zero_point[0]), params.quant_max - int(params.zero_point[0])
    position = x / _tensor(params.scale)
    # NaN has no code in the file: as far away as can be.
    steps = (position.round().clamp(low, high) - centered).abs().nan_to_num(nan=float(high - low))
    distance = (position.clamp(low, high) - centered).abs().nan_to_num(nan=float(high - low)) - 0.5
    return _difference(steps, distance)


def _compare_indices(x: Tensor, indices: Tensor, table: LookupTable) -> Difference:
    arrays = sorted_table(table, x.dim())
    position = x / _tensor(arrays.divisor)
    boundaries = torch.from_numpy(arrays.boundaries)
    steps = (torch.searchsorted(boundaries, position.contiguous(), right=True) - indices).abs()
    ends = _tensor(np.array([-np.inf, *arrays.boundaries, np.inf]))
    indices = indices.long()
    outside = torch.maximum(ends[indices] - position, position - ends[indices + 1])
    # In steps as wide as those of a grid of as many bits. NaN is as far away as can be.
    distance = (outside * 2.0 ** (table.num_bits - table.signed)).nan_to_num(nan=2.0**table.num_bits)
    return _difference(steps.masked_fill(position.isnan(), len(arrays.levels)), distance)


def _compare_values(x: Tensor, values: Tensor, quantizer: Any) -> Difference:
    finite = x[x.isfinite()]
    rounding = _ROUNDING * float(finite.abs().max()) if finite.numel() else 0.0
    ours, *around = (in_inference(quantizer, x + shift) for shift in (0.0, -rounding, rounding))
    around = [ours, *around]
    magnitude = max(
        float(ours[ours.isfinite()].abs().max()) if ours.isfinite().any() else 0.0, torch.finfo(torch.float32).tiny
    )
    same = (ours == values) | (ours.isnan() & values.isnan())
    gap = _gap(ours, values).masked_fill(same, 0.0)
    low, high = torch.stack(around).amin(0), torch.stack(around).amax(0)
    outside = torch.maximum(low - values, values - high).clamp(min=0.0)
    outside = outside.nan_to_num(nan=torch.inf).masked_fill(same, 0.0) / magnitude
    different = gap > VALUE_TOLERANCE * magnitude
    return Difference(
        num_elements=x.numel(),
        num_different=int(different.sum()),
        excess=float(outside[different].max()) if different.any() else 0.0,
        max_difference=float(gap.max()) if gap.numel() else 0.0,
    )


def _gap(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs().nan_to_num(nan=torch.inf)


def _difference(steps: Tensor, distance: Tensor) -> Difference:
    different = steps > 0
    if not different.any():
        return Difference(steps.numel())
    return Difference(steps.numel(), int(different.sum()), int(steps.max()), float(distance[different].max()))


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device="cpu")

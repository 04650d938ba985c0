# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions on torch tensors that the interface names. Formulas: `mct_quantizers.common.quant_utils`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mct_quantizers.common import arithmetic, quant_utils
from mct_quantizers.pytorch import ops as torch_ops

__all__ = [
    "fix_range_to_include_zero",
    "get_working_device",
    "int_quantization_with_threshold",
    "lut_quantizer",
    "to_torch_tensor",
]


def get_working_device() -> torch.device:
    """CUDA where torch sees a device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_torch_tensor(x: Any) -> Any:
    """`x` on the working device.

    Args:
        x: a tensor, which keeps its dtype; an array, which becomes float32; a float or an int, which becomes a float32
            or int32 tensor of shape (1,); a list or tuple of these.

    Raises:
        TypeError: anything else.
    """
    device = get_working_device()
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, (list, tuple)):
        return type(x)(to_torch_tensor(item) for item in x)
    if isinstance(x, np.ndarray) and ((np.isrealobj(x) and np.issubdtype(x.dtype, np.number)) or x.dtype == bool):
        # A copy: what the caller does to his array later is not ours.
        return torch.tensor(x.astype(np.float32), device=device)
    if isinstance(x, (float, np.floating)):
        return torch.tensor([float(x)], dtype=torch.float32, device=device)
    if isinstance(x, (int, np.integer)):
        return torch.tensor([int(x)], dtype=torch.int32, device=device)
    raise TypeError(
        "`x` must be a tensor, an array of real numbers, a number, or a list or tuple of these. "
        f"Received: {type(x).__name__} {x!r}"
    )


def fix_range_to_include_zero(range_min: Any, range_max: Any, n_bits: int) -> tuple[Tensor, Tensor]:
    """`adjust_range_to_include_zero` for tensors: computed in float64, without a gradient.

    Args:
        range_min: smallest value or values.
        range_max: largest value or values, above `range_min`, of the same shape.
        n_bits: width of the integer, 1 to 16.

    Returns:
        Both ends, float32, shape and device of `range_min`; for plain numbers on the working device.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes differ, or a minimum is not below its maximum.
    """
    ends = quant_utils.adjust_range_to_include_zero(_to_numpy(range_min), _to_numpy(range_max), n_bits)
    device = range_min.device if isinstance(range_min, Tensor) else get_working_device()
    low, high = (torch.tensor(end, dtype=torch.float32, device=device) for end in ends)
    return low, high


def lut_quantizer(
    tensor_data: Tensor,
    lut_values: Any,
    signed: bool,
    threshold: Any,
    lut_values_bitwidth: int,
    eps: float,
    per_channel: bool | None = None,
    channel_axis: int | None = None,
    input_rank: int | None = None,
) -> Tensor:
    """`quant_utils.lut_quantizer_np` for a tensor: same shape, dtype and device, no gradient."""
    levels, thresholds = _to_numpy(lut_values), _to_numpy(threshold)
    axis = quant_utils.threshold_axis(thresholds, tensor_data.dim(), per_channel, channel_axis, input_rank)
    table = quant_utils.lookup_table(levels, signed, thresholds, lut_values_bitwidth, eps, axis)
    result: Tensor = arithmetic.lut_quantize(tensor_data.detach(), table, torch_ops)
    return result


def int_quantization_with_threshold(data: Tensor, n_bits: int, signed: bool, threshold: Any, eps: float) -> Tensor:
    """`quant_utils.int_quantization_with_threshold` for a tensor; differentiable in `data` and a tensor `threshold`."""
    values = torch_ops.to_compute_dtype(data)
    threshold = torch.as_tensor(threshold, dtype=values.dtype, device=values.device)
    result: Tensor = quant_utils.grid_position(values, threshold, n_bits, signed, eps, torch_ops)
    return result


def _to_numpy(value: Any) -> Any:
    """Tensors, on any device and of any dtype, as arrays; other values as they are."""
    return value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The PyTorch twin of the namespace of tensor functions (`mct_quantizers.common.ops.Ops`)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mct_quantizers.common import arithmetic
from mct_quantizers.pytorch import kernels
from mct_quantizers.pytorch.native.memory import is_traced


def check_floating_point(x: Tensor) -> None:
    """`x` holds floating-point numbers.

    Raises:
        TypeError: it does not.
    """
    if not x.is_floating_point():
        raise TypeError(f"Expected a tensor of floating-point numbers. Received: dtype {x.dtype}")


def to_compute_dtype(x: Tensor) -> Tensor:
    """See `Ops.to_compute_dtype`."""
    check_floating_point(x)
    return x.float() if x.dtype.itemsize < 4 else x


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """See `Ops.cast_like`."""
    return x.to(like.dtype)


def to_integer(x: Tensor) -> Tensor:
    """See `Ops.to_integer`."""
    if torch.isnan(x).any():
        raise ValueError("Expected a tensor without NaN: no integer stands for it.")
    return x.to(torch.int32)


def state_tensor(values: npt.NDArray[Any], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of values that is state: on torch's default device, or on the CPU where that one holds no values.

    Args:
        values: an array; a list would get torch's default dtype, which the user may change.
        dtype: that of the array unless it is given.
    """
    device = torch.get_default_device()
    # torch warns of NumPy arrays that cannot be written to: a copy.
    return torch.tensor(values, dtype=dtype, device="cpu" if device.type == "meta" else device)


def constant(value: Any, like: Tensor) -> Tensor:
    """See `Ops.constant`."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    # A copy: torch warns of NumPy arrays that cannot be written to.
    return torch.as_tensor(np.array(value), dtype=dtype, device=like.device)


def shape(x: Tensor) -> Sequence[int]:
    """See `Ops.shape`."""
    return x.shape


def size(x: Tensor) -> int:
    """See `Ops.size`."""
    return x.numel()


def sample_size(x: Tensor) -> int:
    """See `Ops.sample_size`."""
    return math.prod(x.shape[1:])


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """See `Ops.reshape`."""
    return x.reshape(tuple(shape))


def divide(x: Tensor, y: Tensor) -> Tensor:
    """See `Ops.divide`."""
    return torch.div(x, y)


def round(x: Tensor) -> Tensor:
    """See `Ops.round`."""
    return torch.round(x)


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """See `Ops.clip`."""
    return torch.clamp(x, low, high)


def where(condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """See `Ops.where`."""
    return torch.where(condition, x, y)


def absolute(x: Tensor) -> Tensor:
    """See `Ops.absolute`."""
    return torch.abs(x)


def maximum(x: Tensor, low: float) -> Tensor:
    """See `Ops.maximum`."""
    return torch.clamp(x, min=low)


def frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `Ops.frexp`."""
    mantissa, exponent = torch.frexp(x)
    return mantissa, exponent


def search_sorted(boundaries: Tensor, x: Tensor) -> Tensor:
    """See `Ops.search_sorted`."""
    return torch.searchsorted(boundaries, x.contiguous(), right=True, out_int32=True)


def take(values: Tensor, indices: Tensor) -> Tensor:
    """See `Ops.take`."""
    return values.index_select(0, indices.reshape(-1)).view(indices.shape)


def floor(x: Tensor) -> Tensor:
    """See `Ops.floor`."""
    return torch.floor(x)


def exp(x: Tensor) -> Tensor:
    """See `Ops.exp`."""
    return torch.exp(x)


def log(x: Tensor) -> Tensor:
    """See `Ops.log`."""
    return torch.log(x)


def tanh(x: Tensor) -> Tensor:
    """See `Ops.tanh`."""
    return torch.tanh(x)


def sort(x: Tensor) -> Tensor:
    """See `Ops.sort`."""
    return torch.sort(x).values


def total(x: Tensor) -> Tensor:
    """See `Ops.total`."""
    return torch.sum(x)


def largest(x: Tensor, axis: int | None) -> Tensor:
    """See `Ops.largest`."""
    return torch.amax(x, dim=arithmetic.other_axes(x.dim(), axis), keepdim=True)


def scale_gradient_by_error(x: Tensor, error: Tensor, factor: float) -> Tensor:
    """See `Ops.scale_gradient_by_error`."""
    return kernels.scale_gradient_by_error(x, error, factor)


def stop_gradient(x: Tensor) -> Tensor:
    """See `Ops.stop_gradient`."""
    return x.detach()


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, gradient_factor: Any
) -> Tensor:
    """See `Ops.fake_quantize_learned`: fused, one pass forward and one backward."""
    return kernels.fake_quantize_learned(x, scale, zero_point, quant_min, quant_max, gradient_factor)


def is_concrete(x: Tensor) -> bool:
    """Whether `x` holds values that can be kept, and is no stand-in while a function is traced or transformed."""
    return type(x) in (nn.Parameter, Tensor) and not is_traced() and not x.is_inference()


def snapshot(x: Tensor) -> tuple[Tensor, int]:
    """What `is_unchanged` needs to know of `x`, a tensor that `is_concrete`."""
    # On the CPU a copy, so that every change is seen. Elsewhere looking at values would wait for the device: there the
    # version counter of autograd tells, and the alias keeps the memory from being given to another tensor.
    return (x.detach().clone(), 0) if x.device.type == "cpu" else (x.detach(), x._version)


def is_unchanged(x: Tensor, snapshot: tuple[Tensor, int]) -> bool:
    """Whether `x` is as it was at its snapshot."""
    kept, version = snapshot
    if (x.shape, x.dtype, x.device) != (kept.shape, kept.dtype, kept.device):
        return False
    if x.device.type == "cpu":
        return torch.equal(x, kept)
    return x.data_ptr() == kept.data_ptr() and x._version == version

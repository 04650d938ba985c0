# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The native kernels on tensors of torch: which tensors they take, and how these lie in memory."""

import ctypes
import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mct_quantizers.pytorch.native.library import native_library


class NativeCall(NamedTuple):
    """A tensor that the native kernels take, as (outer, channels, inner) in the order of its memory.

    Attributes:
        library: the kernels.
        scale: float32, contiguous, one for each channel.
        zero_point: float32, likewise; None for zero.
        sizes: outer, channels, inner.
    """

    library: ctypes.CDLL
    scale: Tensor
    zero_point: Tensor | None
    sizes: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Self | None:
        """The call for a tensor; None where operators of torch are needed.

        Args:
            x: any tensor.
            scale: broadcasts against `x`.
            zero_point: integers, broadcast against `x`; None for zero.
        """
        # What is traced must be seen as operators.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return None
        if not _is_plain(x) or not _is_plain(scale):
            return None
        sizes = _sizes(x, scale)
        library = None if sizes is None else native_library()
        if library is None or sizes is None:
            return None
        if zero_point is not None:
            if zero_point.device != x.device:
                return None
            zero_point = zero_point.to(torch.float32).expand(scale.shape).contiguous()
        return cls(library, scale.detach().contiguous(), zero_point, sizes)

    def forward(self, x: Tensor, quant_min: int, quant_max: int) -> Tensor:
        """The quantized values: a new tensor that lies as `x`."""
        y = torch.empty_like(x)
        self.library.forward(
            x.data_ptr(), y.data_ptr(), self.scale.data_ptr(), _address(self.zero_point), *self.sizes,
            quant_min, quant_max, torch.get_num_threads(),
        )  # fmt: skip
        return y

    def backward(
        self, x: Tensor, gradient: Tensor, quant_min: int, quant_max: int, needs_x: bool
    ) -> tuple[Tensor | None, Tensor]:
        """The gradients to `x`, None where it is not needed, and to the scale, of its shape."""
        if gradient.stride() != x.stride():
            gradient = torch.empty_like(x).copy_(gradient)
        to_x = torch.empty_like(x) if needs_x else None
        to_scale = torch.empty_like(self.scale)
        sums = torch.empty(self.library.num_sums(*self.sizes), dtype=torch.float32)
        self.library.backward(
            x.data_ptr(), gradient.data_ptr(), _address(to_x), self.scale.data_ptr(), _address(self.zero_point),
            sums.data_ptr(), to_scale.data_ptr(), *self.sizes, quant_min, quant_max, torch.get_num_threads(),
        )  # fmt: skip
        return to_x, to_scale


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _is_plain(x: Tensor) -> bool:
    """Whether memory of float32 numbers on the CPU stands behind a tensor."""
    if (
        x.dtype is not torch.float32
        or x.device.type != "cpu"
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.layout is not torch.strided
        or x.numel() == 0
    ):
        return False
    try:
        # Inside of `torch.func.vmap` there is none.
        return x.data_ptr() != 0
    except RuntimeError:
        return False


def _sizes(x: Tensor, scale: Tensor) -> tuple[int, int, int] | None:
    """How `x` lies in memory around the axis of its channels; None for one with gaps, or scales over several axes."""
    # From the outermost axis to the innermost; axes of length 1 lie anywhere.
    order = sorted((axis for axis in range(x.dim()) if x.shape[axis] > 1), key=x.stride, reverse=True)
    expected = 1
    for axis in reversed(order):
        if x.stride(axis) != expected:
            return None
        expected *= x.shape[axis]
    if scale.numel() == 1:
        return 1, 1, x.numel()
    missing = x.dim() - scale.dim()
    axes = [axis for axis in range(x.dim()) if axis >= missing and scale.shape[axis - missing] > 1]
    if missing < 0 or len(axes) != 1 or scale.numel() != x.shape[axes[0]]:
        return None
    place = order.index(axes[0])
    outer = math.prod(x.shape[axis] for axis in order[:place])
    inner = math.prod(x.shape[axis] for axis in order[place + 1 :])
    return outer, scale.numel(), inner

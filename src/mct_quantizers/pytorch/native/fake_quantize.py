# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The native kernels on tensors of torch: which tensors they take, and how these lie in memory."""

import ctypes
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mct_quantizers.pytorch.native.library import native_library
from mct_quantizers.pytorch.native.memory import is_plain, is_traced, laid_out_as, sizes_around_channels


class Settings(NamedTuple):
    """What a kernel computes.

    Attributes:
        quant_min: smallest integer.
        quant_max: largest integer.
        ceiling: upper end of a ReLU before the quantizer: infinity, or 6; None for none.
        gradient_factor: the gradient to the scale is multiplied by it.
    """

    quant_min: int
    quant_max: int
    ceiling: float | None = None
    gradient_factor: float = 1.0

    def arguments(self) -> tuple[float, float, float, int]:
        """The last arguments of a kernel; a negative ceiling is none."""
        return self.quant_min, self.quant_max, -1.0 if self.ceiling is None else self.ceiling, torch.get_num_threads()


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
        if is_traced() or not is_plain(x) or not is_plain(scale):
            return None
        sizes = sizes_around_channels(x, scale)
        library = None if sizes is None else native_library()
        if library is None or sizes is None:
            return None
        if zero_point is not None:
            if zero_point.device != x.device:
                return None
            zero_point = zero_point.to(torch.float32).expand(scale.shape).contiguous()
        return cls(library, scale.detach().contiguous(), zero_point, sizes)

    def forward(self, x: Tensor, settings: Settings) -> Tensor:
        """The quantized values of `x`, or of its ReLU: a new tensor that lies as `x`."""
        y = torch.empty_like(x)
        self.library.forward(
            x.data_ptr(), y.data_ptr(), self.scale.data_ptr(), address(self.zero_point), *self.sizes,
            *settings.arguments(),
        )  # fmt: skip
        return y

    def backward(self, x: Tensor, gradient: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
        """The gradients to `x` and to the scale, of their shapes, for a gradient to the quantized values."""
        gradient = laid_out_as(x, gradient)
        to_x, to_scale = torch.empty_like(x), torch.empty_like(self.scale)
        self.library.backward(
            x.data_ptr(), gradient.data_ptr(), to_x.data_ptr(), self.scale.data_ptr(), address(self.zero_point),
            to_scale.data_ptr(), settings.gradient_factor, *self.sizes, *settings.arguments(),
        )  # fmt: skip
        return to_x, to_scale


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's memory begins; None for none."""
    return None if tensor is None else tensor.data_ptr()

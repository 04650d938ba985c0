# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The native kernels of batch norm in training, with what follows it and the quantizer of the result."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from mct_quantizers.pytorch.native.fake_quantize import NativeCall, Settings, address
from mct_quantizers.pytorch.native.library import native_library
from mct_quantizers.pytorch.native.memory import is_plain, is_traced, laid_out_as, sizes_around_axis

CHANNEL_AXIS = 1


class NormTensors(NamedTuple):
    """What a quantized batch norm is computed of: float32.

    Attributes:
        x: the input, (N, C, ...).
        weight: factor of each channel, (C,); None for 1.
        bias: shift of each channel, likewise; None for 0.
        residual: what is added, of the shape of `x`; None for nothing.
        mean: of the batch, (C,).
        inverse: 1 / sqrt(variance of the batch + epsilon), likewise.
    """

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    mean: Tensor
    inverse: Tensor


class NormGradients(NamedTuple):
    """Gradients of a quantized batch norm.

    Attributes:
        x: of the shape of the input.
        residual: likewise; None without a residual.
        weight: to the factors, (C,); None without them.
        bias: to the shifts, likewise.
        scale: of the shape of the scale.
    """

    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    scale: Tensor


def batch_statistics(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """Mean, variance over n - 1, and 1 / sqrt(variance over n + epsilon) of each channel: float32, (C,).

    Args:
        x: (N, C, ...).
        epsilon: added to the variance.

    Returns:
        None for tensors that the native kernels do not take, and for less than two elements in a channel.
    """
    if is_traced() or not is_plain(x) or x.dim() <= CHANNEL_AXIS:
        return None
    sizes = sizes_around_axis(x.shape, x.stride(), CHANNEL_AXIS)
    library = native_library()
    if sizes is None or library is None or sizes[0] * sizes[2] < 2:
        return None
    mean, variance, inverse = x.new_empty((3, sizes[1])).unbind()
    library.batch_statistics(
        x.data_ptr(), mean.data_ptr(), variance.data_ptr(), inverse.data_ptr(), epsilon, *sizes, torch.get_num_threads()
    )
    return mean, variance, inverse


class NormalizedCall(NamedTuple):
    """Batch norm, the addition of a tensor, a ReLU and a quantizer that the native kernels take.

    Attributes:
        quantizer: the quantizer.
        sizes: outer, channels, inner: how the tensor lies around its channels.
    """

    quantizer: NativeCall
    sizes: tuple[int, int, int]

    @classmethod
    def of(cls, x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Self | None:
        """The call for a tensor (N, C, ...); None where operators of torch are needed.

        Args:
            x: any tensor.
            scale: broadcasts against `x`.
            zero_point: integers, broadcast against `x`; None for zero.
        """
        quantizer = NativeCall.of(x, scale, zero_point)
        sizes = sizes_around_axis(x.shape, x.stride(), CHANNEL_AXIS)
        if quantizer is None or sizes is None or (scale.numel() > 1 and quantizer.sizes != sizes):
            return None
        return cls(quantizer, sizes)

    def forward(self, tensors: NormTensors, settings: Settings) -> Tensor:
        """The quantized values: a new tensor that lies as the input."""
        x, weight, bias, residual, mean, inverse = tensors
        y = torch.empty_like(x)
        residual = None if residual is None else laid_out_as(x, residual)
        self.quantizer.library.normalized_forward(
            x.data_ptr(), address(residual), y.data_ptr(), mean.data_ptr(), inverse.data_ptr(), address(weight),
            address(bias), *self._grid(), *self.sizes, *settings.arguments(),
        )  # fmt: skip
        return y

    def backward(self, tensors: NormTensors, gradient: Tensor, settings: Settings) -> NormGradients:
        """The gradients, for a gradient to the quantized values."""
        x, weight, bias, residual, mean, inverse = tensors
        gradient = laid_out_as(x, gradient)
        to_x, to_scale = torch.empty_like(x), torch.empty_like(self.quantizer.scale)
        to_residual = None if residual is None else torch.empty_like(x)
        residual = None if residual is None else laid_out_as(x, residual)
        to_weight, to_bias = torch.empty_like(mean), torch.empty_like(mean)
        self.quantizer.library.normalized_backward(
            x.data_ptr(), address(residual), gradient.data_ptr(), to_x.data_ptr(),
            address(to_x if to_residual is None else to_residual), mean.data_ptr(), inverse.data_ptr(),
            address(weight), address(bias), *self._grid(), to_weight.data_ptr(), to_bias.data_ptr(),
            to_scale.data_ptr(), settings.gradient_factor, *self.sizes, *settings.arguments(),
        )  # fmt: skip
        return NormGradients(
            to_x, to_residual, None if weight is None else to_weight, None if bias is None else to_bias, to_scale
        )

    def _grid(self) -> tuple[int, int | None, int]:
        """Scales, zero points, and how far the next channel's lie."""
        quantizer = self.quantizer
        return quantizer.scale.data_ptr(), address(quantizer.zero_point), int(quantizer.scale.numel() > 1)

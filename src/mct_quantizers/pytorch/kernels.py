# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Fused fake quantization for PyTorch: equal to the NumPy reference, with the gradient of DESIGN's one formula.

torch's own `fake_quantize_per_*_affine` multiplies by the inverse of the scale, which gives other codes at some points,
and replaces NaN; it is not used.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mct_quantizers.pytorch import recomputation
from mct_quantizers.pytorch.native.fake_quantize import NativeCall
from mct_quantizers.pytorch.pending_relu import PendingReLU


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int) -> Tensor:
    """`mct_quantizers.common.arithmetic.fake_quantize_tensor` in place on one fresh tensor, without a gradient.

    Args:
        x: floating point, any shape; float16 and bfloat16 are computed in float32.
        scale: float32, broadcasts against `x`.
        zero_point: integers, broadcast against `x`; None for zero.
        quant_min: smallest integer.
        quant_max: largest integer.

    Returns:
        Tensor of the shape and dtype of `x` that needs no gradient.
    """
    return _after_relu(x, scale, zero_point, quant_min, quant_max, None)


def _after_relu(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, ceiling: float | None
) -> Tensor:
    """`fake_quantize` of the ReLU of `x` up to `ceiling`; of `x` itself for None."""
    wide = _wide(x.detach())
    native = NativeCall.of(wide, scale, zero_point)
    if native is not None:
        return native.forward(wide, quant_min, quant_max, ceiling).to(x.dtype)
    if ceiling is not None:
        wide = wide.clamp(0.0, ceiling)
    q = torch.div(wide, scale.detach()).round_()
    if zero_point is None:
        q.clamp_(quant_min, quant_max)
    else:
        q.add_(zero_point).clamp_(quant_min, quant_max).sub_(zero_point)
    return q.mul_(scale.detach()).to(x.dtype)


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, gradient_factor: Any = 1.0
) -> Tensor:
    """`fake_quantize` with the gradients of `arithmetic.fake_quantize_learned` to `x` and `scale`."""
    ceiling = None
    if isinstance(x, PendingReLU):
        relu, x = x, x.source
        if relu.is_pending and NativeCall.of(x, scale, zero_point) is not None:
            ceiling = relu.ceiling
        else:
            x = relu.computed
    apply: Any = _FakeQuantizeLearned.apply
    result: Tensor = apply(x, scale, zero_point, quant_min, quant_max, gradient_factor, ceiling)
    compute = partial(_after_relu, quant_min=quant_min, quant_max=quant_max, ceiling=ceiling)
    recomputation.remember(result, compute, x, scale, zero_point)
    return result


class _FakeQuantizeLearned(Function):
    @staticmethod
    def forward(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        quant_min: int,
        quant_max: int,
        gradient_factor: Any,
        ceiling: float | None,
    ) -> Tensor:
        del gradient_factor
        return _after_relu(x, scale, zero_point, quant_min, quant_max, ceiling)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, zero_point, ctx.quant_min, ctx.quant_max, ctx.gradient_factor, ctx.ceiling = inputs
        ctx.save_for_backward(x, scale, zero_point)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        wide = _wide(x)
        gradient = gradients[0].to(wide.dtype)
        native = NativeCall.of(wide, scale, zero_point)
        if native is not None:
            to_wide, to_scale = native.backward(
                wide, gradient, ctx.quant_min, ctx.quant_max, ctx.needs_input_grad[0], ctx.ceiling
            )
            to_scale.mul_(ctx.gradient_factor)
            return None if to_wide is None else to_wide.to(x.dtype), to_scale, None, None, None, None, None
        return *_FakeQuantizeLearned._gradients(ctx, wide, gradient, scale, zero_point), None, None, None, None, None

    @staticmethod
    def _gradients(
        ctx: Any, x: Tensor, gradient: Tensor, scale: Tensor, zero_point: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients to `x` and `scale` in operators of torch."""
        ceiling: float | None = ctx.ceiling
        ratio = torch.div(x if ceiling is None else x.clamp(0.0, ceiling), scale)
        position = torch.round(ratio)
        if zero_point is not None:
            position.add_(zero_point)
        clipped = position.clamp(ctx.quant_min, ctx.quant_max)
        # Ends included; NaN equals nothing and counts as outside.
        inside = position == clipped
        to_x = to_scale = None
        if ctx.needs_input_grad[0]:
            passes = inside if ceiling is None else inside & (x > 0.0) & (x < ceiling)
            to_x = torch.where(passes, gradient, 0.0).to(ctx.saved_tensors[0].dtype)
        if ctx.needs_input_grad[1]:
            if zero_point is not None:
                clipped.sub_(zero_point)
            slope = clipped.sub_(torch.where(inside, ratio, 0.0))
            to_scale = slope.mul_(gradient).sum_to_size(scale.shape).mul_(ctx.gradient_factor)
            to_scale = to_scale.to(scale.dtype)
        return to_x, to_scale


def _wide(x: Tensor) -> Tensor:
    """`x` in the dtype of the arithmetic."""
    return x.float() if x.dtype.itemsize < 4 else x


def scale_gradient_by_error(x: Tensor, error: Tensor, factor: float) -> Tensor:
    """See `mct_quantizers.common.ops.Ops.scale_gradient_by_error`."""
    apply: Any = _ScaleGradientByError.apply
    result: Tensor = apply(x, error, factor)
    return result


class _ScaleGradientByError(Function):
    @staticmethod
    def forward(x: Tensor, error: Tensor, factor: float) -> Tensor:
        del error, factor
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, error, ctx.factor = inputs
        ctx.save_for_backward(error)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (error,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient + ctx.factor * gradient.abs() * error, None, None

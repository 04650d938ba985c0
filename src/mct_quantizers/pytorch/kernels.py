# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Fused fake quantization for PyTorch: equal to the NumPy reference, with the gradient of DESIGN's one formula.

torch's own `fake_quantize_per_*_affine` multiplies by the inverse of the scale, which gives other codes at some points,
and replaces NaN; it is not used.
"""

import functools
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mct_quantizers.pytorch.native.batch_norm import NormalizedCall, NormTensors
from mct_quantizers.pytorch.native.fake_quantize import NativeCall, Settings
from mct_quantizers.pytorch.native.memory import is_traced, version_of
from mct_quantizers.pytorch.pending import Pending, computed


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
    wide = _wide(x.detach())
    native = NativeCall.of(wide, scale, zero_point)
    if native is not None:
        return _like(native.forward(wide, Settings(quant_min, quant_max)), x)
    q = torch.div(wide, scale.detach()).round_()
    if zero_point is not None:
        q.add_(zero_point)
    # vmap has no rule for clamping in place.
    q = q.clamp(quant_min, quant_max) if is_traced() else q.clamp_(quant_min, quant_max)
    if zero_point is not None:
        q.sub_(zero_point)
    return q.mul_(scale.detach()).to(x.dtype)


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, gradient_factor: Any = 1.0
) -> Tensor:
    """`fake_quantize` with the gradients of `arithmetic.fake_quantize_learned` to `x` and `scale`."""
    factor, other_factor = (1.0, gradient_factor) if isinstance(gradient_factor, Tensor) else (gradient_factor, None)
    if torch.compiler.is_compiling():
        result: Tensor = _OPERATOR(x, scale, zero_point, quant_min, quant_max, factor, other_factor)
        return result
    apply: Any
    settings, native = Settings(quant_min, quant_max, gradient_factor=factor), None
    if isinstance(x, Pending):
        x.check_unchanged()
        if x.is_pending and x.batch_norm is not None:
            normalized = NormalizedCall.of(x.source, scale, zero_point)
            if normalized is not None:
                apply, norm = _NativeNormalized.apply, x.batch_norm
                settings = settings._replace(ceiling=x.ceiling)
                result = apply(
                    x.source, norm.weight, norm.bias, x.residual, scale, norm, normalized, settings, other_factor
                )
                return result
        elif x.is_pending:
            native = NativeCall.of(x.source, scale, zero_point)
        if native is None:
            x = x.computed
        else:
            settings, x = settings._replace(ceiling=x.ceiling), x.source
    native = native or NativeCall.of(_wide(x), scale, zero_point)
    if native is None:
        return _learned_by_operators(x, scale, zero_point, quant_min, quant_max, factor, other_factor)
    if not (torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad)):
        return _like(native.forward(_wide(x), settings), x)
    apply = _NativeFakeQuantizeLearned.apply
    result = apply(x, scale, native, settings, other_factor)
    return result


def _natively_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """`once_differentiable`, which takes as long as a small tensor, only for a backward pass that is recorded."""
    guarded: Callable[..., Any] = once_differentiable(backward)

    @functools.wraps(backward)
    def run(ctx: Any, *gradients: Tensor) -> Any:
        return (guarded if torch.is_grad_enabled() else backward)(ctx, *gradients)

    return run


class _NativeFakeQuantizeLearned(Function):
    """In native code. What needs no `setup_context`, which costs more than a small tensor."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, native: NativeCall, settings: Settings, other_factor: Tensor | None
    ) -> Tensor:
        ctx.native, ctx.settings, ctx.other_factor = native, settings, other_factor
        ctx.save_for_backward(x, scale)
        result = _like(native.forward(_wide(x), settings), x)
        ctx.version = version_of(result)
        return result

    @staticmethod
    def recipe(ctx: Any) -> tuple[Any, tuple[Tensor, ...]]:
        """How the result is computed anew: by a function, of tensors."""
        native, settings = ctx.native, ctx.settings
        # The call holds the scale, the second one.
        return lambda x, _: _like(native.forward(_wide(x), settings), x), ctx.saved_tensors

    @staticmethod
    @_natively_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, _ = ctx.saved_tensors
        to_x, to_scale = ctx.native.backward(_wide(x), _wide(gradients[0]), ctx.settings)
        return _like(to_x, x), _times(to_scale, ctx.other_factor), None, None, None


class _NativeNormalized(Function):
    """A quantizer and what is `Pending` before it, with a batch norm, in native code."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        scale: Tensor,
        norm: Any,
        native: NormalizedCall,
        settings: Settings,
        other_factor: Tensor | None,
    ) -> Tensor:
        ctx.native, ctx.settings, ctx.other_factor = native, settings, other_factor
        tensors = NormTensors(x, weight, bias, residual, norm.mean, norm.inverse)
        ctx.save_for_backward(*tensors, scale)
        return native.forward(tensors, settings)

    @staticmethod
    @_natively_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, _ = ctx.saved_tensors
        found = ctx.native.backward(NormTensors(*tensors), gradients[0], ctx.settings)
        to_scale = _times(found.scale, ctx.other_factor)
        return found.x, found.weight, found.bias, found.residual, to_scale, None, None, None, None


class _FakeQuantizeLearned(Function):
    """In operators of torch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        quant_min: int,
        quant_max: int,
        factor: float,
        other_factor: Tensor | None,
    ) -> Tensor:
        del factor, other_factor
        return fake_quantize(x, scale, zero_point, quant_min, quant_max)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, zero_point, ctx.quant_min, ctx.quant_max, ctx.factor, ctx.other_factor = inputs
        ctx.version = version_of(output)
        ctx.save_for_backward(x, scale, zero_point)

    @staticmethod
    def recipe(ctx: Any) -> tuple[Any, tuple[Tensor | None, ...]]:
        """How the result is computed anew: by a function, of tensors."""
        return partial(fake_quantize, quant_min=ctx.quant_min, quant_max=ctx.quant_max), ctx.saved_tensors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        wide = _wide(x)
        gradient = gradients[0].to(wide.dtype)
        ratio = torch.div(wide, scale)
        position = torch.round(ratio)
        if zero_point is not None:
            position.add_(zero_point)
        clipped = position.clamp(ctx.quant_min, ctx.quant_max)
        # Ends included; NaN equals nothing and counts as outside.
        inside = position == clipped
        to_x = to_scale = None
        if ctx.needs_input_grad[0]:
            to_x = torch.where(inside, gradient, 0.0).to(x.dtype)
        if ctx.needs_input_grad[1]:
            if zero_point is not None:
                clipped.sub_(zero_point)
            slope = clipped.sub_(torch.where(inside, ratio, 0.0))
            # Not in place: `torch.func.vmap` may map over the gradient alone.
            to_scale = (slope * gradient).sum_to_size(scale.shape).mul_(ctx.factor)
            to_scale = _times(to_scale, ctx.other_factor).to(scale.dtype)
        return to_x, to_scale, None, None, None, None, None


def _learned_by_operators(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    quant_min: int,
    quant_max: int,
    factor: float,
    other_factor: Tensor | None,
) -> Tensor:
    apply: Any = _FakeQuantizeLearned.apply
    result: Tensor = apply(x, scale, zero_point, quant_min, quant_max, factor, other_factor)
    return result


def _fingerprint(*functions: Any) -> str:
    """Of what functions do."""
    codes = [function.__code__ for function in functions]
    parts = [(code.co_code, code.co_names, code.co_varnames, code.co_consts) for code in codes]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _operator() -> Any:
    """`_learned_by_operators` as an operator that compilers see into.

    What they compile of operators they keep for the next process, and find it again by their names; of an
    `autograd.Function` they do not. So the name tells which formula it is.
    """
    backward: Any = _FakeQuantizeLearned.backward
    name = f"fake_quantize_learned_{_fingerprint(fake_quantize, _FakeQuantizeLearned.forward, backward.__wrapped__)}"
    _LIBRARY.define(
        f"{name}(Tensor x, Tensor scale, Tensor? zero_point, int quant_min, int quant_max, float factor, "
        "Tensor? other_factor) -> Tensor"
    )
    _LIBRARY.impl(name, _learned_by_operators, "CompositeImplicitAutograd")
    return getattr(torch.ops.mct_quantizers, name).default


# torch has no types here.
_LIBRARY: Any = torch.library.Library("mct_quantizers", "DEF")  # type: ignore[no-untyped-call]
_OPERATOR = _operator()


def _wide(x: Tensor) -> Tensor:
    """`x` in the dtype of the arithmetic."""
    return x if x.dtype is torch.float32 or x.dtype.itemsize >= 4 else x.detach().float()


def _times(gradient: Tensor, factor: Tensor | None) -> Tensor:
    """`gradient` times a factor that no kernel took: no number, but a tensor."""
    return gradient if factor is None else gradient.mul_(factor)


def _like(wide: Tensor, x: Tensor) -> Tensor:
    """`wide` in the dtype of `x`."""
    return wide if wide.dtype is x.dtype else wide.to(x.dtype)


def scale_gradient_by_error(x: Tensor, error: Tensor, factor: float) -> Tensor:
    """See `mct_quantizers.common.ops.Ops.scale_gradient_by_error`."""
    apply: Any = _ScaleGradientByError.apply
    result: Tensor = apply(computed(x), error, factor)
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

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The elementary functions of trainable quantizers that the interface names, written once over `ops`.

The arguments keep the names of the interface. x, thresholds and ranges are tensors, which broadcast; the parameters may
have another floating-point dtype than x. float16 and bfloat16 are computed in float32 and returned in the dtype of x.
NaN stays NaN, infinity saturates.
"""

from typing import Any

from mct_quantizers.common import arithmetic
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import integer_range
from mct_quantizers.common.validation import checked_bool, checked_num_bits

__all__ = [
    "adjust_range_to_include_zero",
    "grad_scale",
    "ste_clip",
    "ste_round",
    "symmetric_lsq_quantizer",
    "symmetric_quantizer",
    "uniform_lsq_quantizer",
    "uniform_quantizer",
]


def ste_round(x: Tensor, ops: Ops) -> Tensor:
    """Round half to even with gradient 1."""
    values = ops.to_compute_dtype(x)
    return ops.cast_like(_with_gradient_of(ops.round(values), values, ops), x)


def ste_clip(x: Tensor, min_val: float, max_val: float, ops: Ops) -> Tensor:
    """`x` limited to `min_val … max_val` with gradient 1 everywhere, outside these too."""
    values = ops.to_compute_dtype(x)
    return ops.cast_like(_with_gradient_of(ops.clip(values, min_val, max_val), values, ops), x)


def grad_scale(x: Tensor, scale: Any, ops: Ops) -> Tensor:
    """`x` itself, its gradient multiplied by `scale`."""
    values = ops.to_compute_dtype(x)
    return ops.cast_like(_with_gradient_of(values, values * scale, ops), x)


def adjust_range_to_include_zero(range_min: Tensor, range_max: Tensor, n_bits: int, ops: Ops) -> tuple[Tensor, Tensor]:
    """Range of the same width with 0.0 on its grid; a range on one side of zero is extended to zero. Differentiable.

    With `k = round(range_min / step)`, a constant for differentiation, a range around zero starts at `k · step`.

    Args:
        range_min: smallest value or values.
        range_max: largest value or values, above `range_min`.
        n_bits: width of the integer, 1 to 16.
        ops: the framework.

    Returns:
        Both ends, in the dtype of the ends given, at least float32.

    Raises:
        TypeError: a range that is not floating point, or `n_bits` is no integer.
        ValueError: `n_bits` is out of bounds.
    """
    low = ops.to_compute_dtype(range_min)
    high = ops.cast_like(ops.to_compute_dtype(range_max), low)
    steps = 2 ** checked_num_bits(n_bits, "n_bits") - 1
    is_above, is_below = low > 0, high < 0
    # Beside zero the step counts for nothing: one that is not zero, because the gradient of a division goes through.
    step = _step(ops.where(is_above | is_below, 1.0, high - low), steps, ops)
    shifted = step * ops.stop_gradient(ops.round(ops.divide(low, step)))
    adjusted_low = ops.where(is_above, 0.0, ops.where(is_below, low, shifted))
    adjusted_high = ops.where(is_above, high, ops.where(is_below, 0.0, high - low + shifted))
    return adjusted_low, adjusted_high


def symmetric_quantizer(x: Tensor, threshold: Tensor, n_bits: int, sign: bool, ops: Ops) -> Tensor:
    """`x` on the symmetric grid of a threshold, straight through.

    With the clipped integer c and N = 2**(n_bits - sign), ∂q/∂x = 1 everywhere and ∂q/∂threshold = (c - x / step) / N.

    Args:
        x: floating point.
        threshold: positive.
        n_bits: width of the integer, 1 to 16.
        sign: whether the integers are signed.
        ops: the framework.

    Raises:
        TypeError: `x` is not floating point, `n_bits` no integer, `sign` no bool.
        ValueError: `n_bits` is out of bounds.
    """
    num_bits, signed = checked_num_bits(n_bits, "n_bits"), checked_bool("sign", sign)
    values = ops.to_compute_dtype(x)
    step = ops.cast_like(threshold, values) / 2 ** (num_bits - signed)
    integers = ste_round(ops.divide(values, step), ops)
    return ops.cast_like(step * ste_clip(integers, *integer_range(num_bits, signed), ops), x)


def uniform_quantizer(x: Tensor, range_min: Tensor, range_max: Tensor, n_bits: int, ops: Ops) -> Tensor:
    """`x` on the grid of a range that is first repaired to contain zero, straight through.

    With v = (x - low) / step, its clipped integer c and M = 2**n_bits - 1, ∂q/∂x = 1 everywhere; of a range around zero
    ∂q/∂range_max = (c - v) / M = -∂q/∂range_min.

    Args:
        x: floating point.
        range_min: smallest value or values.
        range_max: largest value or values, above `range_min`.
        n_bits: width of the integer, 1 to 16.
        ops: the framework.

    Raises:
        TypeError: `x` is not floating point, or `n_bits` is no integer.
        ValueError: `n_bits` is out of bounds.
    """
    num_bits, values = checked_num_bits(n_bits, "n_bits"), ops.to_compute_dtype(x)
    low, high = _adjusted(range_min, range_max, values, num_bits, ops)
    steps = 2**num_bits - 1
    step = _step(high - low, steps, ops)
    integers = ste_clip(ste_round(ops.divide(values - low, step), ops), 0, steps, ops)
    return ops.cast_like(step * integers + low, x)


def symmetric_lsq_quantizer(
    x: Tensor, thresholds: Tensor, num_bits: int, sign: bool, min_int: int, max_int: int, scale_factor: Any, ops: Ops
) -> Tensor:
    """`x` on the symmetric grid of learned thresholds (Esser et al., ICLR 2020, arXiv:1902.08153).

    With r = round(x / step) and inside = [min_int <= r <= max_int], ends included: ∂q/∂x = inside,
    ∂q/∂thresholds = scale_factor · (c - inside · x / step) / 2**(num_bits - sign).

    Args:
        x: floating point.
        thresholds: positive.
        num_bits: width of the integer, 1 to 16.
        sign: whether the integers are signed.
        min_int: smallest integer.
        max_int: largest integer.
        scale_factor: factor of the gradient to the thresholds.
        ops: the framework.

    Raises:
        TypeError: `x` is not floating point, `num_bits` no integer, `sign` no bool.
        ValueError: `num_bits` is out of bounds.
    """
    width, signed = checked_num_bits(num_bits), checked_bool("sign", sign)
    values = ops.to_compute_dtype(x)
    step = ops.cast_like(thresholds, values) / 2 ** (width - signed)
    return ops.cast_like(ops.fake_quantize_learned(values, step, None, min_int, max_int, scale_factor), x)


def uniform_lsq_quantizer(
    x: Tensor,
    min_range: Tensor,
    max_range: Tensor,
    num_bits: int,
    min_int: int,
    max_int: int,
    scale_factor: Any,
    ops: Ops,
) -> Tensor:
    """`x` on the grid of a learned range that is first repaired to contain zero (Esser et al. 2020).

    With v = (x - low) / step, inside = [min_int <= round(v) <= max_int] and M = 2**num_bits - 1: ∂q/∂x = inside; of a
    range around zero, where low = k · step, ∂q/∂max_range = scale_factor · (c - inside · v) / M + (1 - inside) · k / M
    = -∂q/∂min_range; of a range above zero ∂q/∂max_range = scale_factor · (c - inside · v) / M, ∂q/∂min_range = 0.

    Args:
        x: floating point.
        min_range: smallest value or values.
        max_range: largest value or values, above `min_range`.
        num_bits: width of the integer, 1 to 16.
        min_int: smallest integer, 0 for the whole range.
        max_int: largest integer, M for the whole range.
        scale_factor: factor of the gradient to the step.
        ops: the framework.

    Raises:
        TypeError: `x` is not floating point, or `num_bits` is no integer.
        ValueError: `num_bits` is out of bounds.
    """
    width, values = checked_num_bits(num_bits), ops.to_compute_dtype(x)
    low, high = _adjusted(min_range, max_range, values, width, ops)
    step = _step(high - low, 2**width - 1, ops)
    quantized = ops.fake_quantize_learned(values - low, step, None, min_int, max_int, scale_factor)
    return ops.cast_like(quantized + low, x)


def _adjusted(low: Tensor, high: Tensor, values: Tensor, num_bits: int, ops: Ops) -> tuple[Tensor, Tensor]:
    return adjust_range_to_include_zero(ops.cast_like(low, values), ops.cast_like(high, values), num_bits, ops)


def _step(width: Tensor, steps: int, ops: Ops) -> Tensor:
    # Of a plain number compilers would take the inverse.
    return ops.divide(width, ops.constant(steps, width))


def _with_gradient_of(value: Tensor, surrogate: Tensor, ops: Ops) -> Tensor:
    """`value`, exactly, with the gradient of `surrogate` where that is finite and none elsewhere."""
    is_finite = ops.absolute(ops.stop_gradient(surrogate)) < float("inf")
    return arithmetic.with_gradient_of(value, ops.where(is_finite, surrogate, 0.0), ops)

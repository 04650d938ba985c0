# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The one formula, written once over `ops`.

    q = clip(round(x / scale) + zero_point, quant_min, quant_max)          x̂ = (q - zero_point) · scale

Rounding is half to even and comes before the zero point is added, the order of ONNX `QuantizeLinear` (opset 21).
float16 and bfloat16 tensors are computed in float32 and returned in their own dtype. NaN stays NaN, infinity saturates.
"""

from collections.abc import Sequence
from typing import Any

from mct_quantizers.common.lookup_table import FineGrid, LookupTable
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.common.validation import check_channels


def broadcast_shape(rank: int, axis: int | None) -> tuple[int, ...]:
    """Shape that lines parameters up with a tensor: `(1, …, -1, …, 1)` with -1 at `axis`.

    Per tensor `(1,)`, or `()` for a tensor of rank 0.
    """
    if axis is None:
        return (1,) if rank else ()
    shape = [1] * rank
    shape[axis] = -1
    return tuple(shape)


def other_axes(rank: int, axis: int | None) -> tuple[int, ...]:
    """All axes of a tensor but `axis`, which counts from the end when it is negative."""
    return tuple(other for other in range(rank) if axis is None or other != axis % rank)


def quantize(x: Tensor, params: QuantParams, ops: Ops) -> Tensor:
    """Integer codes of `x`: int32, shape of `x`.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: NaN in `x`, or the channels of `x` do not match `params`.
    """
    values = ops.to_compute_dtype(x)
    scale, zero_point = _bound(params, ops.shape(values), values, ops)
    return ops.to_integer(codes(values, scale, zero_point, params.quant_min, params.quant_max, ops))


def dequantize(q: Tensor, params: QuantParams, ops: Ops, like: Tensor) -> Tensor:
    """Real values of the integer codes `q`, in the dtype and on the device of the floating-point tensor `like`."""
    reference = ops.to_compute_dtype(like)
    scale, zero_point = _bound(params, ops.shape(q), reference, ops)
    centered = ops.cast_like(q, reference) if zero_point is None else ops.cast_like(q, reference) - zero_point
    return ops.cast_like(centered * scale, like)


def fake_quantize(x: Tensor, params: QuantParams, ops: Ops) -> Tensor:
    """`dequantize(quantize(x))` without leaving floating point: shape and dtype of `x`, NaN kept.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: the channels of `x` do not match `params`.
    """
    values = ops.to_compute_dtype(x)
    scale, zero_point = _bound(params, ops.shape(values), values, ops)
    return ops.cast_like(fake_quantize_tensor(values, scale, zero_point, params.quant_min, params.quant_max, ops), x)


def codes(x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, ops: Ops) -> Tensor:
    """Integer codes as floats, so that NaN stays NaN. `scale` and `zero_point` broadcast against `x`."""
    rounded = ops.round(ops.divide(x, scale))
    return ops.clip(rounded if zero_point is None else rounded + zero_point, quant_min, quant_max)


def fake_quantize_tensor(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, ops: Ops
) -> Tensor:
    """`fake_quantize` on tensors that broadcast; a zero point of None means zero everywhere."""
    q = codes(x, scale, zero_point, quant_min, quant_max, ops)
    return (q if zero_point is None else q - zero_point) * scale


def fake_quantize_learned(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    quant_min: int,
    quant_max: int,
    gradient_factor: Any,
    ops: Ops,
) -> Tensor:
    """`fake_quantize_tensor` with a gradient to `x` and `scale`, for any framework that differentiates `ops`.

    With r = round(x/scale) + zero_point and inside = [quant_min <= r <= quant_max], ends included:
    ∂x̂/∂x = inside, ∂x̂/∂scale = gradient_factor · (q - zero_point - inside · x/scale)
    (Esser et al., ICLR 2020, arXiv:1902.08153, equations 3 and 5; the mask is written out because the gradients of the
    frameworks' own `clip` differ at the ends).
    """
    ratio = ops.divide(x, ops.stop_gradient(scale))
    position = ops.stop_gradient(ops.round(ratio) if zero_point is None else ops.round(ratio) + zero_point)
    clipped = ops.clip(position, quant_min, quant_max)
    centered = clipped if zero_point is None else clipped - zero_point
    inside = (position >= quant_min) & (position <= quant_max)
    value = centered * ops.stop_gradient(scale)
    to_x = ops.where(inside, x, 0.0)
    slope = centered - ops.where(inside, ops.stop_gradient(ratio), 0.0)
    to_scale = slope * scale_gradient(scale, gradient_factor, ops)
    return add_gradient_of(value, to_x + to_scale, ops)


def lut_quantize(x: Tensor, table: LookupTable, ops: Ops) -> Tensor:
    """Values of `x` on the levels of a table: shape and dtype of `x`, NaN kept.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: the channels of `x` do not match `table`.
    """
    values = ops.to_compute_dtype(x)
    threshold = _bound_threshold(table, ops.shape(values), values, ops)
    levels, boundaries = (ops.constant(array, values) for array in table.assignment())
    return ops.cast_like(lut_quantize_tensor(values, threshold, levels, boundaries, table.grid, ops), x)


def lut_quantize_tensor(
    x: Tensor, threshold: Tensor, levels: Tensor, boundaries: Tensor, grid: FineGrid, ops: Ops
) -> Tensor:
    """`lut_quantize` of a tensor in compute dtype, with the threshold and `table.assignment()` as tensors.

    A binary search needs no axis of the length of the table: memory for three tensors of the size of `x`.
    """
    threshold = ops.reshape(threshold, broadcast_shape(len(ops.shape(x)), grid.axis))
    indices = ops.search_sorted(boundaries, grid_position(x, threshold, grid, ops))
    return ops.take(levels, indices) * threshold


def lut_codes(x: Tensor, table: LookupTable, ops: Ops) -> Tensor:
    """For each element of `x` the position of its level in `table.lut_values`: int32, shape of `x`.

    Raises:
        TypeError: `x` is not floating point.
        ValueError: NaN in `x`, or the channels of `x` do not match the table.
    """
    values = ops.to_compute_dtype(x)
    threshold = _bound_threshold(table, ops.shape(values), values, ops)
    _, boundaries = table.assignment()
    indices = ops.search_sorted(ops.constant(boundaries, values), grid_position(values, threshold, table.grid, ops))
    return ops.to_integer(ops.take(ops.constant(table.positions(), values), indices))


def lut_dequantize(codes: Tensor, table: LookupTable, ops: Ops, like: Tensor) -> Tensor:
    """Real values of positions in a table, in the dtype and on the device of the floating-point tensor `like`."""
    reference = ops.to_compute_dtype(like)
    threshold = _bound_threshold(table, ops.shape(codes), reference, ops)
    levels = ops.constant(table.lut_values / table.level_scale, reference)
    return ops.cast_like(ops.take(levels, codes) * threshold, like)


def grid_position(x: Tensor, threshold: Tensor, grid: FineGrid, ops: Ops) -> Tensor:
    """`clip(x / (threshold + eps) · level_scale, low, high)`: where `x` lies on a finer grid, not rounded."""
    # Division by a power of two is exact, and does not warn of overflow as a product does.
    return ops.clip(ops.divide(ops.divide(x, threshold + grid.eps), 1.0 / grid.level_scale), grid.low, grid.high)


def round_ste(x: Tensor, ops: Ops) -> Tensor:
    """Round half to even with gradient 1 (Bengio et al. 2013, arXiv:1308.3432)."""
    return x + ops.stop_gradient(ops.round(x) - x)


def scale_gradient(x: Tensor, factor: float, ops: Ops) -> Tensor:
    """`x`, its gradient multiplied by `factor` (Esser et al. 2020, arXiv:1902.08153, appendix A)."""
    return with_gradient_of(x, x * factor, ops)


def with_gradient_of(value: Tensor, surrogate: Tensor, ops: Ops) -> Tensor:
    """`value`, exactly, with the gradient of `surrogate`, which must be finite."""
    return add_gradient_of(ops.stop_gradient(value), surrogate, ops)


def add_gradient_of(value: Tensor, surrogate: Tensor, ops: Ops) -> Tensor:
    """`value`, exactly, with the gradient of `surrogate`, which must be finite, besides its own."""
    return value + (surrogate - ops.stop_gradient(surrogate))


def in_units(x: Tensor, unit: Tensor, ops: Ops) -> Tensor:
    """`x · unit`, its gradient divided by `unit`: a step of gradient descent changes the product as if it were learned.

    That is the gradient of the chain rule over `unit²`, which the change of variable brings into such a step. Adam does
    not depend on the size of a gradient, and moves the product by the learning rate in units of `unit`.
    """
    constant = ops.stop_gradient(x)
    return constant * unit + ops.divide(x - constant, unit)


def position(x: Tensor, scale: Tensor, zero_point: Tensor | None, ops: Ops) -> Tensor:
    """`round(x / scale) + zero_point`, not clipped, as a constant for differentiation."""
    rounded = ops.round(ops.divide(ops.stop_gradient(x), ops.stop_gradient(scale)))
    return rounded if zero_point is None else rounded + ops.stop_gradient(zero_point)


def power_of_two(x: Tensor, ops: Ops) -> Tensor:
    """`2**round(log2(x))` of positive `x`, exact in every engine: only comparisons and divisions of powers of two."""
    mantissa, _ = ops.frexp(x)
    return ops.divide(x, ops.where(mantissa >= 0.5**0.5, mantissa, mantissa * 2.0))


def _bound(params: QuantParams, shape: Sequence[int], like: Tensor, ops: Ops) -> tuple[Tensor, Tensor | None]:
    check_channels(shape, params.axis, params.scale.size)
    aligned = broadcast_shape(len(shape), params.axis)
    scale = ops.reshape(ops.constant(params.scale, like), aligned)
    if not params.zero_point.any():
        return scale, None
    return scale, ops.reshape(ops.constant(params.zero_point, like), aligned)


def _bound_threshold(table: LookupTable, shape: Sequence[int], like: Tensor, ops: Ops) -> Tensor:
    check_channels(shape, table.axis, table.threshold.size)
    return ops.reshape(ops.constant(table.threshold, like), broadcast_shape(len(shape), table.axis))

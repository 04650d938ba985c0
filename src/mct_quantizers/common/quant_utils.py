# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions on plain arrays that the interface names, each over the common formulas.

The arguments keep the names of the interface. What both frameworks' `quantizer_utils` share stands here too.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic, numpy_ops, quant_params
from mct_quantizers.common.constants import MAX_RANGE, MIN_RANGE, THRESHOLD
from mct_quantizers.common.lookup_table import FineGrid, LookupTable
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.validation import (
    as_vector,
    check_ordered_range,
    checked_axis,
    checked_bool,
    checked_num_bits,
)

__all__ = [
    "adjust_range_to_include_zero",
    "int_quantization_with_threshold",
    "lut_quantizer_np",
    "validate_adjusted_min_max_ranges",
    "validate_uniform_min_max_ranges",
]

_NOTICEABLE_CHANGE = 1e-6


def adjust_range_to_include_zero(range_min: Any, range_max: Any, n_bits: int) -> tuple[Any, Any]:
    """Range of the same width with 0.0 on its grid; a range on one side of zero is extended to zero.

    Args:
        range_min: smallest value or values.
        range_max: largest value or values, above `range_min`, of the same shape.
        n_bits: width of the integer, 1 to 16.

    Returns:
        Both ends, float64, shape of `range_min`; numbers for numbers.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: shapes differ, a minimum is not below its maximum, or a width is too small or large for a step.
    """
    num_bits = checked_num_bits(n_bits, "n_bits")
    low = as_vector("range_min", range_min).reshape(np.shape(range_min))
    high = as_vector("range_max", range_max).reshape(np.shape(range_max))
    if low.shape != high.shape:
        raise ValueError(
            f"`range_min` and `range_max` must have the same shape. Received: shapes {low.shape} and {high.shape}"
        )
    with np.errstate(over="ignore"):
        step = (high - low) / (2**num_bits - 1)
    if not ((step > 0) & np.isfinite(step)).all():
        raise ValueError(
            "`range_min` must be below `range_max`, by a width that a number can hold. "
            f"Received: range_min={low.tolist()}, range_max={high.tolist()}"
        )
    return quant_params.adjust_range_to_include_zero(low, high, num_bits)


def int_quantization_with_threshold(
    data: npt.ArrayLike, n_bits: int, signed: bool, threshold: Any, eps: float
) -> npt.NDArray[Any]:
    """Where `data` lies on the integer grid of a threshold, without rounding: see `grid_position`.

    Args:
        data: floating point.
        n_bits: width of the integer, 1 to 16.
        signed: whether the integers are signed.
        threshold: real value of the end of the grid; broadcasts against `data`.
        eps: added to the threshold, keeps the division finite.

    Returns:
        float32; float64 for float64.

    Raises:
        TypeError: `data` is not floating point, or an argument is of the wrong type.
        ValueError: `n_bits` is out of bounds.
    """
    values = numpy_ops.to_compute_dtype(data)
    return np.asarray(
        grid_position(values, numpy_ops.constant(threshold, values), n_bits, signed, eps, _NUMPY), values.dtype
    )


def lut_quantizer_np(
    tensor_data: npt.ArrayLike,
    lut_values: Any,
    signed: bool,
    threshold: Any,
    lut_values_bitwidth: int,
    eps: float,
    per_channel: bool | None = None,
    channel_axis: int | None = None,
    input_rank: int | None = None,
) -> npt.NDArray[Any]:
    """Values of an array on the levels of a table, `lut_values / 2**(lut_values_bitwidth - signed) · threshold`.

    Args:
        tensor_data: floating point.
        lut_values: the levels, integers of `lut_values_bitwidth` bits.
        signed: whether the levels may be negative.
        threshold: positive number or numbers, one per channel, or lined up with `tensor_data` by their shape.
        lut_values_bitwidth: width of the levels.
        eps: added to the threshold where it divides.
        per_channel: whether each slice along `channel_axis` has its own threshold.
        channel_axis: axis of the channels, negative from the end; needed per channel.
        input_rank: rank of `tensor_data`, to check it.

    Returns:
        Shape and dtype of `tensor_data`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: levels that are no integers or outside their width, a threshold that is not positive, an axis that
            does not exist or has another length.
    """
    data = np.asarray(tensor_data)
    axis = threshold_axis(threshold, data.ndim, per_channel, channel_axis, input_rank)
    table = lookup_table(lut_values, signed, threshold, lut_values_bitwidth, eps, axis)
    return np.asarray(arithmetic.lut_quantize(data, table, _NUMPY))


def validate_uniform_min_max_ranges(min_range: Any, max_range: Any) -> None:
    """Both ends of a range are numbers, as many minima as maxima, every minimum below its maximum.

    Raises:
        TypeError: not numbers.
        ValueError: lengths differ, a minimum is not below its maximum, a value is not finite.
    """
    check_ordered_range(as_vector(MIN_RANGE, min_range), as_vector(MAX_RANGE, max_range))


def validate_adjusted_min_max_ranges(min_range: Any, max_range: Any, adj_min: Any, adj_max: Any) -> None:
    """An adjusted range contains zero. A noticeable difference from the range that was given warns.

    Args:
        min_range: smallest value or values as given.
        max_range: largest value or values as given.
        adj_min: smallest value or values after adjustment.
        adj_max: largest value or values after adjustment.

    Raises:
        TypeError: not numbers.
        ValueError: lengths differ, a minimum is not below its maximum, zero lies outside the adjusted range.
    """
    validate_uniform_min_max_ranges(min_range, max_range)
    given = np.stack([as_vector(MIN_RANGE, min_range), as_vector(MAX_RANGE, max_range)])
    low, high = as_vector("adj_min", adj_min), as_vector("adj_max", adj_max)
    if not low.size == high.size == given.shape[1]:
        raise ValueError(
            "`adj_min` and `adj_max` must have the length of the range. "
            f"Received: {low.size} minima and {high.size} maxima for {given.shape[1]}"
        )
    adjusted = np.stack([low, high])
    if not ((adjusted[0] <= 0) & (adjusted[1] >= 0)).all():
        raise ValueError(
            "`adj_min` to `adj_max` must contain zero. "
            f"Received: adj_min={adjusted[0].tolist()}, adj_max={adjusted[1].tolist()}"
        )
    if (np.abs(adjusted - given) > _NOTICEABLE_CHANGE * (given[1] - given[0])).any():
        warnings.warn(
            "The range was changed to contain zero exactly: "
            f"from {given.T.tolist()} to {adjusted.T.tolist()} (minimum, maximum).",
            stacklevel=2,
        )


def grid_position(x: Tensor, threshold: Tensor, num_bits: int, signed: bool, eps: float, ops: Ops) -> Tensor:
    """`clip(x / (threshold + eps) · 2**(num_bits - signed), quant_min, quant_max)`, not rounded.

    Args:
        x: floating point, in compute dtype.
        threshold: dtype of `x`, broadcasts against it.
        num_bits: width of the integer, 1 to 16.
        signed: whether the integers are signed.
        eps: keeps the division finite.
        ops: the framework.
    """
    num_bits, signed = checked_num_bits(num_bits, "n_bits"), checked_bool("signed", signed)
    grid = FineGrid(None, eps, 2.0 ** (num_bits - signed), *quant_params.integer_range(num_bits, signed))
    return arithmetic.grid_position(x, threshold, grid, ops)


def lookup_table(
    lut_values: Any, signed: bool, threshold: Any, lut_values_bitwidth: int, eps: float, axis: int | None
) -> LookupTable:
    """The table of the levels, however many of `lut_values_bitwidth` bits there are."""
    bitwidth = checked_num_bits(lut_values_bitwidth, "lut_values_bitwidth")
    levels = as_vector("lut_values", lut_values)
    return LookupTable(levels, as_vector(THRESHOLD, threshold), bitwidth, signed, bitwidth, eps, axis)


def threshold_axis(
    threshold: Any, rank: int, per_channel: bool | None, channel_axis: int | None, input_rank: int | None
) -> int | None:
    """The axis of a tensor along which a threshold varies; None for one number.

    Args:
        threshold: number, list or array.
        rank: rank of the tensor.
        per_channel: whether `channel_axis` tells; otherwise the shape of `threshold` does, lined up from the end.
        channel_axis: axis of the channels, negative from the end.
        input_rank: what the caller believes the rank to be.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: the axis does not exist, `input_rank` is not the rank, the threshold varies along several axes.
    """
    if per_channel is not None and checked_bool("per_channel", per_channel):
        if input_rank is not None and input_rank != rank:
            raise ValueError(f"`input_rank` must be the rank of the tensor, {rank}. Received: input_rank={input_rank}")
        return checked_axis(per_channel, channel_axis, rank)
    size = as_vector(THRESHOLD, threshold).size
    shape: Sequence[int] = np.shape(threshold)
    varying = [axis - len(shape) for axis, length in enumerate(shape) if length > 1]
    if len(varying) > 1:
        raise ValueError(f"`threshold` must vary along one axis at most. Received: shape {tuple(shape)}")
    return varying[0] if size > 1 else None


# A module in the place of the protocol.
_NUMPY: Ops = numpy_ops

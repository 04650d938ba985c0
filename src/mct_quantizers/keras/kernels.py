# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Fake quantization for Keras: the neutral formulas, which XLA and other compilers fuse.

TensorFlow's own `fake_quant_with_min_max_vars` breaks ties another way; it is not used.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic
from mct_quantizers.common.lookup_table import FineGrid, LookupTable
from mct_quantizers.keras import ops

Tensor = Any
FloatArray = npt.NDArray[np.floating[Any]]


def fake_quantize(
    x: Tensor, scale: FloatArray, zero_point: npt.NDArray[Any] | None, quant_min: int, quant_max: int
) -> Tensor:
    """`mct_quantizers.common.arithmetic.fake_quantize_tensor` without a gradient.

    Args:
        x: floating point, any shape; float16 and bfloat16 are computed in float32.
        scale: float32, broadcasts against `x`.
        zero_point: integers, broadcast against `x`; None for zero.
        quant_min: smallest integer.
        quant_max: largest integer.

    Returns:
        Tensor of the shape and dtype of `x` that needs no gradient.
    """
    values = ops.stop_gradient(ops.to_compute_dtype(x))
    zeros = None if zero_point is None else ops.constant(zero_point, values)
    result = arithmetic.fake_quantize_tensor(values, ops.constant(scale, values), zeros, quant_min, quant_max, ops)
    return ops.cast_like(result, x)


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, gradient_factor: Any = 1.0
) -> Tensor:
    """`fake_quantize` with the gradients of `arithmetic.fake_quantize_learned` to `x` and `scale`."""
    return ops.fake_quantize_learned(x, scale, zero_point, quant_min, quant_max, gradient_factor)


class Assignment(NamedTuple):
    """How numbers find their levels: by a search for one of the boundaries, or by the half integer that is nearest.

    The boundaries between levels lie at halves of integers, or a few float32 numbers beside them, because the levels
    are integers. So in the bucket of numbers around a half integer there is one boundary at most.

    Attributes:
        levels: the levels in rising order, divided by the grid's `level_scale`, and NaN, float32, shape (K + 1,).
        boundaries: the smallest number of each level but the first, and infinity, float32, shape (K,).
        inside: the boundary inside of each bucket, infinity where there is none, float32, shape (N,).
        around: for each bucket the level below its boundary and the one from there on, float32, shape (2 N,).
    """

    levels: npt.NDArray[np.float32]
    boundaries: npt.NDArray[np.float32]
    inside: npt.NDArray[np.float32]
    around: npt.NDArray[np.float32]


def assignment_of(table: LookupTable) -> Assignment:
    """The assignment to the levels of a table. Bucket i holds the numbers around `low + i / 2`."""
    levels, boundaries = table.assignment()
    grid = table.grid
    edges = np.arange(2 * grid.low, 2 * grid.high + 2, dtype=np.float32) / 2 - np.float32(0.25)
    first = np.searchsorted(boundaries, edges, side="right")
    has_boundary = first[1:] > first[:-1]
    inside = np.where(has_boundary, boundaries[first[:-1]], np.float32(np.inf)).astype(np.float32)
    around = np.stack([levels[first[:-1]], levels[first[1:]]], axis=1)
    return Assignment(levels, boundaries, inside, around.reshape(-1))


def lut_quantize(x: Tensor, threshold: FloatArray, assignment: Assignment, grid: FineGrid) -> Tensor:
    """`mct_quantizers.common.arithmetic.lut_quantize` without a gradient.

    Tensors at hand are searched for, as in the other engines. What compilers make of a search keeps several tensors of
    the size of `x`, or even one with an axis of the length of the table: in a function that is being compiled the
    buckets are used, which is elementwise and needs one tensor. JAX compiles every call.

    Args:
        x: floating point, any shape; float16 and bfloat16 are computed in float32.
        threshold: float32, broadcasts against `x`.
        assignment: `assignment_of` the table.
        grid: the finer grid of the table.

    Returns:
        Tensor of the shape and dtype of `x` that needs no gradient.
    """
    values = ops.stop_gradient(ops.to_compute_dtype(x))
    scale = ops.constant(threshold, values)
    if ops.is_concrete(values) and not ops.COMPILES_CALLS:
        # Only what is used becomes a tensor: the buckets of a wide table are many.
        levels, boundaries = (ops.constant(array, values) for array in assignment[:2])
        result = arithmetic.lut_quantize_tensor(values, scale, levels, boundaries, grid, ops)
    else:
        inside, around = (ops.constant(array, values) for array in assignment[2:])
        result = _by_bucket(values, scale, inside, around, grid)
    return ops.cast_like(result, x)


def _lut_quantize_by_bucket(values: Tensor, scale: Tensor, inside: Tensor, around: Tensor, grid: FineGrid) -> Tensor:
    values = arithmetic.grid_position(values, scale, grid, ops)
    is_nan = keras.ops.isnan(values)
    # No integer stands for NaN.
    index = keras.ops.cast(ops.round(ops.where(is_nan, 0.0, values) * 2.0) - 2.0 * grid.low, "int32")
    is_above = keras.ops.cast(values >= ops.take(inside, index), "int32")
    level = ops.take(around, index * 2 + is_above)
    return ops.where(is_nan, values, level) * scale


# The grid tells how a table is computed; JAX compiles once for each.
_by_bucket = ops.compiled(_lut_quantize_by_bucket, static_argument="grid")

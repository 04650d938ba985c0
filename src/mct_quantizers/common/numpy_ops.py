# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The NumPy twin of the namespace: the reference that every engine is held against."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic

Array = npt.NDArray[Any]


def to_compute_dtype(x: Any) -> Array:
    """See `Ops.to_compute_dtype`."""
    array = np.asarray(x)
    # ml_dtypes' bfloat16 is not a NumPy floating type; it is told by its name.
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise TypeError(f"Expected a tensor of floating-point numbers. Received: dtype {array.dtype}")
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def cast_like(x: Array, like: Any) -> Array:
    """See `Ops.cast_like`."""
    with np.errstate(over="ignore"):
        return x.astype(np.asarray(like).dtype)


def to_integer(x: Array) -> Array:
    """See `Ops.to_integer`."""
    if np.isnan(x).any():
        raise ValueError("Expected a tensor without NaN: no integer stands for it.")
    return x.astype(np.int32)


def constant(value: Any, like: Array) -> Array:
    """See `Ops.constant`."""
    return np.asarray(value, dtype=np.float64 if like.dtype == np.float64 else np.float32)


def shape(x: Array) -> Sequence[int]:
    """See `Ops.shape`."""
    return np.shape(x)


def size(x: Array) -> int:
    """See `Ops.size`."""
    return int(np.size(x))


def sample_size(x: Array) -> int:
    """See `Ops.sample_size`."""
    return math.prod(np.shape(x)[1:])


def reshape(x: Array, shape: Sequence[int]) -> Array:
    """See `Ops.reshape`."""
    return np.reshape(x, tuple(shape))


def divide(x: Array, y: Array) -> Array:
    """See `Ops.divide`."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.divide(x, y)


def round(x: Array) -> Array:
    """See `Ops.round`."""
    return np.round(x)


def clip(x: Array, low: float, high: float) -> Array:
    """See `Ops.clip`."""
    return np.clip(x, low, high)


def where(condition: Array, x: Any, y: Any) -> Array:
    """See `Ops.where`."""
    return np.asarray(np.where(condition, x, y))


def absolute(x: Array) -> Array:
    """See `Ops.absolute`."""
    return np.abs(x)


def maximum(x: Array, low: float) -> Array:
    """See `Ops.maximum`."""
    return np.maximum(x, low)


def frexp(x: Array) -> tuple[Array, Array]:
    """See `Ops.frexp`."""
    return np.frexp(x)


def search_sorted(boundaries: Array, x: Array) -> Array:
    """See `Ops.search_sorted`."""
    return np.searchsorted(boundaries, x, side="right")


def take(values: Array, indices: Array) -> Array:
    """See `Ops.take`."""
    return np.take(values, indices)


def floor(x: Array) -> Array:
    """See `Ops.floor`."""
    return np.floor(x)


def exp(x: Array) -> Array:
    """See `Ops.exp`."""
    return np.exp(x)


def log(x: Array) -> Array:
    """See `Ops.log`."""
    return np.log(x)


def tanh(x: Array) -> Array:
    """See `Ops.tanh`."""
    return np.tanh(x)


def sort(x: Array) -> Array:
    """See `Ops.sort`."""
    return np.sort(x)


def total(x: Array) -> Array:
    """See `Ops.total`."""
    return np.asarray(np.sum(x))


def largest(x: Array, axis: int | None) -> Array:
    """See `Ops.largest`."""
    return np.asarray(np.max(x, axis=arithmetic.other_axes(x.ndim, axis), keepdims=True))


def scale_gradient_by_error(x: Array, error: Array, factor: float) -> Array:
    """See `Ops.scale_gradient_by_error`; NumPy has the value only, no gradient."""
    del error, factor
    return x


def stop_gradient(x: Array) -> Array:
    """See `Ops.stop_gradient`."""
    return x


def fake_quantize_learned(
    x: Array, scale: Array, zero_point: Array | None, quant_min: int, quant_max: int, gradient_factor: Any
) -> Array:
    """See `Ops.fake_quantize_learned`; NumPy has the values only, no gradient."""
    del gradient_factor
    values = to_compute_dtype(x)
    return cast_like(
        arithmetic.fake_quantize_tensor(values, scale, zero_point, quant_min, quant_max, sys.modules[__name__]), x
    )

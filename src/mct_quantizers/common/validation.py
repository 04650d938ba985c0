# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""One function per rule on constructor arguments. Each says what is expected and what came."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.constants import MAX_NUM_BITS, MIN_NUM_BITS

FloatArray = npt.NDArray[np.float64]


def checked_num_bits(num_bits: Any, name: str = "num_bits") -> int:
    """`num_bits`, given as the argument `name`, as `int`.

    Raises:
        TypeError: not an integer.
        ValueError: outside 1 to 16.
    """
    if isinstance(num_bits, bool) or not isinstance(num_bits, Integral):
        raise TypeError(f"`{name}` must be an integer. Received: {name}={num_bits!r}")
    if not MIN_NUM_BITS <= int(num_bits) <= MAX_NUM_BITS:
        raise ValueError(f"`{name}` must be from {MIN_NUM_BITS} to {MAX_NUM_BITS}. Received: {name}={num_bits}")
    return int(num_bits)


def checked_bool(name: str, value: Any) -> bool:
    """`value` as `bool`; the integers 0 and 1, as attributes of ONNX hold them, stand for False and True.

    Raises:
        TypeError: neither True nor False.
    """
    if not isinstance(value, (bool, np.bool_)) and not (isinstance(value, Integral) and value in (0, 1)):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return bool(value)


def as_vector(name: str, value: Any) -> FloatArray:
    """`value` (number, list, tuple or array of any shape) as finite float64 vector, shape (C,) with C >= 1.

    Raises:
        TypeError: not numbers.
        ValueError: empty, NaN or infinite.
    """
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise TypeError(f"`{name}` must be a number or a list of numbers. Received: {name}={value!r}")
    detach = getattr(value, "detach", None)
    try:
        array = np.asarray(detach() if callable(detach) else value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be a number or a list of numbers. Received: {name}={value!r}") from error
    if array.size == 0:
        raise ValueError(f"`{name}` must hold at least one number. Received: {name}={value!r}")
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise TypeError(f"`{name}` must be a number or a list of real numbers. Received: {name}={value!r}")
    vector = array.astype(np.float64).reshape(-1)
    if not np.isfinite(vector).all():
        raise ValueError(f"`{name}` must be finite. Received: {name}={value!r}")
    return vector


def check_positive(name: str, vector: FloatArray) -> None:
    """Every element is above zero.

    Raises:
        ValueError: one is not.
    """
    if not (vector > 0).all():
        raise ValueError(f"`{name}` must be positive. Received: {name}={vector.tolist()}")


def check_power_of_two(name: str, vector: FloatArray) -> None:
    """Every element is 2**k with an integer k (negative k too).

    Raises:
        ValueError: one is not.
    """
    mantissa, _ = np.frexp(vector)
    if not (mantissa == 0.5).all():
        raise ValueError(f"`{name}` must be a power of two (…, 0.25, 0.5, 1, 2, 4, …). Received: {vector.tolist()}")


def check_ordered_range(min_range: FloatArray, max_range: FloatArray) -> None:
    """Both ends have the same length and every minimum is below its maximum.

    Raises:
        ValueError: lengths differ, or a minimum is not below its maximum.
    """
    if min_range.shape != max_range.shape:
        raise ValueError(
            "`min_range` and `max_range` must have the same length. "
            f"Received: {min_range.size} minima and {max_range.size} maxima"
        )
    if not (min_range < max_range).all():
        raise ValueError(
            "`min_range` must be below `max_range`. "
            f"Received: min_range={min_range.tolist()}, max_range={max_range.tolist()}"
        )


def checked_axis(per_channel: Any, channel_axis: Any, input_rank: Any = None) -> int | None:
    """The axis along which parameters vary; None per tensor.

    Raises:
        TypeError: `per_channel` is no bool, `channel_axis` or `input_rank` no integer.
        ValueError: per channel without an axis, or the axis does not exist in a tensor of `input_rank`.
    """
    if not checked_bool("per_channel", per_channel):
        return None
    if channel_axis is None:
        raise ValueError("`channel_axis` must be given when `per_channel` is True. Received: channel_axis=None")
    for name, value in (("channel_axis", channel_axis), ("input_rank", 0 if input_rank is None else input_rank)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"`{name}` must be an integer. Received: {name}={value!r}")
    if input_rank is not None and not -input_rank <= channel_axis < input_rank:
        raise ValueError(
            f"`channel_axis` must be from {-input_rank} to {input_rank - 1} for `input_rank`={input_rank}. "
            f"Received: channel_axis={channel_axis}"
        )
    return int(channel_axis)


def check_axis(axis: Any) -> None:
    """`axis` is None or an integer.

    Raises:
        TypeError: it is not.
    """
    if axis is not None and (isinstance(axis, bool) or not isinstance(axis, Integral)):
        raise TypeError(f"`axis` must be an integer or None. Received: axis={axis!r}")


def check_length(name: str, vector: FloatArray, axis: int | None) -> None:
    """Per tensor there is exactly one parameter.

    Raises:
        ValueError: there are several.
    """
    if axis is None and vector.size != 1:
        raise ValueError(f"`{name}` must hold one number when `per_channel` is False. Received: {vector.tolist()}")


def check_channels(shape: Sequence[int | None], axis: int | None, num_channels: int) -> None:
    """A tensor of `shape` has `num_channels` slices along `axis`.

    Raises:
        ValueError: the axis does not exist or has another length.
    """
    if axis is None:
        return
    rank = len(shape)
    if not -rank <= axis < rank:
        raise ValueError(
            f"`channel_axis` must be from {-rank} to {rank - 1} for shape {tuple(shape)}. Received: {axis}"
        )
    # None: an axis of a Keras tensor whose length is not known yet.
    if shape[axis] not in (num_channels, None):
        raise ValueError(
            f"The input must have {num_channels} channels along axis {axis}, one for each parameter. "
            f"Received: shape {tuple(shape)}"
        )

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`QuantParams`: the value behind every quantizer on an integer grid, and the bridge from the public words to it.

threshold:          scale = threshold / 2**(num_bits - signed)              zero_point = 0
min_range/max_range: scale = (max_range - min_range) / (2**num_bits - 1)     zero_point = -round(min_range / scale)
"""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import validation
from mct_quantizers.common.validation import FloatArray

__all__ = [
    "FloatArray",
    "Granularity",
    "IntArray",
    "QuantParams",
    "adjust_range_to_include_zero",
    "from_range",
    "from_threshold",
    "integer_range",
    "to_float32_precision",
]

IntArray = npt.NDArray[np.int32]


class Granularity(StrEnum):
    """Where parameters vary inside a tensor."""

    PER_TENSOR = "per_tensor"
    """One scale for the whole tensor."""
    PER_CHANNEL = "per_channel"
    """One scale for each slice along one axis."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantParams:
    """Integer grid of a tensor: `x̂ = (q - zero_point) · scale` with `quant_min <= q <= quant_max`.

    Attributes:
        scale: size of one step, float64, shape (1,) or (C,), positive. Each value is representable in float32, so that
            every engine, a deployed file included, divides by the same number.
        zero_point: the integer that stands for 0.0, int32, shape of `scale`, inside the grid.
        num_bits: width of the integer, 1 to 16.
        quant_min: smallest integer.
        quant_max: largest integer; `quant_max - quant_min < 2**num_bits`.
        axis: axis of the tensor along which the parameters vary, None per tensor.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of bounds, shapes that differ, a scale outside float32.
    """

    scale: FloatArray
    zero_point: IntArray
    num_bits: int
    quant_min: int
    quant_max: int
    axis: int | None = None

    def __post_init__(self) -> None:
        num_bits = validation.checked_num_bits(self.num_bits)
        scale = validation.as_vector("scale", self.scale)
        validation.check_positive("scale", scale)
        validation.check_length("scale", scale, self.axis)
        scale = to_float32_precision("scale", scale)
        validation.check_axis(self.axis)
        zero_point = validation.as_vector("zero_point", self.zero_point)
        if not ((zero_point == np.round(zero_point)) & (np.abs(zero_point) < 2**31)).all():
            raise ValueError(f"`zero_point` must be 32-bit integers. Received: {self.zero_point!r}")
        zero_point = zero_point.astype(np.int32)
        if zero_point.shape != scale.shape:
            raise ValueError(
                "`zero_point` must have one integer for each scale. "
                f"Received: {zero_point.size} zero points and {scale.size} scales"
            )
        if not 0 < self.quant_max - self.quant_min < 2**num_bits:
            raise ValueError(
                f"`quant_min` to `quant_max` must be a range of at most {2**num_bits} integers for {num_bits} bits. "
                f"Received: quant_min={self.quant_min}, quant_max={self.quant_max}"
            )
        if not ((zero_point >= self.quant_min) & (zero_point <= self.quant_max)).all():
            raise ValueError(
                f"`zero_point` must be from {self.quant_min} to {self.quant_max}. Received: {zero_point.tolist()}"
            )
        ends = np.maximum(np.abs(self.quant_min - zero_point), np.abs(self.quant_max - zero_point)) * scale
        if not (ends <= np.finfo(np.float32).max).all():
            raise ValueError(f"The ends of the grid must be float32 numbers. Received: scale={scale.tolist()}")
        scale.setflags(write=False)
        zero_point.setflags(write=False)
        for name, value in (("scale", scale), ("zero_point", zero_point), ("num_bits", num_bits)):
            object.__setattr__(self, name, value)

    @property
    def granularity(self) -> Granularity:
        """Per tensor or per channel."""
        return Granularity.PER_TENSOR if self.axis is None else Granularity.PER_CHANNEL

    @property
    def signed(self) -> bool:
        """Whether the integers are signed."""
        return self.quant_min < 0

    @property
    def min_range(self) -> FloatArray:
        """Real value of `quant_min`, float64, shape of `scale`."""
        return (self.quant_min - self.zero_point) * self.scale

    @property
    def max_range(self) -> FloatArray:
        """Real value of `quant_max`, float64, shape of `scale`."""
        return (self.quant_max - self.zero_point) * self.scale

    @property
    def threshold(self) -> FloatArray:
        """`scale · 2**(num_bits - signed)`, float64, shape of `scale`."""
        return self.scale * 2.0 ** (self.num_bits - self.signed)

    def replace_scale(self, scale: npt.ArrayLike) -> "QuantParams":
        """The same grid of integers with another scale, shape (1,) or (C,)."""
        return dataclasses.replace(self, scale=np.asarray(scale, dtype=np.float64))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantParams):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.scale.tobytes(), self.zero_point.tobytes(), self.quant_min, self.quant_max, self.axis))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists; `from_dict` restores an equal value."""
        return {
            "scale": self.scale.tolist(),
            "zero_point": self.zero_point.tolist(),
            "num_bits": self.num_bits,
            "quant_min": self.quant_min,
            "quant_max": self.quant_max,
            "axis": self.axis,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "QuantParams":
        """The value that `to_dict` wrote.

        Raises:
            ValueError: a key is missing, unknown or out of bounds.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"Expected the keys of `QuantParams`. Received: {values!r}") from error


def integer_range(num_bits: int, signed: bool) -> tuple[int, int]:
    """`quant_min`, `quant_max` of `num_bits` integers."""
    return (-(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1) if signed else (0, 2**num_bits - 1)


def from_threshold(
    threshold: Any, num_bits: Any, signed: Any = True, *, axis: int | None = None, power_of_two: bool = False
) -> QuantParams:
    """Symmetric grid: signed `[-t, t)` or unsigned `[0, t)` in steps of `t / 2**(num_bits - signed)`.

    Args:
        threshold: positive number or numbers, (1,) per tensor or (C,) per channel.
        num_bits: 1 to 16.
        signed: whether the integers are signed.
        axis: axis of the channels, None per tensor.
        power_of_two: require each threshold to be 2**k.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a threshold that is not positive, not finite, not a power of two where required.
    """
    num_bits = validation.checked_num_bits(num_bits)
    signed = validation.checked_bool("signed", signed)
    vector = validation.as_vector("threshold", threshold)
    validation.check_positive("threshold", vector)
    validation.check_length("threshold", vector, axis)
    if power_of_two:
        validation.check_power_of_two("threshold", vector)
    quant_min, quant_max = integer_range(num_bits, signed)
    scale = vector / 2.0 ** (num_bits - signed)
    return QuantParams(scale, np.zeros(scale.shape, np.int32), num_bits, quant_min, quant_max, axis)


def from_range(min_range: Any, max_range: Any, num_bits: Any, *, axis: int | None = None) -> QuantParams:
    """Uniform grid of `2**num_bits` points over a range that is first repaired to contain zero exactly.

    Args:
        min_range: smallest value or values, (1,) per tensor or (C,) per channel.
        max_range: largest value or values, above `min_range`.
        num_bits: 1 to 16.
        axis: axis of the channels, None per tensor.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: lengths differ, a minimum is not below its maximum, a value is not finite.
    """
    num_bits = validation.checked_num_bits(num_bits)
    low, high = validation.as_vector("min_range", min_range), validation.as_vector("max_range", max_range)
    validation.check_ordered_range(low, high)
    validation.check_length("min_range", low, axis)
    for name, vector in (("min_range", low), ("max_range", high)):
        if (np.abs(vector) > np.finfo(np.float32).max).any():
            raise ValueError(f"`{name}` must be float32 numbers. Received: {vector.tolist()}")
    to_float32_precision("scale", (high - low) / (2**num_bits - 1))
    low, high = adjust_range_to_include_zero(low, high, num_bits)
    scale = (high - low) / (2**num_bits - 1)
    zero_point = -np.round(low / scale)
    return QuantParams(scale, zero_point.astype(np.int32), num_bits, 0, 2**num_bits - 1, axis)


def adjust_range_to_include_zero(
    min_range: FloatArray, max_range: FloatArray, num_bits: int
) -> tuple[FloatArray, FloatArray]:
    """Range of the same width with 0.0 on the grid; a range on one side of zero is extended to zero.

    Args:
        min_range: float64, shape (C,).
        max_range: float64, shape (C,), above `min_range`.
        num_bits: width of the integer.
    """
    step = (max_range - min_range) / (2**num_bits - 1)
    shifted = step * np.round(min_range / step)
    low = np.where(min_range > 0, 0.0, np.where(max_range < 0, min_range, shifted))
    high = np.where(min_range > 0, max_range, np.where(max_range < 0, 0.0, max_range - min_range + shifted))
    return np.minimum(low, 0.0), np.maximum(high, 0.0)


def to_float32_precision(name: str, vector: FloatArray) -> FloatArray:
    """`vector`, the argument `name`, rounded to float32 and kept as float64.

    Raises:
        ValueError: a number outside the normal numbers of float32.
    """
    with np.errstate(over="ignore", under="ignore"):
        single = vector.astype(np.float32)
    limits = np.finfo(np.float32)
    # Subnormal numbers are refused: hardware may flush them to zero.
    if not (np.isfinite(single) & (single >= limits.tiny)).all():
        raise ValueError(f"`{name}` must be from {limits.tiny} to {limits.max} (float32). Received: {vector.tolist()}")
    return single.astype(np.float64)

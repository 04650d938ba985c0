# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`LookupTable`: the value behind every quantizer that maps to a table of levels.

u = clip(x / (threshold + eps) · 2**(lut_values_bitwidth - signed), low, high)
x̂ = nearest of lut_values to u, the first of equally near ones, / 2**(lut_values_bitwidth - signed) · threshold
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import validation
from mct_quantizers.common.constants import EPS, LUT_VALUES_BITWIDTH
from mct_quantizers.common.quant_params import integer_range, to_float32_precision
from mct_quantizers.common.validation import FloatArray


class FineGrid(NamedTuple):
    """The numbers of a table that arithmetic needs besides its arrays.

    Attributes:
        axis: axis along which the threshold varies, None per tensor.
        eps: keeps the division finite.
        level_scale: integers in one threshold.
        low: smallest integer.
        high: largest integer.
    """

    axis: int | None
    eps: float
    level_scale: float
    low: int
    high: int


@dataclass(frozen=True, slots=True, eq=False)
class LookupTable:
    """Levels of a tensor: integers of a finer grid, scaled by a threshold.

    Attributes:
        lut_values: the levels as integers of `lut_values_bitwidth` bits, float64, shape (K,) with at most 2**num_bits
            different ones, in the order of the table.
        threshold: real value of the end of the finer grid, float64, shape (1,) or (C,), positive.
        num_bits: width of the index into the table.
        signed: whether the levels may be negative.
        lut_values_bitwidth: width of the levels, at least `num_bits`.
        eps: keeps the division finite.
        axis: axis of the tensor along which the threshold varies, None per tensor.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: levels that are too many, no integers or outside their width; a threshold that is not positive.
    """

    lut_values: FloatArray
    threshold: FloatArray
    num_bits: int
    signed: bool = True
    lut_values_bitwidth: int = LUT_VALUES_BITWIDTH
    eps: float = EPS
    axis: int | None = None

    def __post_init__(self) -> None:
        num_bits = validation.checked_num_bits(self.num_bits)
        bitwidth = validation.checked_num_bits(self.lut_values_bitwidth, "lut_values_bitwidth")
        signed = validation.checked_bool("signed", self.signed)
        values = validation.as_vector("lut_values", self.lut_values)
        threshold = validation.as_vector("threshold", self.threshold)
        validation.check_positive("threshold", threshold)
        # As every engine holds it.
        threshold = to_float32_precision("threshold", threshold)
        # -0.0 becomes 0.0.
        values = values + 0.0
        validation.check_length("threshold", threshold, self.axis)
        validation.check_axis(self.axis)
        eps = validation.as_vector("eps", self.eps)
        if eps.size != 1 or eps[0] < 0:
            raise ValueError(f"`eps` must be one number that is not negative. Received: eps={self.eps!r}")
        if num_bits > bitwidth:
            raise ValueError(
                "`num_bits` must be at most `lut_values_bitwidth`. "
                f"Received: num_bits={num_bits}, lut_values_bitwidth={bitwidth}"
            )
        _check_levels(values, num_bits, bitwidth, signed)
        axis = None if self.axis is None else int(self.axis)
        checked = (values, threshold, num_bits, signed, bitwidth, float(eps[0]), axis)
        for item, value in zip(fields(self), checked, strict=True):
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, item.name, value)

    @property
    def level_scale(self) -> float:
        """Integers in one threshold: `2**(lut_values_bitwidth - signed)`."""
        return float(2.0 ** (self.lut_values_bitwidth - self.signed))

    @property
    def grid(self) -> FineGrid:
        """The finer integer grid of the levels."""
        return FineGrid(self.axis, self.eps, self.level_scale, *integer_range(self.lut_values_bitwidth, self.signed))

    def assignment(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """What a binary search needs: the levels in rising order, and the smallest input that is assigned to each next.

        The boundaries are found in float32 arithmetic, by bisection over the float32 numbers, so that the search
        assigns every number as comparing its distances to all levels would, the first of equally near ones winning.

        Returns:
            Levels, divided by `level_scale`, and NaN at the end, float32, shape (K + 1,); boundaries, and infinity at
            the end, which only NaN passes, float32, shape (K,).
        """
        order, first = self._order()
        levels = self.lut_values.astype(np.float32)[order]
        boundaries = _boundaries(levels, first)
        scaled = levels / np.float32(self.level_scale)
        return np.append(scaled, np.float32(np.nan)), np.append(boundaries, np.float32(np.inf))

    def positions(self) -> npt.NDArray[np.float32]:
        """For each level in rising order the first position of its value in the table, and NaN, shape (K + 1,)."""
        return np.append(self._order()[1].astype(np.float32), np.float32(np.nan))

    def _order(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """What sorts the levels, and for each sorted level the first position of its value."""
        order = np.argsort(self.lut_values, kind="stable")
        _, first, inverse = np.unique(self.lut_values, return_index=True, return_inverse=True)
        return order, first[inverse][order]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LookupTable):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.lut_values.tobytes(), self.threshold.tobytes(), self.num_bits, self.signed, self.axis))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists; `LookupTable(**values)` restores an equal value."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _check_levels(values: FloatArray, num_bits: int, bitwidth: int, signed: bool) -> None:
    different = np.unique(values)
    if different.size > 2**num_bits:
        raise ValueError(
            f"`lut_values` must hold at most {2**num_bits} different values for {num_bits} bits. "
            f"Received: {different.size}"
        )
    if (values != np.round(values)).any():
        raise ValueError(f"`lut_values` must be integers. Received: {values.tolist()}")
    low, high = integer_range(bitwidth, signed)
    if values.min() < low or values.max() > high:
        raise ValueError(
            f"`lut_values` must be from {low} to {high} for {bitwidth} bits, signed={signed}. "
            f"Received: {values.min():g} to {values.max():g}"
        )


def _boundaries(levels: npt.NDArray[np.float32], first: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """The smallest float32 number for which the right one of two neighbouring levels is chosen."""
    left, right = levels[:-1], levels[1:]
    right_wins_ties = first[1:] < first[:-1]

    def chooses_right(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        to_left, to_right = np.abs(numbers - left), np.abs(numbers - right)
        wins: npt.NDArray[np.bool_] = (to_right < to_left) | ((to_right == to_left) & right_wins_ties)
        return wins

    # Neighbouring levels are whole numbers: at the left one the left is chosen, at the right one the right.
    low, high = _ordered(left), _ordered(right)
    while (high - low > 1).any():
        middle = (low + high) // 2
        above = chooses_right(_number(middle))
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return _number(high)


def _ordered(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Integers in the order of the float32 numbers."""
    bits = numbers.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _number(ordered: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The inverse of `_ordered`."""
    magnitude = np.abs(ordered).astype(np.uint32).view(np.float32)
    return np.where(ordered < 0, -magnitude, magnitude).astype(np.float32)

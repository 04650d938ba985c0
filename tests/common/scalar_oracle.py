# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The formula once more, one number at a time, in Python floats (float64): what the array code is held against.

Dividing two float32 numbers in float64 and then rounding to float32 equals the float32 division (53 >= 2 * 24 + 2
bits), and a product of two float32 numbers is exact in float64; so this is float32 arithmetic without using it.
"""

import math

import numpy as np
from hypothesis import strategies as st

from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold


def as_float32(value: float) -> float:
    return float(np.float32(value)) if abs(value) < 2.0**127 else math.copysign(2.0**127, value)


def scalar_code(x: float, scale: float, zero_point: int, quant_min: int, quant_max: int) -> int:
    if math.isinf(x):
        return quant_max if x > 0 else quant_min
    # Python's round is half to even, on integers of any size.
    return min(max(round(as_float32(x / scale)) + zero_point, quant_min), quant_max)


def scalar_codes(x: np.ndarray, params: QuantParams) -> np.ndarray:
    """Codes of `x`, one element after the other; parameters vary along `params.axis`."""
    codes = np.empty(x.shape, np.int32)
    for index in np.ndindex(x.shape):
        channel = 0 if params.axis is None else index[params.axis]
        scale, zero_point = float(params.scale[channel]), int(params.zero_point[channel])
        codes[index] = scalar_code(float(x[index]), scale, zero_point, params.quant_min, params.quant_max)
    return codes


def scalar_values(codes: np.ndarray, params: QuantParams) -> np.ndarray:
    """Real values of `codes`, float32."""
    values = np.empty(codes.shape, np.float32)
    for index in np.ndindex(codes.shape):
        channel = 0 if params.axis is None else index[params.axis]
        values[index] = np.float32((int(codes[index]) - int(params.zero_point[channel])) * float(params.scale[channel]))
    return values


THRESHOLDS = st.floats(2.0**-20, 2.0**20)
ENDS = st.floats(-1000.0, 1000.0, width=32)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[float, float]:
    low, high = draw(st.tuples(ENDS, ENDS).map(sorted).filter(lambda ends: ends[1] - ends[0] > 1e-3))
    return low, high


@st.composite
def grids(draw: st.DrawFn, per_channel: bool | None = None) -> QuantParams:
    """Any grid: symmetric, unsigned, power of two or uniform; per tensor, or per channel along axis 0."""
    num_bits = draw(st.integers(1, 16))
    if per_channel is None:
        per_channel = draw(st.booleans())
    channels, axis = (draw(st.integers(1, 4)), 0) if per_channel else (1, None)
    kind = draw(st.sampled_from(["symmetric", "power_of_two", "uniform"]))
    if kind == "uniform":
        low, high = zip(*draw(st.lists(ranges(), min_size=channels, max_size=channels)), strict=True)
        return from_range(low, high, num_bits, axis=axis)
    element = THRESHOLDS if kind == "symmetric" else st.integers(-20, 20).map(lambda k: 2.0**k)
    threshold = draw(st.lists(element, min_size=channels, max_size=channels))
    return from_threshold(threshold, num_bits, draw(st.booleans()), axis=axis, power_of_two=kind == "power_of_two")


def spanning(params: QuantParams, size: int, reach: float = 0.0) -> np.ndarray:
    """float32, shape (channels, size): the range of each channel in equal steps, and `reach` of its width beyond."""
    low, high = params.min_range, params.max_range
    width = reach * (high - low)
    return np.linspace(low - width, high + width, size, axis=1).astype(np.float32)

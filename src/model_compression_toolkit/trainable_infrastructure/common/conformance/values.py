# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How the conformance checks compare arrays, and show what they found.

Where a check compares numbers that one engine computed twice, it wants them equal bit for bit; where two formulas or
engines may differ in rounding, it allows `TOLERANCE` of the largest output, far below any step of a grid.
"""

import re
from typing import Any

import numpy as np

from model_compression_toolkit.trainable_infrastructure.common.conformance.cases import Array

__all__ = [
    "TOLERANCE",
    "close",
    "distant",
    "distinct",
    "example",
    "first_of",
    "number",
    "rounded",
    "same",
    "shown",
    "text_of_error",
]

TOLERANCE = 1e-6
"""Of the largest output: what two ways to compute one number may differ by."""
_MERGED = 2.0**-20
_MOST_SHOWN = 3
_LONGEST_ERROR = 300


def rounded(values: Array, dtype: str) -> Array:
    """Float32 values that float16 or bfloat16 has, too."""
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    # bfloat16 is the upper half of float32.
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def distinct(row: Array) -> int:
    """How many levels a row has; what differs by less than rounding is one."""
    ordered = np.sort(row)
    return 1 + int((np.diff(ordered) > _MERGED * np.abs(ordered).max()).sum())


def same(one: Array, other: Array) -> bool:
    """Whether two arrays are equal; NaN equals NaN."""
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def close(one: Array, other: Array, tolerance: float) -> bool:
    """Whether two arrays of one shape differ nowhere by more than a share of the largest number."""
    return one.shape == other.shape and not distant(one, other, tolerance).any()


def distant(one: Array, other: Array, tolerance: float, floor: float = 0.0) -> Array:
    """Where two arrays differ by more than a share of the largest number, and more than `floor`; NaN equals NaN."""
    largest = max(np.abs(array[np.isfinite(array)]).max(initial=0.0) for array in (one, other))
    equal = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        near = np.abs(one.astype(np.float64) - other) <= max(tolerance * largest, floor)
    result: Array = ~(equal | near)
    return result


def number(value: Any) -> str:
    """A number as the report shows it: enough digits to tell two of float32 apart."""
    return f"{float(value):.9g}"


def example(x: Array | None, one: Array, other: Array, tolerance: float = 0.0, mask: Array | None = None) -> str:
    """Where two outputs differ most."""
    if one.shape != other.shape:
        return f"shapes {one.shape} and {other.shape}"
    mask = distant(one, other, tolerance) if mask is None else mask
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(one.astype(np.float64) - other), nan=np.inf)
    index = np.unravel_index(int(np.argmax(np.where(mask, distance, -1.0))), distance.shape)
    where = "" if x is None else f" for x = {number(x[index])}"
    return f"{mask.sum()} of {mask.size} elements, such as {number(one[index])} and {number(other[index])}{where}"


def shown(x: Array, output: Array, mask: Array) -> str:
    """The first inputs and outputs at which `mask` is set."""
    pairs = zip(x[mask][:_MOST_SHOWN], output[mask][:_MOST_SHOWN], strict=True)
    text = ", ".join(f"q({number(value)}) = {number(result)}" for value, result in pairs)
    return f"{text} ({mask.sum()} of {mask.size} elements)"


def first_of(texts: list[str]) -> list[str]:
    """The first texts, and how many more there are."""
    more = len(texts) - _MOST_SHOWN
    return texts[:_MOST_SHOWN] + ([f"and {more} more"] if more > 0 else [])


def text_of_error(error: BaseException) -> str:
    """Type and text of an error in one line, not too long."""
    # Keras writes its errors in bold.
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}").split())
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A lookup table as files hold it: each level once and in rising order, so that an index fits the width of the plan."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import IntArray
from mct_quantizers.common.validation import FloatArray

Float32Array = npt.NDArray[np.float32]


class SortedTable(NamedTuple):
    """The arrays of a table for tensors of one rank; values are `levels[index] · threshold`.

    Attributes:
        levels: in units of the threshold, rising, float32, shape (K,) with K <= 2**num_bits.
        boundaries: the smallest `x / divisor` that belongs to each next level, float32, shape (K - 1,).
        threshold: float32, shaped to broadcast against the tensor.
        divisor: the threshold and what keeps its division finite, likewise.
    """

    levels: Float32Array
    boundaries: Float32Array
    threshold: Float32Array
    divisor: Float32Array


def sorted_table(table: LookupTable, rank: int) -> SortedTable:
    """The arrays of `table` for a tensor of `rank`."""
    levels, boundaries = (array[:-1] for array in table.assignment())
    is_new = levels[1:] > levels[:-1]
    threshold = table.threshold.astype(np.float32).reshape(broadcast_shape(rank, table.axis))
    return SortedTable(
        levels[np.append(True, is_new)],
        # Exact: a power of two.
        boundaries[is_new] / np.float32(table.level_scale),
        threshold,
        threshold + np.float32(table.eps),
    )


def table_constants(arrays: SortedTable) -> dict[str, Float32Array]:
    """The constants with which a file looks indices up, by the end of their names."""
    return {"levels": arrays.levels, "threshold": arrays.threshold}


def search_constants(arrays: SortedTable) -> dict[str, Float32Array]:
    """The constants with which a file finds indices, by the end of their names."""
    steps = enumerate(_steps(arrays.boundaries))
    return {"divisor": arrays.divisor, **{f"boundaries_{step}": boundaries for step, boundaries in steps}}


def _steps(boundaries: Float32Array) -> Iterator[Float32Array]:
    """For each step of the search the boundaries among which the index chooses; for the first one number."""
    num_steps = max(len(boundaries).bit_length(), 1)
    # No number reaches NaN: behind the last boundary nothing follows, not even for infinity.
    padded = np.full(2**num_steps - 1, np.nan, np.float32)
    padded[: len(boundaries)] = boundaries
    for step in range(num_steps):
        half = 2 ** (num_steps - step - 1)
        chosen = padded[half - 1 :: 2 * half]
        yield chosen if step else chosen.reshape(())


def table_indices(values: FloatArray | Float32Array, table: LookupTable) -> IntArray:
    """For each value the index of its level by the NumPy reference: int32, shape of `values`.

    Raises:
        ValueError: NaN in `values`.
    """
    _, index_of = np.unique(table.lut_values, return_inverse=True)
    indices: IntArray = index_of.astype(np.int32)[arithmetic.lut_codes(values, table, numpy_ops)]
    return indices


def weight_with_indices(indices: IntArray, table: LookupTable) -> Float32Array:
    """A weight whose elements belong to the levels with these indices, in the middle of their reach: float32.

    Not the levels' values: where the threshold is as small as what keeps its division finite, those belong to others.
    """
    arrays = sorted_table(table, indices.ndim)
    weight: Float32Array = arrays.levels[indices] * arrays.divisor
    return weight

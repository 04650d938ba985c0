# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Lookup tables in standard operators: indices as an initializer, or found by a binary search that is written out.

ONNX has no operator for a binary search. Step by step, `index = 2 · index + (position >= boundary of the step[index])`
takes `num_bits` steps and memory for a few tensors of the size of the input; comparing with all boundaries at once
would take memory for 2**num_bits of them.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from mct_quantizers.common.lookup_table import LookupTable
from model_compression_toolkit.exporter.common.sorted_table import SortedTable, sorted_table
from model_compression_toolkit.exporter.keras.onnx_builder import OnnxBuilder

__all__ = ["looked_up", "searched", "table_constants"]

Float32Array = npt.NDArray[np.float32]


def looked_up(builder: OnnxBuilder, indices: str, arrays: SortedTable, name: str) -> str:
    """The values of indices, which are of 32 bits."""
    levels = builder.constant(arrays.levels, f"{name}/levels")
    gathered = builder.add("Gather", [levels, indices], f"{name}/gathered")
    return builder.add(
        "Mul", [gathered, builder.constant(arrays.threshold, f"{name}/threshold")], f"{name}/dequantized"
    )


def searched(builder: OnnxBuilder, x: str, table: LookupTable, name: str, codes: str) -> str:
    """The levels of a table with one threshold that are nearest to a computed value.

    Args:
        builder: the graph.
        x: the value.
        table: its table.
        name: name of the tensor.
        codes: name of the tensor of indices.
    """
    arrays = sorted_table(table, 0)
    position = builder.add("Div", [x, builder.constant(arrays.divisor, f"{name}/divisor")], f"{name}/position")

    def reaches(boundary: str, at: str, result: str) -> str:
        is_above = builder.add("GreaterOrEqual", [position, boundary], f"{at}/is_above")
        return builder.add("Cast", [is_above], result, to=int(TensorProto.INT32))

    steps = list(_steps(arrays.boundaries))
    boundaries = [builder.constant(step, f"{name}/boundaries_{number}") for number, step in enumerate(steps)]
    at = f"{name}/step_0"
    index = reaches(boundaries[0], at, codes if len(steps) == 1 else f"{at}/bit")
    for number, of_step in enumerate(boundaries[1:], start=1):
        at = f"{name}/step_{number}"
        bit = reaches(builder.add("Gather", [of_step, index], f"{at}/boundary"), at, f"{at}/bit")
        doubled = builder.add("Add", [index, index], f"{at}/doubled")
        index = builder.add("Add", [doubled, bit], codes if number == len(steps) - 1 else f"{at}/index")
    return looked_up(builder, index, arrays, name)


def table_constants(table: LookupTable, rank: int, is_searched: bool) -> dict[str, Float32Array]:
    """The constants of a table in a file by the end of their names; `is_searched` tells whether it finds indices."""
    arrays = sorted_table(table, rank)
    constants = {"levels": arrays.levels, "threshold": arrays.threshold}
    if is_searched:
        constants["divisor"] = arrays.divisor
        constants |= {f"boundaries_{step}": boundaries for step, boundaries in enumerate(_steps(arrays.boundaries))}
    return constants


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

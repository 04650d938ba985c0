# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Lookup tables in standard operators: indices as an initializer, or found by a binary search that is written out.

ONNX has no operator for a binary search. Step by step, `index = 2 · index + (position >= boundary of the step[index])`
takes `num_bits` steps and memory for a few tensors of the size of the input; comparing with all boundaries at once
would take memory for 2**num_bits of them.
"""

from onnx import TensorProto

from mct_quantizers.common.lookup_table import LookupTable
from model_compression_toolkit.exporter.common.sorted_table import (
    SortedTable,
    search_constants,
    sorted_table,
    table_constants,
)
from model_compression_toolkit.exporter.keras.onnx_builder import OnnxBuilder

__all__ = ["looked_up", "searched"]


def looked_up(builder: OnnxBuilder, indices: str, arrays: SortedTable, name: str) -> str:
    """The values of indices, which are of 32 bits."""
    levels, threshold = (builder.constant(v, f"{name}/{k}") for k, v in table_constants(arrays).items())
    gathered = builder.add("Gather", [levels, indices], f"{name}/gathered")
    return builder.add("Mul", [gathered, threshold], f"{name}/dequantized")


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
    divisor, *boundaries = (builder.constant(v, f"{name}/{k}") for k, v in search_constants(arrays).items())
    position = builder.add("Div", [x, divisor], f"{name}/position")

    def reaches(boundary: str, at: str, result: str) -> str:
        is_above = builder.add("GreaterOrEqual", [position, boundary], f"{at}/is_above")
        return builder.add("Cast", [is_above], result, to=int(TensorProto.INT32))

    at = f"{name}/step_0"
    index = reaches(boundaries[0], at, codes if len(boundaries) == 1 else f"{at}/bit")
    for number, of_step in enumerate(boundaries[1:], start=1):
        at = f"{name}/step_{number}"
        bit = reaches(builder.add("Gather", [of_step, index], f"{at}/boundary"), at, f"{at}/bit")
        doubled = builder.add("Add", [index, index], f"{at}/doubled")
        index = builder.add("Add", [doubled, bit], codes if number == len(boundaries) - 1 else f"{at}/index")
    return looked_up(builder, index, arrays, name)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Lookup tables in standard operators: indices as an initializer, or found by a binary search that is written out.

ONNX has no operator for a binary search. Step by step, `index = 2 · index + (position >= boundary of the step[index])`
takes `num_bits` steps and memory for a few tensors of the size of the input; comparing with all boundaries at once
would take memory for 2**num_bits of them. Measured in ONNX Runtime 1.31, one thread: 17 ns an element with 4 bits and
30 with 8, against 22 and 544.

ONNX Runtime casts UINT4 from version 1.23 on, and folds the look-up of a constant when it loads a file. Integers by
DequantizeLinear would run in 1.20, but are looked up again in every run: a layer of 1024 by 1024 takes 5 ms instead of
0.05 ms for one sample.
"""

import onnx_ir as ir

from mct_quantizers.common.lookup_table import LookupTable
from model_compression_toolkit.exporter.common.sorted_table import (
    Float32Array,
    SortedTable,
    search_constants,
    sorted_table,
    table_constants,
    table_indices,
)
from model_compression_toolkit.exporter.pytorch.graph_editing import CODES, add_initializer, insert_node

__all__ = ["insert_table_search", "insert_table_weight"]

_INDEX_TYPES = ir.DataType.UINT4, ir.DataType.UINT8, ir.DataType.UINT16
_TO_INT32 = {"to": ir.DataType.INT32.value}


def insert_table_weight(graph: ir.Graph, mark: ir.Node, x: Float32Array, table: LookupTable, name: str) -> ir.Value:
    """The values of a constant: its indices as an initializer of the narrowest type, cast, looked up and scaled."""
    arrays = sorted_table(table, x.ndim)
    dtype = next(dtype for dtype in _INDEX_TYPES if len(arrays.levels) <= dtype.max + 1)
    codes = add_initializer(graph, name + CODES, table_indices(x, table).astype(dtype.numpy()))
    # Gather takes no other integers.
    indices = insert_node(mark, "Cast", [codes], f"{name}/indices", ir.DataType.INT32, _TO_INT32)
    return _look_up(graph, mark, indices, arrays, name)


def insert_table_search(graph: ir.Graph, mark: ir.Node, x: ir.Value, table: LookupTable, name: str) -> ir.Value:
    """The values of a computed value `x`: its indices by binary search, looked up and scaled."""
    arrays = sorted_table(table, _rank(x, name))
    values = {key: add_initializer(graph, f"{name}/{key}", array) for key, array in search_constants(arrays).items()}
    position = insert_node(mark, "Div", [x, values.pop("divisor")], f"{name}/position")

    def reaches(boundary: ir.Value, at: str) -> ir.Value:
        is_above = insert_node(mark, "GreaterOrEqual", [position, boundary], f"{at}/is_above", ir.DataType.BOOL)
        return insert_node(mark, "Cast", [is_above], f"{at}/bit", ir.DataType.INT32, _TO_INT32)

    first, *others = values.values()
    index = reaches(first, f"{name}/step_0")
    for step, boundaries in enumerate(others, start=1):
        at = f"{name}/step_{step}"
        bit = reaches(insert_node(mark, "Gather", [boundaries, index], f"{at}/boundary"), at)
        doubled = insert_node(mark, "Add", [index, index], f"{at}/doubled", ir.DataType.INT32)
        index = insert_node(mark, "Add", [doubled, bit], f"{at}/index", ir.DataType.INT32)
    index.name = name + CODES
    return _look_up(graph, mark, index, arrays, name)


def _look_up(graph: ir.Graph, mark: ir.Node, indices: ir.Value, arrays: SortedTable, name: str) -> ir.Value:
    levels, threshold = (add_initializer(graph, f"{name}/{k}", v) for k, v in table_constants(arrays).items())
    gathered = insert_node(mark, "Gather", [levels, indices], f"{name}/gathered")
    return insert_node(mark, "Mul", [gathered, threshold], f"{name}/dequantized")


def _rank(x: ir.Value, name: str) -> int:
    if x.shape is None:
        raise ValueError(f"{name} must have a known number of axes.")
    return len(x.shape)

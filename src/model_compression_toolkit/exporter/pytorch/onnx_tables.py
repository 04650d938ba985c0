# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Lookup tables in standard operators: indices as an initializer, or found by a binary search that is written out.

ONNX has no operator for a binary search. Step by step, `index = 2 · index + (position >= boundary of the step[index])`
takes `num_bits` steps and memory for a few tensors of the size of the input; comparing with all boundaries at once would
take memory for 2**num_bits of them.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from mct_quantizers.common.lookup_table import LookupTable
from model_compression_toolkit.exporter.common.sorted_table import Float32Array, SortedTable, sorted_table, table_indices
from model_compression_toolkit.exporter.pytorch.graph_editing import CODES, LEVELS, add_initializer, insert_node

__all__ = ["insert_table_search", "insert_table_weight", "search_constants", "table_constants"]


def insert_table_weight(graph: ir.Graph, mark: ir.Node, x: Float32Array, table: LookupTable, name: str) -> ir.Value:
    """The values of a constant: its indices as an initializer of the narrowest type, cast, looked up and scaled."""
    arrays = sorted_table(table, x.ndim)
    dtype = next(d for d in (ir.DataType.UINT4, ir.DataType.UINT8, ir.DataType.UINT16) if len(arrays.levels) <= d.max + 1)
    codes = add_initializer(graph, name + CODES, table_indices(x, table).astype(dtype.numpy()))
    # Gather takes no other integers.
    indices = insert_node(mark, "Cast", [codes], f"{name}/indices", ir.DataType.INT32, to=ir.DataType.INT32)
    return _look_up(graph, mark, indices, arrays, name)


def insert_table_search(graph: ir.Graph, mark: ir.Node, x: ir.Value, table: LookupTable, name: str) -> ir.Value:
    """The values of a computed value `x`: its indices by binary search, looked up and scaled."""
    arrays = sorted_table(table, _rank(x, name))
    constants = search_constants(arrays)
    divisor = add_initializer(graph, f"{name}/divisor", constants.pop("divisor"))
    position = insert_node(mark, "Div", [x, divisor], f"{name}/position")
    index: ir.Value | None = None
    for step, boundaries in enumerate(constants.values()):
        at = f"{name}/step_{step}"
        boundary = add_initializer(graph, f"{name}/boundaries_{step}", boundaries)
        if index is not None:
            boundary = insert_node(mark, "Gather", [boundary, index], f"{at}/boundary")
        is_above = insert_node(mark, "GreaterOrEqual", [position, boundary], f"{at}/is_above", ir.DataType.BOOL)
        is_last = step == len(constants) - 1
        bit_name = f"{at}/bit" if index is not None or not is_last else name + CODES
        bit = insert_node(mark, "Cast", [is_above], bit_name, ir.DataType.INT32, to=ir.DataType.INT32)
        if index is None:
            index = bit
        else:
            doubled = insert_node(mark, "Add", [index, index], f"{at}/doubled", ir.DataType.INT32)
            index_name = name + CODES if is_last else f"{at}/index"
            index = insert_node(mark, "Add", [doubled, bit], index_name, ir.DataType.INT32)
    if index is None:
        raise ValueError(f"{name} needs a table.")
    return _look_up(graph, mark, index, arrays, name)


def table_constants(arrays: SortedTable) -> dict[str, Float32Array]:
    """The constants with which a file looks indices up, by the end of their names."""
    return {LEVELS.removeprefix("/"): arrays.levels, "threshold": arrays.threshold}


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


def _look_up(graph: ir.Graph, mark: ir.Node, indices: ir.Value, arrays: SortedTable, name: str) -> ir.Value:
    levels, threshold = (add_initializer(graph, f"{name}/{k}", v) for k, v in table_constants(arrays).items())
    gathered = insert_node(mark, "Gather", [levels, indices], f"{name}/gathered")
    return insert_node(mark, "Mul", [gathered, threshold], f"{name}/dequantized")


def _rank(x: ir.Value, name: str) -> int:
    if x.shape is None:
        raise ValueError(f"{name} must have a known number of axes.")
    return len(x.shape)

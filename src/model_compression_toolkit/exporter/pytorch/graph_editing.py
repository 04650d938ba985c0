# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Adds constants and nodes to an ONNX graph, and how the values are called that a comparison looks for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["CODES", "VALUES", "add_initializer", "insert_node"]

CODES = "/codes"
"""The name of a tensor of integers, or of indices into a table, ends so."""
VALUES = "/values"
"""The name of a tensor that a quantizer without integers made ends so."""


def add_initializer(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """A new constant of the graph."""
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert_node(
    mark: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType = ir.DataType.FLOAT,
    attributes: Mapping[str, int] | None = None,
) -> ir.Value:
    """The output, called `name` and shaped like that of `mark`, of a new node in front of `mark`."""
    node = ir.node(op_type, inputs, attributes or {}, name=name)
    output = node.outputs[0]
    output.name, output.shape, output.dtype = name, mark.outputs[0].shape, dtype
    mark.prepend(node)
    return output

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Turns the marks of an exported graph into QuantizeLinear and DequantizeLinear, or into the look-up in a table."""

import numpy as np
import onnx_ir as ir

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import IntArray, QuantParams
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.exporter.pytorch.graph_editing import CODES, VALUES, add_initializer, insert_node
from model_compression_toolkit.exporter.pytorch.onnx_tables import insert_table_search, insert_table_weight

DOMAIN = "mct_quantizers"
MARK = "Mark"

_SIGNED = ir.DataType.INT4, ir.DataType.INT8, ir.DataType.INT16
_UNSIGNED = ir.DataType.UINT4, ir.DataType.UINT8, ir.DataType.UINT16


def rewrite_marks(graph: ir.Graph, plan: QuantizationPlan) -> None:
    """Replace each mark: a constant becomes integers and DequantizeLinear, a computed value both operators.

    With a table a constant becomes indices and the look-up, a computed value the search too. What a quantizer of the
    user's own made gets a name, no more.

    Args:
        graph: the graph, with marks that carry the attributes `name` (of the tensor) and `call` (of this use of it).
        plan: the plan with the grids and tables.

    Raises:
        ValueError: a weight that is no constant; a grid that ONNX has no type for.
    """
    constants: dict[tuple[ir.Value, str], ir.Value] = {}
    for mark in [node for node in graph if (node.domain, node.op_type) == (DOMAIN, MARK)]:
        name, call = (mark.attributes[key].as_string() for key in ("name", "call"))
        x, tensor = _only_input(mark), plan[name]
        if x.const_value is not None:
            # A layer that is called twice has one weight.
            if (x, name) not in constants:
                constants[x, name] = _constant(graph, mark, x, tensor)
            value = constants[x, name]
        elif tensor.is_weight:
            raise ValueError(f"The weight {name} must be a constant of the exported graph. Received: a computed value")
        else:
            value = _activation(graph, mark, x, tensor, call)
        output = mark.outputs[0]
        if output.is_graph_output():
            if tensor.params is None:
                # What a comparison looks for keeps its name.
                value = insert_node(mark, "Identity", [value], f"{call}/output")
            value.name = output.name
        ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
        graph.remove(mark, safe=True)


def check_domains(model: ir.Model) -> None:
    """Refuse a model that standard ONNX does not describe.

    Raises:
        ValueError: an operator of another domain, or a function.
    """
    foreign = {f"{n.domain}::{n.op_type}" for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.domain}
    if foreign or model.functions:
        raise ValueError(f"Expected operators of standard ONNX only. Received: {sorted(foreign)}")


def _constant(graph: ir.Graph, mark: ir.Node, x: ir.Value, tensor: TensorPlan) -> ir.Value:
    """The value of a quantized constant: integers or indices as an initializer, made real again."""
    params, name = tensor.params, tensor.name
    if x.const_value is None:
        raise ValueError(f"{name} must be a constant.")
    if params is None:
        return add_initializer(graph, name + VALUES, x.const_value.numpy())
    if isinstance(params, LookupTable):
        return insert_table_weight(graph, mark, x.const_value.numpy(), params, name)
    dtype = _code_type(params.quant_min, params.quant_max, params.zero_point, least_bits=4)
    codes: IntArray = arithmetic.quantize(x.const_value.numpy(), params, numpy_ops)
    inputs = [
        add_initializer(graph, name + CODES, codes.astype(dtype.numpy())),
        *_grid(graph, name, params, params.zero_point, dtype),
    ]
    return insert_node(mark, "DequantizeLinear", inputs, f"{name}/dequantized", attributes=_axis(params))


def _activation(graph: ir.Graph, mark: ir.Node, x: ir.Value, tensor: TensorPlan, name: str) -> ir.Value:
    """The quantized value of a computed value, in a use of `tensor` that is called `name`."""
    if tensor.params is None:
        return insert_node(mark, "Identity", [x], name + VALUES)
    if isinstance(tensor.params, LookupTable):
        return insert_table_search(graph, mark, x, tensor.params, name)
    return _on_grid(graph, mark, x, tensor.params, name)


def _on_grid(graph: ir.Graph, mark: ir.Node, x: ir.Value, params: QuantParams, name: str) -> ir.Value:
    """The value of QuantizeLinear and DequantizeLinear of a computed value.

    The integers are shifted to start at 0, which changes no value: default sessions of ONNX Runtime fail to load some
    networks with int8 activations from opset 21 on. A range narrower than its type needs a Clip.
    """
    shift = min(params.quant_min, 0)
    low, high, zero_point = params.quant_min - shift, params.quant_max - shift, params.zero_point - shift
    dtype = _code_type(low, high, zero_point, least_bits=8)
    if (dtype.min, dtype.max) != (low, high):
        if params.axis is not None:
            raise ValueError(f"{name} must have one scale, because its range is narrower than {dtype}.")
        ends = (("min", params.min_range), ("max", params.max_range))
        bounds = [add_initializer(graph, f"{name}/{end}", value[0].astype(np.float32)) for end, value in ends]
        x = insert_node(mark, "Clip", [x, *bounds], f"{name}/clipped")
    grid = _grid(graph, name, params, zero_point, dtype)
    codes = insert_node(mark, "QuantizeLinear", [x, *grid], name + CODES, dtype, _axis(params))
    return insert_node(mark, "DequantizeLinear", [codes, *grid], f"{name}/dequantized", attributes=_axis(params))


def _axis(params: QuantParams) -> dict[str, int]:
    return {} if params.axis is None else {"axis": params.axis}


def _only_input(mark: ir.Node) -> ir.Value:
    (x,) = mark.inputs
    if x is None:
        raise ValueError(f"Expected a mark with an input. Received: {mark}")
    return x


def _code_type(quant_min: int, quant_max: int, zero_point: IntArray, least_bits: int) -> ir.DataType:
    """The narrowest type that holds the range and the zero points."""
    low, high = min(quant_min, int(zero_point.min())), max(quant_max, int(zero_point.max()))
    for dtype in _SIGNED if low < 0 else _UNSIGNED:
        if dtype.bitwidth >= least_bits and dtype.min <= low and high <= dtype.max:
            return dtype
    raise ValueError(f"ONNX has no type for integers from {low} to {high}.")


def _grid(
    graph: ir.Graph, name: str, params: QuantParams, zero_point: IntArray, dtype: ir.DataType
) -> tuple[ir.Value, ir.Value]:
    """Scale and zero point as initializers: scalars per tensor, vectors per channel."""
    shape = () if params.axis is None else (-1,)
    scale = params.scale.astype(np.float32).reshape(shape)
    return (
        add_initializer(graph, f"{name}/scale", scale),
        add_initializer(graph, f"{name}/zero_point", zero_point.astype(dtype.numpy()).reshape(shape)),
    )

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs of one product between quantized tensors: a default session must compute what the plain one does."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from model_compression_toolkit.exporter.onnx_biases import separate_biases

CHANNELS = 4
SHAPES = {
    "Conv": ((2, CHANNELS, 6, 6), (CHANNELS, CHANNELS, 3, 3)),
    "ConvTranspose": ((2, CHANNELS, 6, 6), (CHANNELS, CHANNELS, 3, 3)),
    "Gemm": ((3, CHANNELS), (CHANNELS, CHANNELS)),
    "MatMul": ((2, 5, CHANNELS), (CHANNELS, CHANNELS)),
    "ConvAdd": ((2, CHANNELS, 6, 6), (CHANNELS, CHANNELS, 3, 3)),
}


def graph_of(op_type, weight_scale, bias, between=(), is_integer=True, output_scale=0.03, **attributes):
    """Input, weight of 8 bits or float, bias; the result after `between` has 8 bits."""
    shape, weight_shape = SHAPES[op_type]
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, weight_shape).astype(np.int8)
    axis = 0 if op_type.startswith("ConvA") or op_type == "Conv" else 1
    scale = np.broadcast_to(np.float32(weight_scale), (CHANNELS,)).copy()
    bias = np.broadcast_to(np.float32(bias), (CHANNELS,)).copy()
    constants = {
        "codes": codes, "scale": scale, "zero": np.zeros(CHANNELS, np.int8), "bias": bias,
        "x_scale": np.float32(2.0**-7), "middle": np.uint8(128), "y_scale": np.float32(output_scale),
        "low": np.float32(0), "high": np.float32(6),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "middle"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "middle"], ["xd"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], axis=axis),
    ]
    if not is_integer:
        nodes.pop()
        constants["w"] = codes * scale.reshape([-1 if i == axis else 1 for i in range(codes.ndim)])
    if op_type in ("MatMul", "ConvAdd"):
        if op_type == "ConvAdd":
            constants["bias"] = bias.reshape(-1, 1, 1)
        nodes.append(helper.make_node(op_type.removesuffix("Add"), ["xd", "w"], ["m"], name="product"))
        nodes.append(helper.make_node("Add", ["m", "bias"], ["y"]))
    else:
        nodes.append(helper.make_node(op_type, ["xd", "w", "bias"], ["y"], name="product", **attributes))
    result = "y"
    for index, name in enumerate(between):
        ends = ["low", "high"] if name == "Clip" else []
        nodes.append(helper.make_node(name, [result, *ends], [f"r{index}"]))
        result = f"r{index}"
    nodes.append(helper.make_node("QuantizeLinear", [result, "y_scale", "middle"], ["yq"]))
    nodes.append(helper.make_node("DequantizeLinear", ["yq", "y_scale", "middle"], ["out"]))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s) for name, s in (("x", shape), ("out", None))]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    return helper.make_graph(nodes, "product", ends[:1], ends[1:], initializers)


def outputs(graph):
    """Of a session without optimizations, and of one as it comes."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = np.random.default_rng(1).uniform(-1, 1, [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim])
    results = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"x": x.astype(np.float32)})[0])
    return results


def separated(graph, of_integers=False):
    copy = onnx.GraphProto.FromString(graph.SerializeToString())
    separate_biases(copy, of_integers)
    return copy


def op_types(graph):
    return [node.op_type for node in graph.node if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]


# What does not fit, what is coarse, and a float weight with one large channel, which 8 bits would round.
CASES = {
    "too large": {"weight_scale": 1e-9, "bias": [2.0, -2.0, 0.5, 1.0]},
    "coarse": {"weight_scale": 8.0, "bias": [0.7, -0.9, 0.4, 1.2], "output_scale": 0.5},
    "float": {"weight_scale": [1.0, 0.01, 0.01, 0.01], "bias": [0.7, -0.9, 0.4, 1.2], "is_integer": False},
}


@pytest.mark.parametrize("between", [(), ("Relu",), ("Clip",)], ids=["", "Relu", "Clip"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op_type", SHAPES)
def test_a_default_session_computes_what_the_plain_one_does(op_type, case, between):
    graph = graph_of(op_type, between=between, **CASES[case])
    plain, default = outputs(separated(graph))
    assert np.array_equal(plain, outputs(graph)[0])
    # Sums of floats in another order, and a tie.
    assert np.abs(default - plain).max() <= CASES[case].get("output_scale", 0.03)
    assert np.mean(default != plain) < 0.02


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_such_a_bias_is_changed_where_it_is_not_apart(op_type):
    plain, default = outputs(graph_of(op_type, **CASES["too large"]))
    assert np.abs(default - plain).max() > 0.5


@pytest.mark.parametrize("op_type", SHAPES)
def test_a_bias_that_fits_stays_where_integer_kernels_take_it(op_type):
    graph = graph_of(op_type, weight_scale=1e-3, bias=0.5)
    assert separated(graph) == graph
    assert separated(graph, of_integers=True) != graph


@pytest.mark.parametrize("op_type", SHAPES)
def test_channels_of_zeros_get_a_scale_in_which_their_bias_fits(op_type):
    graph = graph_of(op_type, weight_scale=[1e-12, 1e-3, 1e-3, 1e-3], bias=[2.0, 0.1, 0.1, 0.1])
    constants = {tensor.name: tensor for tensor in graph.initializer}
    codes = numpy_helper.to_array(constants["codes"]).copy()
    np.moveaxis(codes, 0 if op_type in ("Conv", "ConvAdd") else 1, 0)[0] = 0
    constants["codes"].CopyFrom(numpy_helper.from_array(codes, "codes"))
    result = separated(graph)
    assert op_types(result) == op_types(graph)
    assert result.node == graph.node
    scale = numpy_helper.to_array(next(tensor for tensor in result.initializer if tensor.name == "scale"))
    assert scale[0] > 1e-9
    assert scale[1:].tolist() == [np.float32(1e-3)] * 3
    plain, default = outputs(result)
    assert np.array_equal(plain, outputs(graph)[0])
    assert np.abs(default - plain).max() <= 0.031


def test_the_factors_of_a_gemm_are_kept():
    graph = graph_of("Gemm", 1e-9, [2.0, -2.0, 0.5, 1.0], alpha=0.5, beta=0.25)
    result = separated(graph)
    assert len(next(node for node in result.node if node.op_type == "Gemm").input) == 2
    plain, default = outputs(result)
    assert np.array_equal(plain, outputs(graph)[0])
    assert np.array_equal(default, plain)


def test_a_bias_that_two_layers_add_is_written_once():
    graph = graph_of("Conv", 1e-3, [2.0, -2.0, 0.5, 1.0])
    second = helper.make_node("Conv", ["xd", "w", "bias"], ["second"], name="again")
    graph.node.append(second)
    graph.output.append(helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, None))
    result = separated(graph, of_integers=True)
    assert op_types(result) == ["Conv", "Add", "Conv", "Add"]
    names = [tensor.name for tensor in result.initializer]
    assert names.count("bias/aligned") == 1
    assert "bias" not in names
    assert np.array_equal(outputs(result)[0], outputs(graph)[0])

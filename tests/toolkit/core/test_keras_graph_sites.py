# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of small Keras models are quantized, fused, kept or left in float."""

import functools

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import ZOO, built, random

from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.operation import Kind
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig, Rule
from model_compression_toolkit.core.keras.operators import kind_of
from model_compression_toolkit.core.keras.reading import graph_of
from model_compression_toolkit.core.keras.surgery import names_of, plan_of
from model_compression_toolkit.ptq.keras.quantization_facade import quantize
from model_compression_toolkit.qat.keras.quantization_facade import prepare_qat

pytestmark = pytest.mark.keras

MAIN = "an output of the model (quantize_output=False)"
ACCUMULATOR = ": stays in the accumulator"
KEEPS = "keeps the grid of its input"
ROWS = "its rows come from the weight"

# What each tensor of each model is: Q for quantized, else the reason why not.
EXPECTED = {
    "sequential": {
        "image.output": "Q", "conv.kernel": "Q", "conv.output": f"fused into relu{ACCUMULATOR}", "relu.output": "Q",
        "pool.output": KEEPS, "flatten.output": KEEPS, "head.kernel": "Q", "head.output": MAIN,
    },
    "residual": {
        "image.output": "Q", "stem_conv.kernel": "Q", "stem_conv.output": f"fused into stem_relu{ACCUMULATOR}",
        "stem_relu.output": "Q", "depthwise.kernel": "Q", "depthwise.output": f"fused into add{ACCUMULATOR}",
        "add.output": f"fused into relu{ACCUMULATOR}", "relu.output": "Q", "pool.output": "Q", "head.kernel": "Q",
        "head.output": MAIN,
    },
    "shared": {
        "x.output": "Q", "first.kernel": "Q", "first.output": f"fused into act{ACCUMULATOR}", "act.output": "Q",
        "middle.kernel": "Q", "middle.output": f"fused into act:2{ACCUMULATOR}", "act:2.output": "Q",
        "middle:2.output": f"fused into act:3{ACCUMULATOR}", "act:3.output": "Q", "second.kernel": "Q",
        "second.output": MAIN,
    },
    "nested": {
        "image.output": "Q", "conv.kernel": "Q", "conv.output": "Q", "block/conv.kernel": "Q",
        "block/conv.output": f"fused into block/norm{ACCUMULATOR}",
        "block/norm.output": f"fused into block/relu{ACCUMULATOR}", "block/relu.output": "Q",
        "block/conv:2.output": f"fused into block/norm:2{ACCUMULATOR}",
        "block/norm:2.output": f"fused into block/relu:2{ACCUMULATOR}", "block/relu:2.output": "Q",
        "difference.output": "Q", "tail/flatten.output": KEEPS, "tail/conv.kernel": "Q", "tail/conv.output": MAIN,
    },
    "dictionaries": {
        "right.output": "Q", "left.output": "Q", "of_right.kernel": "Q", "of_right.output": "Q",
        "of_left.kernel": "Q", "of_left.output": "Q", "product.output": "Q", "total.kernel": "Q",
        "total.output": MAIN, "gate.kernel": "Q", "gate.output": MAIN,
    },
    "lists": {
        "one.output": "Q", "two.output": "Q", "dense.kernel": "Q", "dense.output": "Q",
        "dense:2.output": f"fused into tanh{ACCUMULATOR}", "tanh.output": "Q", "join.output": "Q",
        "head.kernel": "Q", "head.output": MAIN,
    },
    "functions": {
        "x.output": "Q", "first.kernel": "Q", "first.output": "Q", "split[0].output": KEEPS,
        "split[1].output": KEEPS, "get_item.output": KEEPS, "sigmoid.output": "Q", "multiply.output": "Q",
        "relu.output": "Q", "concatenate.output": "Q", "reshape.output": KEEPS, "add.output": "Q",
        "second.kernel": "Q", "second.output": MAIN,
    },
    "attention_by_hand": {
        "x.output": "Q", "query.kernel": "Q", "query.output": "Q", "key.kernel": "Q", "key.output": "Q",
        "transpose.output": KEEPS, "value.kernel": "Q", "value.output": "Q", "matmul.output": "Q",
        "true_divide.output": "Q", "softmax.output": "Q", "matmul_1.output": "Q", "head.kernel": "Q",
        "head.output": MAIN,
    },
    "convolutions_1d": {
        "x.output": "Q", "conv.kernel": "Q", "conv.output": "Q", "depthwise.kernel": "Q", "depthwise.output": "Q",
        "separable.depthwise_kernel": "Q", "separable.pointwise_kernel": "Q", "separable.output": "Q",
        "transposed.kernel": "Q", "transposed.output": "Q", "pool.output": KEEPS, "head.kernel": "Q",
        "head.output": MAIN,
    },
    "convolutions_3d": {
        "x.output": "Q", "conv.kernel": "Q", "conv.output": "Q", "transposed.kernel": "Q", "transposed.output": "Q",
        "pool.output": MAIN,
    },
    "einsum": {
        "x.output": "Q", "heads.kernel": "Q", "heads.output": "Q", "join.kernel": "Q", "join.output": "Q",
        "norm.output": MAIN,
    },
    "words": {
        "words.embeddings": "Q", "words.output": ROWS, "mean.output": "Q", "head.kernel": "Q", "head.output": MAIN,
    },
    "u_net": {
        "image.output": "Q", "high_conv.kernel": "Q", "high_conv.output": f"fused into high_relu{ACCUMULATOR}",
        "high_relu.output": "Q", "down.output": KEEPS, "low_conv.kernel": "Q",
        "low_conv.output": f"fused into low_relu{ACCUMULATOR}", "low_relu.output": "Q", "up.kernel": "Q",
        "up.output": "Q", "join.output": "Q", "separable.depthwise_kernel": "Q", "separable.pointwise_kernel": "Q",
        "separable.output": f"fused into relu{ACCUMULATOR}", "relu.output": "Q", "head.kernel": "Q",
        "head.output": MAIN,
    },
    "dropout": {
        "x.output": "Q", "first.kernel": "Q", "first.output": "Q", "drop.output": KEEPS, "second.kernel": "Q",
        "second.output": MAIN,
    },
}  # fmt: skip


@functools.cache
def quantized(name):
    model, inputs = built(name)
    return quantize(model, [inputs])


def plan(name, **arguments):
    model, inputs = built(name)
    return plan_of(quantize(model, [inputs], QuantizationConfig(**arguments)))


@pytest.mark.parametrize("name", EXPECTED)
def test_every_tensor_is_quantized_or_has_a_reason(name):
    tensors = {tensor.name: "Q" if tensor.config else tensor.reason for tensor in plan_of(quantized(name)).tensors}
    assert tensors == EXPECTED[name]


@pytest.mark.parametrize("name", ZOO)
def test_what_the_plan_quantizes_is_what_stands_in_the_model(name):
    model = quantized(name)
    tensors = plan_of(model).quantized()
    wrappers = [layer for layer in model.layers if isinstance(layer, KerasQuantizationWrapper)]
    holders = [layer for layer in model.layers if isinstance(layer, KerasActivationQuantizationHolder)]
    assert len(holders) == sum(not tensor.is_weight for tensor in tensors)
    assert sum(len(layer.weights_quantizers) for layer in wrappers) == sum(tensor.is_weight for tensor in tensors)
    names = names_of(model)
    for tensor in tensors:
        layer = model.get_layer(names[tensor.name])
        if tensor.is_weight:
            assert layer.weights_quantizers[tensor.site.tensor].params == tensor.params
        else:
            assert layer.activation_holder_quantizer.params == tensor.params
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in model.layers) or name == "nested"


@pytest.mark.parametrize("name", ZOO)
def test_a_quantized_model_has_the_inputs_and_outputs_of_the_users(name):
    model, inputs = built(name)
    ours = quantized(name)
    expected, received = model(inputs), ours(inputs)
    keras.tree.assert_same_structure(received, expected)
    assert ours.name == model.name
    assert [tensor.name for tensor in ours.inputs] == [tensor.name for tensor in model.inputs]
    for a, b in zip(keras.tree.flatten(received), keras.tree.flatten(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_holders_are_named_after_their_tensor_and_stand_behind_it():
    model = quantized("shared")
    holders = [layer.name for layer in model.layers if isinstance(layer, KerasActivationQuantizationHolder)]
    suffix = "activation_holder_quantizer"
    assert holders == [f"{name}_{suffix}" for name in ("x", "act", "act_2", "act_3")]
    nested = [layer.name for layer in quantized("nested").layers]
    assert f"block_relu_2_{suffix}" in nested


def test_layers_of_inner_models_that_share_a_name_get_names_of_their_own():
    names = [layer.name for layer in quantized("nested").layers]
    assert len(set(names)) == len(names)
    assert {"conv", "block_conv", "tail_conv"} <= set(names)


def test_every_call_of_a_shared_layer_has_the_same_weight_and_holders_of_its_own():
    model = quantized("shared")
    wrappers = [layer for layer in model.layers if isinstance(layer, KerasQuantizationWrapper)]
    assert [layer.name for layer in wrappers] == ["first", "middle", "second"]
    again = graph_of(model)
    assert [call.name for call in again.calls if call.path == "middle"] == ["middle", "middle:2"]


# First and last.


def widths(of_plan):
    return {tensor.name: tensor.config.num_bits for tensor in of_plan.quantized()}


def test_the_first_and_last_layers_and_what_feeds_them_get_the_width_that_is_named():
    model, inputs = built("residual")
    found = widths(plan_of(quantize(model, inputs, QuantizationConfig.from_bits("w4a6", first_last_bits=8))))
    assert found == {
        "image.output": 8, "stem_conv.kernel": 8, "stem_relu.output": 6, "depthwise.kernel": 4, "relu.output": 6,
        "pool.output": 8, "head.kernel": 8,
    }  # fmt: skip


def test_every_input_and_every_output_has_a_first_and_a_last_layer():
    model, inputs = built("dictionaries")
    found = widths(plan_of(quantize(model, [inputs], QuantizationConfig.from_bits("w4a6", first_last_bits=8))))
    assert {name for name, bits in found.items() if bits == 8} == {
        "left.output", "right.output", "of_left.kernel", "of_right.kernel", "of_right.output", "product.output",
        "total.kernel", "gate.kernel",
    }  # fmt: skip
    assert found["of_left.output"] == 6


def test_without_a_width_for_the_ends_all_layers_are_alike():
    model, inputs = built("residual")
    found = plan_of(quantize(model, inputs, QuantizationConfig.from_bits("w4a6")))
    assert {(tensor.is_weight, tensor.config.num_bits) for tensor in found.quantized()} == {(True, 4), (False, 6)}


def test_the_outputs_are_quantized_when_that_is_asked_for():
    found = plan("dictionaries", quantize_output=True)
    assert found["total.output"].config is not None
    assert found["gate.output"].config is not None
    model, inputs = built("dictionaries")
    outputs = quantize(model, [inputs], QuantizationConfig(quantize_output=True))(inputs)
    for name in ("total", "gate"):
        params = found[f"{name}.output"].params
        steps = ops.convert_to_numpy(outputs[name]) / float(params.scale[0])
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


# Rules and filters.


def test_rules_choose_by_name_and_type_and_the_last_one_decides():
    rules = (
        Rule(type="Dense", weight_bits=6),
        Rule(name="middle", weight_bits=3, activation_bits=5),
        Rule(name="act:2", activation_bits=2),
        Rule(type="ReLU", name="act", quantize=False),
    )
    found = plan("shared", rules=rules)
    assert widths(found) == {
        "x.output": 8, "first.kernel": 6, "middle.kernel": 3, "act:2.output": 2, "act:3.output": 8, "second.kernel": 6,
    }  # fmt: skip
    assert found["act.output"].reason == "left in float by a rule of the configuration"


def test_rules_reach_layers_of_inner_models_by_their_path():
    found = plan("nested", rules=(Rule(name="block/.*", quantize=False), Rule(name="tail/conv", weight_bits=3)))
    assert found["block/conv.kernel"].config is None
    assert found["block/relu.output"].config is None
    assert found["tail/conv.kernel"].config.num_bits == 3
    assert found["conv.kernel"].config.num_bits == 8


def test_rules_choose_functions_by_their_type():
    found = plan(
        "attention_by_hand", rules=(Rule(type="Matmul", activation_bits=4), Rule(type="Softmax", quantize=False))
    )
    assert found["matmul.output"].config.num_bits == 4
    assert found["softmax.output"].reason == "left in float by a rule of the configuration"


def test_a_filter_sees_names_and_types():
    seen = {}

    def keep(name, type_name):
        seen[name] = type_name
        return type_name != "ReLU"

    found = plan("sequential", filter=keep)
    assert seen == {
        "image": "input", "conv": "Conv2D", "relu": "ReLU", "pool": "MaxPooling2D", "flatten": "Flatten",
        "head": "Dense",
    }  # fmt: skip
    assert found["relu.output"].reason == "left in float by the filter of the configuration"
    assert found["conv.kernel"].config is not None


def test_a_model_of_which_nothing_is_left_to_quantize_says_why():
    model, inputs = built("dropout")
    for verb in (quantize, prepare_qat):
        with pytest.raises(ValueError, match=r"nothing to quantize\..*first\.kernel: left in float by the filter"):
            verb(model, inputs, QuantizationConfig(filter=lambda name, type_name: False))


def test_a_model_of_integers_only_has_nothing_to_quantize():
    x = keras.Input((4,), dtype="int32", name="x")
    with pytest.raises(ValueError, match="nothing to quantize"):
        quantize(keras.Model(x, ops.add(x, x)), np.ones((2, 4), np.int32))


# Kinds of operations.

KINDS = {
    "activation relu": (lambda: layers.Activation("relu"), Kind.ACTIVATION),
    "activation softmax": (lambda: layers.Activation("softmax"), Kind.OTHER),
    "activation own": (lambda: layers.Activation(lambda x: x), Kind.OTHER),
    "nearest": (lambda: layers.UpSampling2D(2), Kind.PRESERVING),
    "bilinear": (lambda: layers.UpSampling2D(2, interpolation="bilinear"), Kind.OTHER),
    "average": (lambda: layers.AveragePooling2D(2), Kind.OTHER),
    "maximum": (lambda: layers.MaxPooling2D(2), Kind.PRESERVING),
    "dropout": (lambda: layers.Dropout(0.5), Kind.PRESERVING),
    "noise": (lambda: layers.GaussianNoise(0.5), Kind.OTHER),
    "scale": (lambda: layers.Rescaling(0.5), Kind.OTHER),
    "layer norm": (layers.LayerNormalization, Kind.OTHER),
    "group norm": (lambda: layers.GroupNormalization(1), Kind.OTHER),
    "batch norm": (layers.BatchNormalization, Kind.BATCH_NORM),
    "padding": (lambda: layers.ZeroPadding2D(1), Kind.PRESERVING),
    "prelu": (layers.PReLU, Kind.ACTIVATION),
    "dense": (lambda: layers.Dense(3), Kind.WEIGHTED),
    "depthwise": (lambda: layers.DepthwiseConv2D(2), Kind.WEIGHTED),
    "relu": (lambda: ops.relu, Kind.ACTIVATION),
    "softmax": (lambda: ops.softmax, Kind.OTHER),
    "max pool": (lambda: lambda x: ops.max_pool(x, 2), Kind.PRESERVING),
    "average pool": (lambda: lambda x: ops.average_pool(x, 2), Kind.OTHER),
    "item": (lambda: lambda x: x[..., :1], Kind.PRESERVING),
    "sum": (lambda: lambda x: ops.sum(x, axis=-1), Kind.OTHER),
    "times": (lambda: lambda x: x * 2.0, Kind.OTHER),
    "plus": (lambda: lambda x: x + 2.0, Kind.ADD),
    "minus": (lambda: lambda x: x - 2.0, Kind.OTHER),
    "pad": (lambda: lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), Kind.OTHER),
    "matmul": (lambda: lambda x: ops.matmul(x, x), Kind.COMPUTE),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_operation_has_its_part(name):
    make, expected = KINDS[name]
    x = keras.Input((4, 4, 4))
    (call,) = graph_of(keras.Model(x, make()(x))).calls
    assert kind_of(call) is expected


def test_every_function_that_only_moves_values_does_so():
    """What is called preserving makes no value that was not there, apart from zeros."""
    moved = {
        "reshape": lambda x: ops.reshape(x, (-1, 8)), "transpose": lambda x: ops.transpose(x, (0, 2, 1)),
        "swapaxes": lambda x: ops.swapaxes(x, 1, 2), "moveaxis": lambda x: ops.moveaxis(x, 1, 2),
        "flip": lambda x: ops.flip(x, 1), "roll": lambda x: ops.roll(x, 1, 1), "tile": lambda x: ops.tile(x, (1, 2, 1)),
        "repeat": lambda x: ops.repeat(x, 2, 1), "rot90": lambda x: ops.rot90(x, axes=(1, 2)),
        "expand_dims": lambda x: ops.expand_dims(x, 1), "stop_gradient": ops.stop_gradient,
        "unstack": lambda x: ops.unstack(x, 2, axis=1)[1], "slice": lambda x: ops.slice(x, (0, 0, 1), (3, 2, 2)),
    }  # fmt: skip
    data = random(3, 2, 4)
    for name, function in moved.items():
        x = keras.Input(batch_shape=(3, 2, 4))
        graph = graph_of(keras.Model(x, function(x)))
        assert {kind_of(call) for call in graph.calls} == {Kind.PRESERVING}, name
        received = ops.convert_to_numpy(function(ops.convert_to_tensor(data)))
        assert set(received.ravel()) <= set(data.ravel()), name

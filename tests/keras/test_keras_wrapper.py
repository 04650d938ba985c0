# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import functools
import importlib.util
import json
import os
import pickle
import random as python_random
import shutil
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest

from mct_quantizers import BaseInferableQuantizer, KerasQuantizationWrapper, keras_quantizers
from mct_quantizers._version import __version__
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.keras.load_model import keras_load_quantized_model
from mct_quantizers.keras.quantizers import (
    BaseKerasInferableQuantizer,
    WeightsLUTSymmetricInferableQuantizer,
    WeightsPOTInferableQuantizer,
    WeightsSymmetricInferableQuantizer,
    WeightsUniformInferableQuantizer,
)

pytestmark = pytest.mark.keras
BACKEND = keras.config.backend()
layers, to_numpy, to_tensor = keras.layers, keras.ops.convert_to_numpy, keras.ops.convert_to_tensor


@pytest.fixture(autouse=True)
def seeded():
    # Keras starts its initializers from here; its own function imports TensorFlow on every backend.
    python_random.seed(0)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def per_tensor(num_bits: int = 4, threshold: float = 1.0) -> WeightsSymmetricInferableQuantizer:
    return WeightsSymmetricInferableQuantizer(num_bits, threshold, per_channel=False)


def quantized(weight: np.ndarray, quantizer) -> np.ndarray:
    return arithmetic.fake_quantize(weight, quantizer.params, numpy_ops)


def dense(units: int = 3, inputs: int = 5) -> keras.layers.Dense:
    """Built, with weights that reach the ends of the grid and a bias that is not zero."""
    layer = layers.Dense(units, kernel_initializer="ones")
    layer.build((None, inputs))
    layer.set_weights([random(inputs, units), random(units, seed=1)])
    return layer


def dense_by_hand(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return to_numpy(keras.ops.matmul(to_tensor(x), to_tensor(kernel)) + to_tensor(bias))


# Quantizers of a user.


@keras.saving.register_keras_serializable("test_keras_wrapper")
class StepQuantizer(BaseInferableQuantizer):
    """Trainable: learns `step` on the layer, rounds straight through."""

    def __init__(self, step: float = 0.25) -> None:
        self.initial_step = step

    def initialize_quantization(self, tensor_shape, name, layer):
        self.tensor_shape, self.name, self.layer_type = tuple(tensor_shape), name, type(layer)
        start = keras.initializers.Constant(self.initial_step)
        self.step = layer.add_weight(name=f"{name}_step", shape=(1,), initializer=start, trainable=True)
        return {"step": self.step}

    def __call__(self, inputs):
        step = keras.ops.convert_to_tensor(self.step)
        ratio = inputs / step
        # Both differences are exact: the value is the rounded one to the bit.
        return (ratio + keras.ops.stop_gradient(keras.ops.round(ratio) - ratio)) * step

    def get_config(self):
        return {"step": self.initial_step}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def convert2inferable(self):
        return per_tensor(8, float(to_numpy(self.step)[0]) * 2**7)


class Straight(BaseInferableQuantizer):
    """Learns nothing: rounds to eighths, straight through."""

    def __call__(self, inputs):
        return inputs + keras.ops.stop_gradient(keras.ops.round(inputs * 8) / 8 - inputs)


class Flagged(BaseInferableQuantizer):
    """Notes the flag it was called with."""

    def __init__(self) -> None:
        self.flags = []

    def __call__(self, inputs, training):
        self.flags.append(training)
        return inputs * 2 if training else inputs


class Counted(WeightsSymmetricInferableQuantizer):
    """Counts its calls. Its class carries no mark of its own, so no registry finds it."""

    calls = 0

    def __call__(self, inputs):
        self.calls += 1
        return super().__call__(inputs)


class Doubling(BaseKerasInferableQuantizer):
    """Inferable, but on no integer grid; found in a file by its name."""

    def __call__(self, inputs):
        return inputs * 2

    def get_config(self):
        return {}


def counted(layer=None) -> tuple[KerasQuantizationWrapper, Counted]:
    quantizer = Counted(4, [1.0, 0.5, 2.0], per_channel=True, channel_axis=1)
    return KerasQuantizationWrapper(layer or dense(), {"kernel": quantizer}), quantizer


X = random(4, 5, seed=2)


def expected_of(wrapper: KerasQuantizationWrapper, x: np.ndarray = X) -> np.ndarray:
    """The formula of a dense layer with its kernel quantized anew."""
    kernel = quantized(to_numpy(wrapper.layer.kernel), wrapper.weights_quantizers["kernel"])
    return dense_by_hand(x, kernel, to_numpy(wrapper.layer.bias))


# JAX compiles a random start anew for every shape.
ONES = {"kernel_initializer": "ones"}
SEPARABLE_ONES = {"depthwise_initializer": "ones", "pointwise_initializer": "ones"}
# Named weights: layer, attribute, axis of its channels, shape of the input.
NAMED = {
    "Dense": (lambda: layers.Dense(4, **ONES), "kernel", 1, (3, 5)),
    "Dense_by_input": (lambda: layers.Dense(4, **ONES), "kernel", 0, (3, 5)),
    "Dense_bias": (lambda: layers.Dense(4, **ONES), "bias", 0, (3, 5)),
    "Conv1D": (lambda: layers.Conv1D(4, 3, **ONES), "kernel", 2, (2, 9, 3)),
    "Conv2D": (lambda: layers.Conv2D(4, 3, **ONES), "kernel", 3, (2, 5, 5, 4)),
    "Conv2D_grouped": (lambda: layers.Conv2D(4, 3, groups=2, **ONES), "kernel", -1, (2, 5, 5, 4)),
    "Conv3D": (lambda: layers.Conv3D(3, 2, **ONES), "kernel", 4, (1, 4, 4, 4, 2)),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3, depthwise_initializer="ones"), "kernel", 2, (2, 5, 5, 4)),
    "SeparableConv2D_depthwise": (
        lambda: layers.SeparableConv2D(5, 3, **SEPARABLE_ONES),
        "depthwise_kernel",
        2,
        (2, 5, 5, 4),
    ),
    "SeparableConv2D_pointwise": (
        lambda: layers.SeparableConv2D(5, 3, **SEPARABLE_ONES),
        "pointwise_kernel",
        3,
        (2, 5, 5, 4),
    ),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(4, 2, **ONES), "kernel", 2, (2, 5, 5, 3)),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,ce->abe", (None, 4), bias_axes="e", **ONES),
        "kernel",
        1,
        (2, 3, 5),
    ),
    "BatchNormalization": (layers.BatchNormalization, "gamma", 0, (3, 5)),
    "LayerNormalization": (layers.LayerNormalization, "gamma", 0, (3, 5)),
    "PReLU": (layers.PReLU, "alpha", 0, (3, 5)),
}


@pytest.mark.parametrize("is_built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize("name", NAMED)
def test_layer_runs_with_its_weight_quantized_along_the_axis(name, is_built):
    make, attribute, axis, shape = NAMED[name]
    layer, x = make(), random(*shape)
    twin = type(layer).from_config(layer.get_config())
    twin.build(shape)
    count = getattr(twin, attribute).shape[axis]
    # Steps and zero points whose ranges are exact and need no repair.
    steps = [0.125 * (1 + channel % 2) for channel in range(count)]
    low = [-(2 + channel % 3) * step for channel, step in enumerate(steps)]
    high = [end + 7 * step for end, step in zip(low, steps, strict=True)]
    quantizer = WeightsUniformInferableQuantizer(3, low, high, per_channel=True, channel_axis=axis)
    if is_built:
        layer.build(shape)
    wrapper = KerasQuantizationWrapper(layer, {attribute: quantizer})
    wrapper.build(shape)
    for variable in layer.weights:
        variable.assign(random(*variable.shape) if "variance" not in variable.name else np.ones(variable.shape))
    weight = to_numpy(getattr(layer, attribute)).copy()
    outputs = to_numpy(wrapper(x))
    by_slices = np.stack(
        [
            quantized(part, WeightsUniformInferableQuantizer(3, low[channel], high[channel], False))
            for channel, part in enumerate(np.moveaxis(weight, axis, 0))
        ]
    )
    expected = np.moveaxis(by_slices, 0, axis)
    np.testing.assert_array_equal(to_numpy(wrapper.get_quantized_weights()[attribute]), expected)
    assert (expected != weight).any()
    # The same layer on the same numbers.
    twin.set_weights(layer.get_weights())
    getattr(twin, attribute).assign(expected)
    np.testing.assert_array_equal(outputs, to_numpy(twin(x)))
    # The float weight is where it was, a variable.
    assert isinstance(getattr(layer, attribute), keras.Variable)
    np.testing.assert_array_equal(to_numpy(getattr(layer, attribute)), weight)


def test_embedding_looks_up_quantized_rows():
    layer, tokens = layers.Embedding(6, 4), np.array([[0, 5], [3, 3]])
    thresholds = [0.5, 1.0, 2.0, 0.25, 1.0, 4.0]
    quantizer = WeightsPOTInferableQuantizer(4, thresholds, per_channel=True, channel_axis=0)
    wrapper = KerasQuantizationWrapper(layer, {"embeddings": quantizer})
    wrapper.build((None, 2))
    layer.embeddings.assign(random(6, 4))
    rows = np.stack(
        [np.clip(np.round(row / (t / 8)), -8, 7) * (t / 8) for row, t in zip(random(6, 4), thresholds, strict=True)]
    )
    np.testing.assert_array_equal(to_numpy(wrapper(tokens)), rows[tokens].astype(np.float32))


def test_several_weights_are_quantized_each_by_its_own():
    layer = dense()
    kernel, bias = layer.get_weights()
    wrapper = KerasQuantizationWrapper(layer, {"kernel": per_tensor(4), "bias": per_tensor(2, 2.0)})
    expected = dense_by_hand(X, quantized(kernel, per_tensor(4)), quantized(bias, per_tensor(2, 2.0)))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected)
    assert (wrapper.num_weights_quantizers, wrapper.is_weights_quantization) == (2, True)
    assert [id(variable) for variable in wrapper.variables] == [id(layer.kernel), id(layer.bias)]


@pytest.mark.parametrize("key", ["kernel", "kernel:0", "dense/kernel:0", "model/dense/kernel"])
def test_of_a_path_the_leaf_counts(key):
    wrapper = KerasQuantizationWrapper(dense(), {key: per_tensor()})
    assert list(wrapper.weights_quantizers) == ["kernel"]
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))


def test_wrapper_without_quantizers_is_its_layer():
    layer = dense()
    wrapper = KerasQuantizationWrapper(layer, {})
    np.testing.assert_array_equal(to_numpy(wrapper(X)), to_numpy(layer(X)))
    assert not wrapper.is_weights_quantization
    assert wrapper.convert_to_inferable_quantizers() is None
    assert wrapper.get_weights_vars() == []


def test_weights_vars_are_key_variable_and_quantizer():
    quantizers = {"bias": per_tensor(2), "kernel": per_tensor(4)}
    wrapper = KerasQuantizationWrapper(dense(), quantizers)
    wrapper.build((None, 5))
    assert [(key, id(variable), id(quantizer)) for key, variable, quantizer in wrapper.get_weights_vars()] == [
        ("bias", id(wrapper.layer.bias), id(quantizers["bias"])),
        ("kernel", id(wrapper.layer.kernel), id(quantizers["kernel"])),
    ]


@pytest.mark.parametrize("ask", ["get_weights_vars", "get_quantized_weights", "get_integer_weights"])
def test_weights_of_a_wrapper_that_is_not_built_are_refused(ask):
    with pytest.raises(ValueError, match="must be built, by a call or by `build`, before it has weight 'kernel'"):
        getattr(KerasQuantizationWrapper(layers.Dense(3), {"kernel": per_tensor()}), ask)()


def test_quantizer_may_be_replaced():
    wrapper = KerasQuantizationWrapper(dense(), {"kernel": per_tensor(4)})
    before = to_numpy(wrapper(X))
    wrapper.set_quantizer("kernel", per_tensor(2, 2.0))
    assert (to_numpy(wrapper(X)) != before).any()
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))
    assert wrapper.num_weights_quantizers == 1


def test_integer_weights_are_the_codes_of_the_float_weight():
    layer = layers.Dense(2, use_bias=False)
    layer.build((None, 3))
    layer.kernel.assign(np.float32([[-2.0, 0.124], [0.26, -0.126], [0.9, 3.0]]))
    quantizer = WeightsSymmetricInferableQuantizer(3, [1.0, 2.0], True, 1)
    wrapper = KerasQuantizationWrapper(layer, {"kernel": quantizer})
    wrapper.build((None, 3))
    # Steps of 1/4 and 1/2, integers from -4 to 3.
    codes = wrapper.get_integer_weights()["kernel"]
    assert keras.backend.standardize_dtype(codes.dtype) == "int32"
    assert to_numpy(codes).tolist() == [[-4, 0], [1, 0], [3, 3]]


def test_quantizer_without_codes_says_so():
    wrapper = KerasQuantizationWrapper(dense(), {"kernel": Doubling()})
    wrapper.build((None, 5))
    with pytest.raises(TypeError, match=r"'kernel' must have `quantize`\. Received: Doubling"):
        wrapper.get_integer_weights()


def test_positional_weights_have_codes_too():
    wrapper = KerasQuantizationWrapper(keras.ops.add, {1: per_tensor(3)}, {1: np.float32([-2.0, 0.3])})
    wrapper.build((2,))
    assert to_numpy(wrapper.get_integer_weights()[1]).tolist() == [-4, 1]


# Positional weights.


@pytest.mark.parametrize("position", [0, 1])
def test_function_gets_its_quantized_weight_at_its_position(position):
    value, x = random(4, 4), random(4, 4, seed=1)
    wrapper = KerasQuantizationWrapper(keras.ops.matmul, {position: per_tensor()}, {position: value})
    weight = quantized(value, per_tensor())
    expected = keras.ops.matmul(weight, x) if position == 0 else keras.ops.matmul(x, weight)
    np.testing.assert_array_equal(to_numpy(wrapper(x)), to_numpy(expected))
    (variable,) = wrapper.variables
    assert variable.name == f"positional_weight_{position}"
    assert variable is getattr(wrapper, f"positional_weight_{position}")
    assert not variable.trainable
    np.testing.assert_array_equal(to_numpy(variable), value)


def linear(x, kernel, bias, factor=1.0, *, shift=0.0):
    return keras.ops.matmul(x, kernel) * factor + bias + shift


def test_positions_fill_up_in_ascending_order():
    kernel, bias = random(5, 3), random(3, seed=1)
    quantizers = {2: per_tensor(2, 2.0), 1: per_tensor(4)}
    wrapper = KerasQuantizationWrapper(linear, quantizers, {2: bias, 1: kernel})
    expected = dense_by_hand(X, quantized(kernel, per_tensor(4)), quantized(bias, per_tensor(2, 2.0)))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected)
    assert [key for key, _, _ in wrapper.get_weights_vars()] == [1, 2]


@pytest.mark.parametrize("container", [list, tuple])
def test_several_inputs_stand_around_the_weight(container):
    def between(first, weight, second):
        return first * weight - second

    value, first, second = random(2, 3), random(2, 3, seed=1), random(2, 3, seed=2)
    wrapper = KerasQuantizationWrapper(between, {1: per_tensor()}, {1: value})
    outputs = wrapper(container([to_tensor(first), to_tensor(second)]))
    # One product of numbers of few bits, rounded once, and one difference: the same in every engine.
    np.testing.assert_allclose(to_numpy(outputs), first * quantized(value, per_tensor()) - second, rtol=0, atol=1e-6)


def test_the_callers_list_is_left_alone():
    wrapper = KerasQuantizationWrapper(keras.ops.add, {1: per_tensor()}, {1: random(2, 3)})
    inputs = [to_tensor(random(2, 3))]
    wrapper(inputs)
    wrapper.call(inputs)
    assert len(inputs) == 1


def test_call_arguments_follow_the_inputs():
    kernel = random(5, 3)
    args = {1: per_tensor(), 2: per_tensor()}, {1: kernel, 2: np.zeros(3, np.float32)}
    wrapper = KerasQuantizationWrapper(linear, *args, op_call_args=[2.0], op_call_kwargs={"shift": 0.5})
    product = to_numpy(keras.ops.matmul(X, quantized(kernel, per_tensor())))
    # Twice a number is exact.
    np.testing.assert_array_equal(to_numpy(wrapper(X)), product * 2 + np.float32(0.5))
    # What is given at the call wins.
    np.testing.assert_array_equal(to_numpy(wrapper(X, shift=0.25)), product * 2 + np.float32(0.25))
    assert wrapper.op_call_args == [2.0]
    assert wrapper.op_call_kwargs == {"shift": 0.5}


def test_inputs_may_go_in_as_one_list():
    value, x = random(2, 3), random(2, 3, seed=1)
    make = functools.partial(KerasQuantizationWrapper, keras.ops.concatenate, is_inputs_as_list=True)
    wrapper = make({1: per_tensor()}, {1: value}, op_call_args=[1])
    weight = quantized(value, per_tensor())
    np.testing.assert_array_equal(to_numpy(wrapper(x)), np.concatenate([x, weight], 1))
    by_word = make({0: per_tensor()}, {0: value}, op_call_kwargs={"axis": 0})
    np.testing.assert_array_equal(to_numpy(by_word(x)), np.concatenate([weight, x], 0))
    np.testing.assert_array_equal(to_numpy(by_word(x, axis=1)), np.concatenate([weight, x], 1))
    inputs = [to_tensor(x), to_tensor(x)]
    np.testing.assert_array_equal(to_numpy(by_word(inputs)), np.concatenate([weight, x, x], 0))


def test_layer_may_take_positional_weights():
    value, x = random(2, 3), random(2, 3, seed=1)
    wrapper = KerasQuantizationWrapper(layers.Add(), {1: per_tensor()}, {1: value}, is_inputs_as_list=True)
    np.testing.assert_array_equal(to_numpy(wrapper(x)), x + quantized(value, per_tensor()))


@keras.saving.register_keras_serializable("test_keras_wrapper")
class Scaled(keras.layers.Dense):
    def call(self, inputs, factor=1.0, shift=0.0, training=None):
        self.training_seen = training
        return super().call(inputs) * factor + shift


def test_layer_with_named_weights_takes_call_arguments_too():
    wrapper = KerasQuantizationWrapper(Scaled(3), {"kernel": per_tensor()}, op_call_kwargs={"factor": 2.0})
    wrapper.build((None, 5))
    product = expected_of(wrapper) * 2
    np.testing.assert_array_equal(to_numpy(wrapper(X)), product)
    np.testing.assert_array_equal(to_numpy(wrapper(X, shift=1.0)), product + 1)


@pytest.mark.parametrize("make", [np.asarray, to_tensor, keras.Variable], ids=["array", "tensor", "variable"])
def test_positional_weight_may_be_any_tensor(make):
    value = random(2, 3)
    wrapper = KerasQuantizationWrapper(keras.ops.add, {1: per_tensor()}, {1: make(value)})
    x = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(to_numpy(wrapper(x)), quantized(value, per_tensor()))


class LayerQuantizer(keras.layers.Layer, BaseInferableQuantizer):
    """A quantizer that is a layer, with a variable of its own."""

    def __init__(self):
        super().__init__()
        self.gain = self.add_weight(name="gain", shape=(1,), initializer=keras.initializers.Constant(3.0))

    def call(self, inputs, training=None):
        return inputs * keras.ops.convert_to_tensor(self.gain) if training else inputs


def test_quantizer_may_be_a_layer_with_variables_of_its_own():
    layer, quantizer = dense(), LayerQuantizer()
    wrapper = KerasQuantizationWrapper(layer, {"kernel": quantizer})
    kernel, bias = layer.get_weights()
    np.testing.assert_array_equal(to_numpy(wrapper(X)), dense_by_hand(X, kernel, bias))
    np.testing.assert_array_equal(to_numpy(wrapper(X, training=True)), dense_by_hand(X, kernel * 3, bias))
    assert any(variable is quantizer.gain for variable in wrapper.trainable_variables)
    fit(model_of(wrapper), epochs=1, jit_compile=BACKEND != "torch")
    assert float(to_numpy(quantizer.gain)[0]) != 3.0


# The flag of training.


def test_training_flag_is_passed_to_a_quantizer_that_asks_for_it():
    quantizer, layer = Flagged(), dense()
    wrapper = KerasQuantizationWrapper(layer, {"kernel": quantizer, "bias": Straight()})
    kernel, bias = layer.get_weights()
    bias = np.round(bias * 8) / 8
    for given, passed in ((None, False), (False, False), (True, True)):
        outputs = to_numpy(wrapper(X, training=given))
        assert quantizer.flags.pop() is passed
        np.testing.assert_array_equal(outputs, dense_by_hand(X, kernel * (2 if passed else 1), bias))


def test_whether_a_quantizer_takes_the_flag_is_decided_once(monkeypatch):
    from mct_quantizers.keras import quantize_wrapper

    wrapper = KerasQuantizationWrapper(dense(), {"kernel": Flagged()})
    asked = []
    monkeypatch.setattr(quantize_wrapper, "takes_training", asked.append)
    wrapper(X, training=True)
    wrapper(X)
    assert asked == []


def test_training_flag_reaches_the_layer_that_asks_for_it():
    layer = Scaled(3)
    wrapper = KerasQuantizationWrapper(layer, {"kernel": per_tensor()}, op_call_kwargs={"factor": 1.0})
    for given in (True, False):
        wrapper(X, training=given)
        assert layer.training_seen is given
        # Outside of a call of Keras's nobody else says it.
        wrapper.call(to_tensor(X), training=given)
        assert layer.training_seen is given


def test_statistics_of_batch_normalization_follow_in_training_alone():
    layer = layers.BatchNormalization(momentum=0.5)
    wrapper = KerasQuantizationWrapper(layer, {"gamma": per_tensor(4, 2.0)})
    wrapper(X)
    assert (to_numpy(layer.moving_mean) == 0).all()
    wrapper(X, training=True)
    np.testing.assert_allclose(to_numpy(layer.moving_mean), X.mean(0) / 2, rtol=1e-5)


@pytest.mark.parametrize("training", [2, "yes", 0.0])
def test_training_flag_that_is_no_bool_is_refused(training):
    wrapper = KerasQuantizationWrapper(dense(), {"kernel": per_tensor()})
    with pytest.raises(TypeError, match=f"`training` must be True or False. Received: training={training!r}"):
        wrapper.call(to_tensor(X), training=training)


# Training.


def regression() -> tuple[np.ndarray, np.ndarray]:
    x = random(64, 5, seed=3)
    return x, x @ random(5, 3, seed=4)


def model_of(*parts) -> keras.Model:
    return keras.Sequential([keras.Input((5,)), *parts])


def fit(model: keras.Model, epochs: int = 5, **how) -> list[float]:
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse", **how)
    return model.fit(*regression(), epochs=epochs, batch_size=16, verbose=0, shuffle=False).history["loss"]


# torch's compiler takes ten seconds, and needs one for C++.
ON_TORCH = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")]
ways = pytest.mark.parametrize(
    "how",
    [
        {"jit_compile": False},
        pytest.param({"jit_compile": True}, marks=ON_TORCH if BACKEND == "torch" else []),
        {"run_eagerly": True},
    ],
    ids=str,
)


@ways
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning")  # torch's compiler
def test_float_weight_trains_through_a_straight_through_quantizer(how):
    wrapper = KerasQuantizationWrapper(layers.Dense(3), {"kernel": Straight()})
    losses = fit(model_of(wrapper), **how)
    assert losses[-1] < losses[0] / 2
    # The variable is the float weight, not its rounding.
    kernel = to_numpy(wrapper.layer.kernel)
    assert (kernel != np.round(kernel * 8) / 8).any()
    expected = dense_by_hand(X, np.round(kernel * 8) / 8, to_numpy(wrapper.layer.bias))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected)


@pytest.mark.parametrize("how", [{"jit_compile": BACKEND != "torch"}, {"run_eagerly": True}], ids=str)
def test_learned_step_trains_and_stays_on_the_wrapper(how):
    wrapper = KerasQuantizationWrapper(layers.Dense(3), {"kernel": StepQuantizer(0.4)})
    model = model_of(wrapper)
    quantizer = wrapper.weights_quantizers["kernel"]
    assert (quantizer.tensor_shape, quantizer.name) == ((5, 3), "kernel")
    assert quantizer.layer_type is KerasQuantizationWrapper
    assert sorted(variable.name for variable in wrapper.trainable_variables) == ["bias", "kernel", "kernel_step"]
    losses = fit(model, **how)
    assert losses[-1] < losses[0] / 2
    assert abs(float(to_numpy(quantizer.step)[0]) - 0.4) > 1e-3
    step, kernel = to_numpy(quantizer.step), to_numpy(wrapper.layer.kernel)
    expected = np.round(kernel / step) * step
    np.testing.assert_array_equal(to_numpy(wrapper.get_quantized_weights()["kernel"]), expected)


def test_gradients_are_those_of_the_layer(gradients):
    layer, upstream = dense(), random(4, 3, seed=5)
    kernel, bias = layer.get_weights()
    wrapper = KerasQuantizationWrapper(layer, {"kernel": StepQuantizer(0.25)})
    wrapper.build((None, 5))
    order = [variable.name for variable in wrapper.trainable_variables]
    start = [to_numpy(variable) for variable in wrapper.trainable_variables]

    def outputs(*values):
        return wrapper.stateless_call(list(values), [], to_tensor(X), training=True)[0] * to_tensor(upstream)

    found = dict(zip(order, gradients(outputs, *start), strict=True))
    # Round is straight through: the gradient to the kernel is that of a dense layer. (g · s) / s with s = 1/4 is exact.
    np.testing.assert_allclose(found["kernel"], X.T @ upstream, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["bias"], upstream.sum(0), rtol=0, atol=1e-5)
    residue = np.round(kernel * 4) - kernel * 4
    # Two float32 sums of 15 terms that partly cancel; each term is below 4 · 20.
    assert abs(found["kernel_step"].item() - (residue * (X.T @ upstream)).sum()) <= 15 * 4 * 20 * 2.0**-24
    assert bias.shape == (3,)


@ways
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning")  # torch's compiler
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables.*kernel")  # that is what is tested
def test_fit_leaves_the_weight_of_an_inferable_quantizer_as_it_is(how):
    wrapper = KerasQuantizationWrapper(dense(), {"kernel": per_tensor(4)})
    model = model_of(wrapper)
    kernel, bias = wrapper.layer.get_weights()
    fit(model, epochs=2, **how)
    np.testing.assert_array_equal(to_numpy(wrapper.layer.kernel), kernel)
    assert (to_numpy(wrapper.layer.bias) != bias).any()
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))


def test_frozen_layer_stays_frozen():
    layer = dense()
    layer.trainable = False
    wrapper = KerasQuantizationWrapper(layer, {"kernel": Straight()})
    wrapper.build((None, 5))
    assert wrapper.trainable_variables == []
    assert len(wrapper.non_trainable_variables) == 2


def test_fit_predict_and_call_agree():
    wrapper = KerasQuantizationWrapper(layers.Dense(3), {"kernel": Straight()})
    model = model_of(wrapper)
    fit(model, epochs=1)
    predicted = model.predict(X, verbose=0)
    # A compiled product sums in another order: 5 terms below 4.
    np.testing.assert_allclose(predicted, to_numpy(model(X)), rtol=0, atol=5 * 4 * 2.0**-23)
    fit(model, epochs=1)
    again = model.predict(X, verbose=0)
    assert (again != predicted).any()
    np.testing.assert_allclose(again, to_numpy(model(X)), rtol=0, atol=5 * 4 * 2.0**-23)


# What is kept between calls.


def test_weight_is_quantized_once_in_inference():
    wrapper, quantizer = counted()
    first, second = to_numpy(wrapper(X)), to_numpy(wrapper(X))
    assert quantizer.calls == 1
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, expected_of(wrapper))


def test_positional_weight_is_quantized_once_too():
    quantizer = Counted(4, 1.0, per_channel=False)
    wrapper = KerasQuantizationWrapper(keras.ops.add, {1: quantizer}, {1: random(4, 5)})
    np.testing.assert_array_equal(to_numpy(wrapper(X)), to_numpy(wrapper(X)))
    assert quantizer.calls == 1


def test_weight_is_quantized_at_every_step_of_training():
    wrapper, quantizer = counted()
    wrapper(X, training=True)
    wrapper(X, training=True)
    assert quantizer.calls == 2


def assign(wrapper, path):
    wrapper.layer.kernel.assign(random(5, 3, seed=7))


def assign_in_part(wrapper, path):
    kernel = to_numpy(wrapper.layer.kernel).copy()
    kernel[4, 2] += 0.7
    wrapper.layer.kernel.assign(kernel)


def assign_add(wrapper, path):
    wrapper.layer.kernel.assign_add(np.full((5, 3), 0.3, np.float32))


def set_weights(wrapper, path):
    wrapper.set_weights([random(*value.shape, seed=8) for value in wrapper.get_weights()])


def set_weights_of_the_layer(wrapper, path):
    wrapper.layer.set_weights([random(5, 3, seed=8), np.zeros(3)])


def load_weights(wrapper, path):
    other, _ = counted()
    other.layer.kernel.assign(random(5, 3, seed=7))
    model_of(other).save_weights(path)
    model_of(wrapper).load_weights(path)


def train(wrapper, path):
    former = wrapper.weights_quantizers["kernel"]
    # What the user trains with in between, and puts back.
    wrapper.set_quantizer("kernel", Straight())
    fit(model_of(wrapper), epochs=1)
    wrapper.set_quantizer("kernel", former)


def optimizer_step(wrapper, path):
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.apply([to_tensor(random(5, 3, seed=9))], [wrapper.layer.kernel])


def other_quantizer_with_the_same_scale(wrapper, path):
    former = wrapper.weights_quantizers["kernel"]
    wrapper.set_quantizer("kernel", Counted(3, (former.scale * 4).tolist(), per_channel=True, channel_axis=1))


CHANGES = [
    assign,
    assign_in_part,
    assign_add,
    set_weights,
    set_weights_of_the_layer,
    load_weights,
    train,
    optimizer_step,
    other_quantizer_with_the_same_scale,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_any_change_is_seen(change, tmp_path):
    wrapper, _ = counted()
    before = to_numpy(wrapper(X)).copy()
    change(wrapper, tmp_path / "changed.weights.h5")
    after = to_numpy(wrapper(X))
    assert (before != after).any()
    np.testing.assert_array_equal(after, expected_of(wrapper))
    # And back again.
    wrapper.set_quantizer("kernel", counted()[1])
    wrapper.layer.set_weights([random(5, 3), random(3, seed=1)])
    np.testing.assert_array_equal(to_numpy(wrapper(X)), before)


@pytest.mark.skipif(BACKEND != "torch", reason="only torch writes into tensors")
@pytest.mark.parametrize("write", ["data", "numpy"])
def test_change_behind_the_variable_is_seen(write):
    wrapper, _ = counted()
    before = to_numpy(wrapper(X)).copy()
    if write == "data":
        wrapper.layer.kernel.value.data[4, 2] += 0.7
    else:
        wrapper.layer.kernel.value.detach().numpy()[4, 2] += 0.7
    assert (to_numpy(wrapper(X)) != before).any()
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))


@pytest.mark.skipif(BACKEND != "torch", reason="only torch has modes of inference")
def test_inference_mode_and_gradients_to_the_input_go_together():
    import torch

    wrapper, _ = counted()
    with torch.inference_mode():
        outputs = to_numpy(wrapper(X))
    x = torch.tensor(X, requires_grad=True)
    again = wrapper(x)
    again.sum().backward()
    np.testing.assert_array_equal(to_numpy(again), outputs)
    kernel = to_numpy(wrapper.get_quantized_weights()["kernel"])
    np.testing.assert_allclose(x.grad.numpy(), np.broadcast_to(kernel.sum(1), (4, 5)), rtol=1e-6)


def test_gradient_to_the_input_flows_through_a_kept_weight(gradients):
    wrapper, _ = counted()
    wrapper(X)
    (gradient,) = gradients(wrapper, X)
    kernel = to_numpy(wrapper.get_quantized_weights()["kernel"])
    np.testing.assert_allclose(gradient, np.broadcast_to(kernel.sum(1), (4, 5)), rtol=1e-6)


def test_weight_with_nan_is_seen():
    wrapper, _ = counted()
    wrapper(X)
    kernel = random(5, 3)
    kernel[0, 0] = np.nan
    wrapper.layer.kernel.assign(kernel)
    assert np.isnan(to_numpy(wrapper(X))[:, 0]).all()
    assert np.isnan(to_numpy(wrapper(X))[:, 0]).all()


def test_quantized_weights_are_computed_anew_for_the_caller():
    wrapper, quantizer = counted()
    outputs = to_numpy(wrapper(X)).copy()
    given = wrapper.get_quantized_weights()["kernel"]
    assert quantizer.calls == 2
    if BACKEND == "torch":
        given.zero_()
    np.testing.assert_array_equal(to_numpy(wrapper(X)), outputs)


def test_other_weights_for_one_call_are_used_and_not_kept():
    wrapper, _ = counted()
    before, other = to_numpy(wrapper(X)).copy(), random(5, 3, seed=7)
    trainable = [to_tensor(other) if v is wrapper.layer.kernel else v.value for v in wrapper.trainable_variables]
    outputs, _ = wrapper.stateless_call(trainable, [], to_tensor(X))
    expected = dense_by_hand(X, quantized(other, wrapper.weights_quantizers["kernel"]), to_numpy(wrapper.layer.bias))
    np.testing.assert_array_equal(to_numpy(outputs), expected)
    np.testing.assert_array_equal(to_numpy(wrapper(X)), before)


@pytest.mark.parametrize("first", ["eager", "traced"])
def test_nothing_leaks_out_of_a_compiled_function(first, compiled):
    wrapper, _ = counted()
    wrapper.build((None, 5))
    if first == "eager":
        wrapper(X)
    # torch cannot look through the call of a Keras layer as a whole.
    function = compiled(wrapper, is_whole=False)
    outputs = function(to_tensor(X))
    np.testing.assert_allclose(to_numpy(outputs), expected_of(wrapper), rtol=0, atol=5 * 8 * 2.0**-23)
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))
    wrapper.layer.kernel.assign(random(5, 3, seed=7))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))
    if BACKEND != "jax":
        # JAX takes what a function closes over as constants.
        np.testing.assert_allclose(
            to_numpy(function(to_tensor(X))), expected_of(wrapper), rtol=0, atol=5 * 8 * 2.0**-23
        )


@pytest.mark.skipif(BACKEND != "jax", reason="other backends do not trace eagerly")
def test_nothing_leaks_out_of_a_gradient_to_the_weight():
    import jax

    wrapper, _ = counted()
    wrapper(X)

    def total(kernel):
        return wrapper.stateless_call([kernel, wrapper.layer.bias.value], [], to_tensor(X))[0].sum()

    assert wrapper.trainable_variables[0] is wrapper.layer.kernel
    jax.grad(total)(wrapper.layer.kernel.value)
    jax.vmap(total)(jax.numpy.stack([wrapper.layer.kernel.value] * 2))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))


def test_nothing_leaks_out_of_the_construction_of_a_model():
    wrapper, quantizer = counted()
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.ReLU()(wrapper(inputs)))
    np.testing.assert_array_equal(to_numpy(model(X)), np.maximum(expected_of(wrapper), 0))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))
    calls = quantizer.calls
    model.predict(X, verbose=0)
    to_numpy(model(X))
    wrapper.layer.kernel.assign(random(5, 3, seed=7))
    np.testing.assert_array_equal(to_numpy(model(X)), np.maximum(expected_of(wrapper), 0))
    np.testing.assert_allclose(model.predict(X, verbose=0), to_numpy(model(X)), rtol=0, atol=5 * 8 * 2.0**-23)
    assert calls >= 1


def test_quantizers_of_the_users_own_are_never_kept():
    class Halving(Straight):
        calls = 0

        def __call__(self, inputs):
            self.calls += 1
            return inputs / 2

    quantizer = Halving()
    wrapper = KerasQuantizationWrapper(dense(), {"kernel": quantizer})
    wrapper(X)
    wrapper(X)
    assert quantizer.calls == 2


# The layer between calls.


class Fragile(keras.layers.Dense):
    fails = False

    def call(self, inputs, training=None):
        self.kernel_seen = self.kernel
        if self.fails:
            raise RuntimeError("broken on purpose")
        return super().call(inputs)


def test_layer_holds_the_quantized_weight_during_the_call_alone():
    layer = Fragile(3)
    wrapper, _ = counted(layer)
    wrapper.build((None, 5))
    variable = layer.kernel
    variable.assign(random(5, 3))
    wrapper(X)
    expected = quantized(random(5, 3), wrapper.weights_quantizers["kernel"])
    np.testing.assert_array_equal(to_numpy(layer.kernel_seen), expected)
    assert layer.kernel is variable
    assert [id(each) for each in layer.variables] == [id(each) for each in wrapper.variables]


def test_exception_inside_the_layer_leaves_the_wrapper_usable():
    layer = Fragile(3)
    wrapper = KerasQuantizationWrapper(layer, {"kernel": per_tensor(), "bias": per_tensor()})
    expected, kernel, bias = to_numpy(wrapper(X)).copy(), layer.kernel, layer.bias
    layer.fails = True
    with pytest.raises(RuntimeError, match="broken on purpose"):
        wrapper(X)
    assert (layer.kernel is kernel, layer.bias is bias) == (True, True)
    layer.fails = False
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected)


def test_quantizer_that_raises_leaves_the_layer_as_it_is():
    class Broken(Straight):
        def __call__(self, inputs):
            raise RuntimeError("broken on purpose")

    layer = dense()
    wrapper = KerasQuantizationWrapper(layer, {"bias": per_tensor(), "kernel": Broken()})
    expected, kernel, bias = to_numpy(layer(X)).copy(), layer.kernel, layer.bias
    with pytest.raises(RuntimeError, match="broken on purpose"):
        wrapper(X)
    assert (layer.kernel is kernel, layer.bias is bias) == (True, True)
    np.testing.assert_array_equal(to_numpy(layer(X)), expected)


def test_input_of_the_wrong_shape_leaves_the_wrapper_usable():
    wrapper, _ = counted()
    expected = to_numpy(wrapper(X)).copy()
    with pytest.raises(ValueError, match="shape"):
        wrapper(random(2, 4))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected)


def test_layer_outside_of_its_wrapper_runs_in_float():
    layer = dense()
    wrapper, expected = KerasQuantizationWrapper(layer, {"kernel": per_tensor(2)}), to_numpy(layer(X)).copy()
    assert (to_numpy(wrapper(X)) != expected).any()
    np.testing.assert_array_equal(to_numpy(layer(X)), expected)


def test_two_wrappers_may_share_a_layer():
    layer = dense()
    wrappers = [KerasQuantizationWrapper(layer, {"kernel": per_tensor(bits)}) for bits in (2, 4)]
    for wrapper in wrappers:
        np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))
    layer.kernel.assign(random(5, 3, seed=7))
    for wrapper in wrappers:
        np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))


def test_one_wrapper_may_stand_in_a_model_twice():
    layer = dense(5, 5)
    wrapper = KerasQuantizationWrapper(layer, {"kernel": per_tensor(3)})
    inputs = keras.Input((5,))
    model = keras.Model(inputs, wrapper(layers.ReLU()(wrapper(inputs))))
    assert len(model.variables) == 2
    expected = expected_of(wrapper, np.maximum(expected_of(wrapper), 0))
    np.testing.assert_array_equal(to_numpy(model(X)), expected)


def test_wrapper_works_inside_nested_models():
    wrapper, _ = counted()
    inner = model_of(wrapper, layers.ReLU())
    inputs = keras.Input((5,))
    outer = keras.Model(inputs, layers.Rescaling(2.0)(inner(inputs)))
    np.testing.assert_array_equal(to_numpy(outer(X)), np.maximum(expected_of(wrapper), 0) * 2)
    assert [id(variable) for variable in outer.trainable_variables] == [id(each) for each in wrapper.variables]


def test_wrapper_works_inside_a_layer_of_the_users_own():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = KerasQuantizationWrapper(layers.Dense(3), {"kernel": per_tensor()})

        def call(self, inputs):
            return keras.ops.relu(self.inner(inputs))

    block = Block()
    block(X)
    np.testing.assert_array_equal(to_numpy(block(X)), np.maximum(expected_of(block.inner), 0))


# Masks.


def test_mask_of_an_embedding_comes_through():
    quantizer = per_tensor()
    wrapper = KerasQuantizationWrapper(layers.Embedding(6, 4, mask_zero=True), {"embeddings": quantizer})
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    outputs = wrapper(tokens)
    np.testing.assert_array_equal(to_numpy(wrapper.compute_mask(to_tensor(tokens), None)), tokens != 0)
    pooled = layers.GlobalAveragePooling1D()(outputs)
    rows = quantized(to_numpy(wrapper.layer.embeddings), quantizer)
    expected = np.stack([rows[[1, 2]].mean(0), rows[3]])
    np.testing.assert_allclose(to_numpy(pooled), expected, rtol=0, atol=1e-7)


def test_mask_passes_a_layer_in_the_middle():
    inputs = keras.Input((3,), dtype="int32")
    hidden = layers.Embedding(6, 4, mask_zero=True)(inputs)
    wrapper = KerasQuantizationWrapper(layers.Dense(3), {"kernel": per_tensor()})
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(wrapper(hidden)))
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    rows = to_numpy(wrapper(model.layers[1](tokens)))
    expected = np.stack([rows[0, :2].mean(0), rows[1, 0]])
    np.testing.assert_allclose(to_numpy(model(tokens)), expected, rtol=0, atol=1e-6)


class Passing(keras.layers.Dense):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.supports_masking = False


def test_mask_is_refused_where_the_layer_does():
    inputs = layers.Embedding(6, 4, mask_zero=True)(np.array([[1, 2, 0]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrap(Passing(3))(inputs)
    told = [str(warning.message) for warning in caught if "does not support masking" in str(warning.message)]
    # Keras says it of the layer, and of its wrapper.
    assert ["Passing" in told[0], "KerasQuantizationWrapper" in told[1], len(told)] == [True, True, 2]


def test_layer_gets_its_mask():
    layer = layers.GlobalAveragePooling1D()
    wrapper = KerasQuantizationWrapper(layer, {})
    x, mask = random(2, 4, 3), np.array([[True, True, False, False], [True] * 4])
    np.testing.assert_array_equal(to_numpy(wrapper(x, mask=mask)), to_numpy(layer(x, mask=mask)))
    assert (to_numpy(wrapper(x, mask=mask)) != to_numpy(wrapper(x))).any()


# Mixed precision.


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


class Seeing(Counted):
    """Notes the dtype of what it quantizes."""

    def __call__(self, inputs):
        self.dtype = keras.backend.standardize_dtype(inputs.dtype)
        return super().__call__(inputs)


class Block(keras.layers.Layer):
    """A layer around a wrapper, whose own scope casts variables."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs, training=None):
        return self.inner(inputs)


def alone(wrapper):
    return wrapper


@pytest.mark.parametrize("place", [alone, Block, model_of], ids=["alone", "block", "model"])
@pytest.mark.parametrize("training", [False, True])
def test_mixed_precision_quantizes_the_float32_weight_and_computes_in_half(policy, place, training, as_numpy):
    half = policy.removeprefix("mixed_")
    layer = layers.Dense(3, use_bias=False)
    quantizer = Seeing(8, [1.0, 0.5, 2.0], per_channel=True, channel_axis=1)
    wrapper = KerasQuantizationWrapper(layer, {"kernel": quantizer})
    wrapper.build((None, 5))
    layer.kernel.assign(random(5, 3))
    x = keras.ops.cast(to_tensor(X), half)
    outputs = place(wrapper)(x, training=training)
    assert quantizer.dtype == "float32"
    assert keras.backend.standardize_dtype(outputs.dtype) == half
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == "float32"
    kernel = keras.ops.cast(to_tensor(quantized(random(5, 3), quantizer)), half)
    np.testing.assert_array_equal(as_numpy(outputs), as_numpy(keras.ops.matmul(x, kernel)))
    np.testing.assert_array_equal(
        as_numpy(wrapper.get_integer_weights()["kernel"]),
        arithmetic.quantize(random(5, 3), quantizer.params, numpy_ops),
    )


def test_mixed_precision_trains(policy):
    wrapper = KerasQuantizationWrapper(layers.Dense(3), {"kernel": Straight()})
    losses = fit(model_of(wrapper), jit_compile=BACKEND != "torch")
    assert losses[-1] < losses[0]
    assert {keras.backend.standardize_dtype(variable.dtype) for variable in wrapper.variables} == {"float32"}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras multiplies float64 matrices with TensorFlow alone")
def test_input_of_a_layer_of_double_precision_is_not_rounded():
    layer = layers.Dense(3, dtype="float64", use_bias=False)
    wrapper = KerasQuantizationWrapper(layer, {"kernel": per_tensor()})
    x = X.astype(np.float64) + 1e-12
    outputs = wrapper(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float64"
    kernel = quantized(to_numpy(layer.kernel), per_tensor())
    # Sums of 5 products below 4.
    np.testing.assert_allclose(to_numpy(outputs), x @ kernel, rtol=0, atol=5 * 4 * 2.0**-52)
    assert np.abs(X.astype(np.float64) @ kernel - x @ kernel).max() > 1e-13


def test_layer_of_another_precision_keeps_it(as_numpy):
    layer = layers.Dense(3, dtype="mixed_bfloat16")
    wrapper = KerasQuantizationWrapper(layer, {"kernel": per_tensor()})
    assert keras.backend.standardize_dtype(wrapper(X).dtype) == "bfloat16"
    assert wrapper.compute_dtype == "float32"


# Files.


@keras.saving.register_keras_serializable("test_keras_wrapper")
def product_and_sum(x, kernel, bias, factor=1.0):
    return keras.ops.matmul(x, kernel) * factor + bias


def wrap(layer, attribute: str = "kernel", quantizer=None) -> KerasQuantizationWrapper:
    return KerasQuantizationWrapper(layer, {attribute: quantizer or per_tensor()})


def functional(shape, *parts, dtype="float32") -> keras.Model:
    inputs = outputs = keras.Input(shape, dtype=dtype)
    for part in parts:
        outputs = part(outputs)
    return keras.Model(inputs, outputs)


def twice_used() -> keras.Model:
    shared, inputs = wrap(layers.Dense(5, **ONES)), keras.Input((5,))
    first = shared(inputs)
    return keras.Model(inputs, layers.Concatenate()([first, shared(layers.ReLU()(first))]))


PER_CHANNEL = {"per_channel": True, "channel_axis": -1}
SAVED = {
    "dense": lambda: functional((5,), wrap(layers.Dense(3, activation="relu", **ONES))),
    "sequential": lambda: keras.Sequential(
        [keras.Input((5,)), wrap(layers.Dense(3, **ONES)), wrap(layers.Dense(2, **ONES), "bias")]
    ),
    "conv_per_channel": lambda: functional(
        (5, 5, 2),
        wrap(
            layers.Conv2D(3, 2, **ONES),
            quantizer=WeightsUniformInferableQuantizer(3, [-0.3, -0.2, -0.4], [0.3, 0.4, 0.1], **PER_CHANNEL),
        ),
    ),
    "two_weights": lambda: functional(
        (5,),
        KerasQuantizationWrapper(layers.Dense(3, **ONES), {"kernel": per_tensor(3), "bias": per_tensor(5)}),
    ),
    "embedding_table": lambda: functional(
        (4,),
        wrap(
            layers.Embedding(5, 3, embeddings_initializer="ones"),
            "embeddings",
            WeightsLUTSymmetricInferableQuantizer(2, [-90, 0, 3, 64], [0.05] * 5, True, 0),
        ),
        dtype="int32",
    ),
    "batch_normalization": lambda: functional((5,), wrap(layers.BatchNormalization(), "gamma", per_tensor(4, 2.0))),
    "matmul": lambda: functional(
        (5,), KerasQuantizationWrapper(keras.ops.matmul, {1: per_tensor()}, {1: random(5, 3)})
    ),
    "list_of_inputs": lambda: functional(
        (5,),
        KerasQuantizationWrapper(
            keras.ops.concatenate,
            {0: per_tensor()},
            {0: random(2, 5)},
            op_call_kwargs={"axis": 0},
            is_inputs_as_list=True,
        ),
    ),
    "function_of_the_user": lambda: functional(
        (5,),
        KerasQuantizationWrapper(
            product_and_sum, {1: per_tensor(), 2: per_tensor(2)}, {1: random(5, 3), 2: random(3)}, op_call_args=[0.5]
        ),
    ),
    "shared": twice_used,
    "nested": lambda: functional(
        (5,), functional((5,), wrap(layers.Dense(4, **ONES)), layers.ReLU()), wrap(layers.Dense(2, **ONES))
    ),
    "half": lambda: functional(
        (5,), wrap(layers.Dense(3, dtype="mixed_bfloat16", **ONES)), layers.Activation("linear")
    ),
}


def saved_model(name: str) -> tuple[keras.Model, np.ndarray]:
    model = SAVED[name]()
    for variable in model.weights:
        variable.assign(
            np.abs(random(*variable.shape, seed=11)) if "variance" in variable.name else random(*variable.shape)
        )
    (shape,) = {tuple(each.shape[1:]) for each in model.inputs}
    x = np.arange(16).reshape(4, 4) % 5 if name == "embedding_table" else random(4, *shape, seed=12)
    return model, x


def outputs_of(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return to_numpy(keras.ops.cast(model(x), "float32"))


@pytest.mark.parametrize("name", SAVED)
def test_config_round_trip_makes_the_same_model(name):
    model, x = saved_model(name)
    again = keras.models.model_from_json(model.to_json())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(outputs_of(again, x), outputs_of(model, x))
    cloned = keras.models.clone_model(model)
    cloned.set_weights(model.get_weights())
    np.testing.assert_array_equal(outputs_of(cloned, x), outputs_of(model, x))


LOADS = """
    import pathlib, sys
    import keras, numpy
    import mct_quantizers.keras

    @keras.saving.register_keras_serializable("test_keras_wrapper")
    def product_and_sum(x, kernel, bias, factor=1.0):
        return keras.ops.matmul(x, kernel) * factor + bias

    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
        model = keras.saving.load_model(path, safe_mode=True)
        outputs = keras.ops.cast(model(numpy.load(path.with_suffix(".npy"))), "float32")
        numpy.save(path.with_suffix(".outputs.npy"), keras.ops.convert_to_numpy(outputs))
"""


def test_models_load_bit_equal_in_a_new_process(tmp_path):
    expected = {}
    for name in SAVED:
        model, x = saved_model(name)
        expected[name] = outputs_of(model, x)
        np.save(tmp_path / f"{name}.npy", x)
        model.save(tmp_path / f"{name}.keras")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOADS), tmp_path],
        # One thread, as here: sums are taken in another order by two.
        env={**os.environ, "KERAS_BACKEND": BACKEND, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for name, outputs in expected.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.outputs.npy"), outputs, err_msg=name)


CODES = """
    import sys
    import keras, numpy
    import mct_quantizers.keras

    model = keras.saving.load_model(sys.argv[1] + "/model.keras", safe_mode=True)
    codes = model.layers[1].get_integer_weights()["kernel"]
    numpy.save(sys.argv[1] + "/codes.npy", keras.ops.convert_to_numpy(codes))
"""


@pytest.mark.slow
@pytest.mark.parametrize("other", sorted({"tensorflow", "jax", "torch"} - {BACKEND}))
def test_file_of_one_backend_gives_the_same_codes_on_another(other, tmp_path):
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    model, _ = saved_model("conv_per_channel")
    model.save(tmp_path / "model.keras")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODES), tmp_path],
        env={**os.environ, "KERAS_BACKEND": other},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    codes = to_numpy(model.layers[1].get_integer_weights()["kernel"])
    np.testing.assert_array_equal(np.load(tmp_path / "codes.npy"), codes)
    assert len(np.unique(codes)) > 4


@pytest.mark.parametrize("name", ["two_weights", "function_of_the_user"])
def test_both_ways_of_loading_give_the_wrapper_back(name, tmp_path):
    model, x = saved_model(name)
    model.save(tmp_path / "model.keras")
    former = model.layers[1]
    for load in (keras.saving.load_model, keras_load_quantized_model):
        loaded = load(tmp_path / "model.keras")
        np.testing.assert_array_equal(outputs_of(loaded, x), outputs_of(model, x))
        wrapper = loaded.layers[1]
        assert type(wrapper) is KerasQuantizationWrapper
        assert wrapper.mctq_version == __version__
        assert list(wrapper.weights_quantizers) == list(former.weights_quantizers)
        for key, quantizer in wrapper.weights_quantizers.items():
            assert quantizer.params == former.weights_quantizers[key].params
        assert [each.name for each in loaded.weights] == [each.name for each in model.weights]


def test_config_has_the_promised_keys():
    wrapper = KerasQuantizationWrapper(dense(), {"kernel": per_tensor()}, name="wrapped")
    config = json.loads(json.dumps(wrapper.get_config()))
    assert config["weights_quantizer"]["kernel"]["config"] == per_tensor().get_config()
    assert (config["name"], config["mctq_version"]) == ("wrapped", __version__)
    assert "weights_value" not in config
    positional = KerasQuantizationWrapper(keras.ops.add, {1: per_tensor()}, {1: random(2)}, [], {}, False)
    config = json.loads(json.dumps(positional.get_config()))
    assert list(config["weights_quantizer"]) == list(config["weights_value"]) == ["1"]
    assert {"op_call_args", "op_call_kwargs", "is_inputs_as_list"} <= set(config)


def test_version_of_the_file_is_kept():
    config = {**wrap(dense()).get_config(), "mctq_version": "1.5.0"}
    assert KerasQuantizationWrapper.from_config(config).mctq_version == "1.5.0"
    del config["mctq_version"]
    assert KerasQuantizationWrapper.from_config(config).mctq_version == __version__


def test_arguments_of_a_call_come_back_from_a_config():
    wrapper = KerasQuantizationWrapper(
        keras.ops.transpose, {0: per_tensor()}, {0: random(2, 3)}, op_call_kwargs={"axes": (1, 0)}
    )
    again = KerasQuantizationWrapper.from_config(json.loads(json.dumps(wrapper.get_config())))
    # A JSON file knows no tuples.
    assert again.op_call_kwargs == {"axes": [1, 0]}
    tensors = KerasQuantizationWrapper(
        product_and_sum, {1: per_tensor()}, {1: random(5, 3)}, op_call_args=[to_tensor(random(3))]
    )
    again = KerasQuantizationWrapper.from_config(json.loads(json.dumps(tensors.get_config())))
    np.testing.assert_array_equal(to_numpy(again.op_call_args[0]), random(3))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_positional_weight_keeps_its_dtype_in_a_config(dtype, as_numpy):
    value = keras.ops.cast(to_tensor(random(2, 3)), dtype)
    wrapper = KerasQuantizationWrapper(keras.ops.add, {1: per_tensor()}, {1: value})
    again = KerasQuantizationWrapper.from_config(json.loads(json.dumps(wrapper.get_config())))
    for each in (wrapper, again):
        each.build((2, 3))
        (variable,) = each.variables
        assert keras.backend.standardize_dtype(variable.dtype) == dtype
        np.testing.assert_array_equal(as_numpy(variable), as_numpy(value))


def test_quantizers_of_the_users_own_are_found_by_name(tmp_path):
    model = functional((5,), wrap(layers.Dense(3), quantizer=Doubling()))
    model.save(tmp_path / "model.keras")
    for load in (keras.saving.load_model, keras_load_quantized_model):
        loaded = load(tmp_path / "model.keras")
        assert type(loaded.layers[1].weights_quantizers["kernel"]) is Doubling
        np.testing.assert_array_equal(outputs_of(loaded, X), outputs_of(model, X))


def test_half_trained_model_resumes_with_its_learned_step(tmp_path):
    def make():
        return model_of(wrap(layers.Dense(3), quantizer=StepQuantizer(0.4)))

    model = make()
    fit(model, epochs=1, jit_compile=BACKEND != "torch")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(loaded, X), outputs_of(model, X))
    for variable, again in zip(model.weights, loaded.weights, strict=True):
        assert variable.name == again.name
        np.testing.assert_array_equal(to_numpy(variable), to_numpy(again))
    assert (
        model.fit(*regression(), verbose=0, shuffle=False).history["loss"]
        == (loaded.fit(*regression(), verbose=0, shuffle=False).history["loss"])
    )


def test_function_that_is_not_registered_cannot_be_saved():
    wrapper = KerasQuantizationWrapper(linear, {1: per_tensor()}, {1: random(5, 3)}, op_call_args=[0.0])
    wrapper(X)
    with pytest.raises(ValueError, match=r"saved by its name, and must be one of `keras\.ops` or registered.*linear"):
        wrapper.get_config()


def test_function_that_nobody_registered_cannot_be_loaded():
    config = KerasQuantizationWrapper(keras.ops.add, {1: per_tensor()}, {1: random(2)}).get_config()
    config["layer"]["config"]["function"] = "os.system"
    with pytest.raises(ValueError, match=r"`function` must be a function of `keras.ops` or registered.*'os.system'"):
        KerasQuantizationWrapper.from_config(config)


@pytest.mark.parametrize("after_call", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_compute_alike_and_share_nothing(after_call, copied):
    wrapper = wrap(layers.Dense(3))
    model = model_of(wrapper)
    if after_call:
        model(X)
    for clone in (copied(model), copied(wrapper)):
        expected = to_numpy(model(X)).copy()
        np.testing.assert_array_equal(to_numpy(clone(X)), expected)
        clone.set_weights([random(*value.shape, seed=8) for value in clone.get_weights()])
        assert (to_numpy(clone(X)) != expected).any()
        np.testing.assert_array_equal(to_numpy(model(X)), expected)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the format belongs to TensorFlow")
@pytest.mark.filterwarnings("ignore:.*Entity .* could not be transformed")
@pytest.mark.parametrize("name", ["dense", "conv_per_channel", "matmul", "embedding_table"])
def test_exported_model_computes_alike(name, tmp_path):
    import tensorflow as tf

    model, x = saved_model(name)
    expected = outputs_of(model, x)
    model.export(tmp_path / "exported", format="tf_saved_model", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_array_equal(exported.serve(tf.constant(x, model.inputs[0].dtype)).numpy(), expected)


# Freezing.


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables.*bias")  # its quantizer is inferable
def test_conversion_puts_the_frozen_quantizers_in_place_and_returns_a_clean_wrapper(tmp_path):
    wrapper = KerasQuantizationWrapper(layers.Dense(3), {"kernel": StepQuantizer(0.25), "bias": per_tensor()})
    fit(model_of(wrapper), epochs=1, jit_compile=BACKEND != "torch")
    before = to_numpy(wrapper(X)).copy()
    step = float(to_numpy(wrapper.weights_quantizers["kernel"].step)[0])
    clean = wrapper.convert_to_inferable_quantizers()
    for each in (wrapper, clean):
        frozen = each.weights_quantizers["kernel"]
        assert type(frozen) is WeightsSymmetricInferableQuantizer
        assert frozen.scale.tolist() == [step]
        # One rounding of a product may differ from the trained formula's.
        np.testing.assert_allclose(to_numpy(each(X)), before, rtol=0, atol=5 * 8 * 2.0**-23)
    np.testing.assert_array_equal(to_numpy(clean(X)), to_numpy(wrapper(X)))
    assert sorted(variable.name for variable in clean.variables) == ["bias", "kernel"]
    assert "kernel_step" in [variable.name for variable in wrapper.variables]
    assert clean.name == wrapper.name
    model = functional((5,), clean)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(loaded, X), to_numpy(clean(X)))
    # Nothing is left to convert.
    assert wrapper.convert_to_inferable_quantizers() is None
    assert clean.convert_to_inferable_quantizers() is None


def test_converted_wrapper_shares_nothing_with_the_former():
    wrapper = wrap(dense(), quantizer=StepQuantizer(0.25))
    expected = to_numpy(wrapper(X)).copy()
    clean = wrapper.convert_to_inferable_quantizers()
    clean.layer.kernel.assign(random(5, 3, seed=7))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected)
    assert (to_numpy(clean(X)) != expected).any()


def test_wrapper_that_is_not_built_is_converted_after_it_is():
    wrapper = wrap(layers.Dense(3), quantizer=StepQuantizer(0.25))
    wrapper.build((None, 5))
    clean = wrapper.convert_to_inferable_quantizers()
    np.testing.assert_array_equal(to_numpy(clean(X)), to_numpy(wrapper(X)))


def test_positional_weights_are_converted_with_their_values_of_now():
    quantizers, values = {1: StepQuantizer(0.25), 2: per_tensor()}, {1: random(5, 3), 2: random(3)}
    wrapper = KerasQuantizationWrapper(product_and_sum, quantizers, values, op_call_kwargs={"factor": 0.5})
    wrapper(X)
    wrapper.positional_weight_1.assign(random(5, 3, seed=7))
    clean = wrapper.convert_to_inferable_quantizers()
    np.testing.assert_array_equal(to_numpy(clean(X)), to_numpy(wrapper(X)))
    assert sorted(variable.name for variable in clean.variables) == ["positional_weight_1", "positional_weight_2"]


def test_conversion_keeps_whether_the_layer_trains():
    layer = dense()
    wrapper = wrap(layer, quantizer=StepQuantizer(0.25))
    wrapper.build((None, 5))
    wrapper.trainable = False
    clean = wrapper.convert_to_inferable_quantizers()
    assert clean.trainable is False
    assert clean.trainable_variables == []


# Failure.


def test_inferable_quantizer_may_stand_in_for_a_trainable_one():
    wrapper = wrap(dense(), quantizer=StepQuantizer(0.25))
    wrapper(X)
    wrapper.set_quantizer("kernel", per_tensor(2))
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected_of(wrapper))


@pytest.mark.parametrize(
    "quantizer", [None, "8 bits", keras.ops.relu, StepQuantizer(0.25)], ids=["none", "text", "function", "trainable"]
)
def test_quantizer_that_cannot_take_over_leaves_the_former_in_place(quantizer):
    wrapper, former = counted()
    expected = to_numpy(wrapper(X)).copy()
    with pytest.raises((TypeError, ValueError, AttributeError)):
        wrapper.set_quantizer("kernel", quantizer)
    assert wrapper.weights_quantizers == {"kernel": former}
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected)


@pytest.mark.parametrize("key", ["weight", 0])
def test_quantizer_of_an_unknown_weight_is_refused(key):
    wrapper, former = counted()
    expected = to_numpy(wrapper(X)).copy()
    with pytest.raises((ValueError, TypeError, AttributeError)):
        wrapper.set_quantizer(key, per_tensor())
    assert wrapper.weights_quantizers == {"kernel": former}
    np.testing.assert_array_equal(to_numpy(wrapper(X)), expected)


WEIGHT = np.ones((5, 3), np.float32)
BAD_ARGUMENTS = {
    "layer_not_callable": ((3, {}), TypeError, "`layer` must be a Keras layer or a function. Received: layer=3"),
    "layer_class": ((layers.Dense, {"kernel": per_tensor()}), TypeError, "`layer` must be a Keras layer when"),
    "function_with_named": ((keras.ops.matmul, {"kernel": per_tensor()}), TypeError, "a function has positional"),
    "quantizers_not_a_mapping": ((dense, [per_tensor()]), TypeError, "`weights_quantizers`.*WeightsSymmetric"),
    "mixed_keys": ((dense, {"kernel": per_tensor(), 0: per_tensor()}), TypeError, "`weights_quantizers`.*kernel.*0"),
    "key_of_wrong_type": ((dense, {1.5: per_tensor()}), TypeError, r"`weights_quantizers`.*1\.5"),
    "key_bool": ((dense, {True: per_tensor()}, {True: WEIGHT}), TypeError, "`weights_quantizers`.*True"),
    "unknown_attribute": ((dense, {"weight": per_tensor()}), ValueError, "`weights_quantizers`.*'weight'.*Dense"),
    "attribute_no_variable": ((dense, {"units": per_tensor()}), ValueError, "`weights_quantizers`.*'units'.*kernel"),
    "bias_that_is_none": (
        (lambda: built(layers.Dense(3, use_bias=False)), {"bias": per_tensor()}),
        ValueError,
        r"'bias'.*\['kernel'\]",
    ),
    "wrapped_twice": (
        (lambda: wrap(dense()), {"kernel": per_tensor(2)}),
        ValueError,
        "`layer` is wrapped already",
    ),
    "one_weight_named_twice": (
        (dense, {"kernel": per_tensor(), "dense/kernel:0": per_tensor(2)}),
        ValueError,
        "kernel",
    ),
    "quantizer_not_callable": ((dense, {"kernel": "8 bits"}), TypeError, "weights_quantizers.*'8 bits'"),
    "quantizer_none": ((dense, {"kernel": None}), TypeError, "weights_quantizers.*None"),
    "quantizer_a_function": ((dense, {"kernel": keras.ops.relu}), TypeError, "weights_quantizers.*relu"),
    "no_value": ((keras.ops.matmul, {1: per_tensor()}), ValueError, "`weight_values`.*1"),
    "value_of_other_position": ((keras.ops.matmul, {1: per_tensor()}, {0: WEIGHT}), ValueError, "`weight_values`.*1"),
    "value_too_many": (
        (keras.ops.matmul, {1: per_tensor()}, {1: WEIGHT, 2: WEIGHT}),
        ValueError,
        r"`weight_values`.*\[1, 2\].*\[1\]",
    ),
    "values_for_named": ((dense, {"kernel": per_tensor()}, {0: WEIGHT}), ValueError, r"`weight_values`.*\[0\]"),
    "value_without_quantizer": ((keras.ops.matmul, {}, {0: WEIGHT}), ValueError, r"`weight_values`.*\[0\]"),
    "value_no_tensor": ((keras.ops.matmul, {1: per_tensor()}, {1: [[1.0]]}), TypeError, r"weight_values.*\[\[1\.0\]\]"),
    "values_not_a_mapping": ((keras.ops.matmul, {0: per_tensor()}, [WEIGHT]), TypeError, "`weight_values`"),
    "negative_position": ((keras.ops.matmul, {-1: per_tensor()}, {-1: WEIGHT}), ValueError, "position.*-1"),
}


def built(layer, shape=(None, 5)):
    layer.build(shape)
    return layer


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_wrong_arguments_are_refused_and_leave_the_layer_alone(name):
    (layer, *rest), error, text = BAD_ARGUMENTS[name]
    if layer is dense or getattr(layer, "__name__", "") == "<lambda>":
        layer = layer()
    before = dict(vars(layer)) if isinstance(layer, keras.layers.Layer) else None
    with pytest.raises(error, match=f"(?s){text}"):
        KerasQuantizationWrapper(layer, *rest)
    if before is not None:
        assert vars(layer) == before
        assert to_numpy(layer(X)).shape == (4, 3)


def test_unknown_argument_is_refused():
    with pytest.raises((TypeError, ValueError), match="num_bits"):
        KerasQuantizationWrapper(dense(), {"kernel": per_tensor()}, num_bits=4)


def test_attribute_that_an_unbuilt_layer_turns_out_not_to_have_is_refused_by_build():
    layer = layers.Dense(3)
    wrapper = wrap(layer, "weight")
    with pytest.raises(ValueError, match=r"`weights_quantizers` must name variables of the layer. Received: 'weight'"):
        wrapper(X)
    assert to_numpy(layer(X)).shape == (4, 3)


def test_quantizer_that_fails_to_initialize_leaves_the_layer_alone():
    class Broken(Straight):
        def initialize_quantization(self, tensor_shape, name, layer):
            raise RuntimeError("broken on purpose")

    layer = dense()
    expected, variables = to_numpy(layer(X)).copy(), list(layer.variables)
    wrapper = wrap(layer, quantizer=Broken())
    with pytest.raises(RuntimeError, match="broken on purpose"):
        wrapper(X)
    np.testing.assert_array_equal(to_numpy(layer(X)), expected)
    assert [id(each) for each in layer.variables] == [id(each) for each in variables]


def test_wrong_number_of_channels_is_said_at_the_call():
    wrapper = wrap(dense(), quantizer=WeightsPOTInferableQuantizer(4, [1.0, 2.0], True, 1))
    with pytest.raises(ValueError, match=r"must have 2 channels along axis 1.*shape \(5, 3\)"):
        wrapper(X)


def test_public_face_offers_the_wrapper_and_its_quantizers():
    assert keras_quantizers.WeightsPOTInferableQuantizer is WeightsPOTInferableQuantizer
    assert issubclass(KerasQuantizationWrapper, keras.layers.Layer)


def test_a_wrapped_layer_takes_a_product_with_a_number():
    """Keras takes it for sparse while it looks for the shape of the result."""
    inputs = keras.Input((4, 4, 3))
    quantizer = keras_quantizers.WeightsSymmetricInferableQuantizer(8, [1.0], False)
    wrapper = KerasQuantizationWrapper(keras.layers.Conv2D(2, 3), {"kernel": quantizer})
    model = keras.Model(inputs, wrapper(inputs * 0.5))
    assert model.output_shape == (None, 2, 2, 2)
    assert not model.output.sparse

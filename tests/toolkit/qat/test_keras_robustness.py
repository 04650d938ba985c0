# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Whole Keras models under strain: large steps, dead and broken values, calls that fail, unknown layers."""

import random as python_random

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import built, fingerprint, fresh, images, random, run, worn

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras.surgery import names_of, quantizer_in

pytestmark = pytest.mark.keras

BACKEND = keras.config.backend()
STE = mct.QATConfig("STE", "STE")


def quantizers_of(model):
    """Every quantizer of a quantized model, by its name in the plan."""
    names = names_of(model)
    return {
        tensor.name: quantizer_in(model.get_layer(names[tensor.name]), tensor)
        for tensor in mct.plan_of(model).quantized()
    }


def check_scales(model):
    for name, quantizer in quantizers_of(model).items():
        scale = np.asarray(quantizer.params.scale)
        assert np.isfinite(scale).all(), name
        assert (scale > 0).all(), name


def dense_network():
    x = keras.Input((4,), name="x")
    y = layers.ReLU(name="relu")(layers.Dense(6, name="first")(x))
    return worn(keras.Model(x, layers.Dense(2, name="second")(y)))


# Large steps.


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_scales_stay_positive_and_finite_at_ten_times_the_learning_rate(optimizer):
    rate = 10 * {"SGD": 0.05, "Adam": 1e-2}[optimizer]
    ready = mct.prepare_qat(dense_network(), random(32, 4), mct.QuantizationConfig.from_bits("w4a4"))
    ready.compile(getattr(keras.optimizers, optimizer)(rate), "mse")
    inputs, targets = random(32, 4), np.tanh(random(32, 2, seed=1))
    losses = []
    for _ in range(4):
        losses += ready.fit(inputs, targets, epochs=25, batch_size=16, shuffle=False, verbose=0).history["loss"]
        check_scales(ready)
    assert int(ready.optimizer.iterations) == 200
    assert np.isfinite(losses).all()
    final = mct.finalize(ready)
    check_scales(final)
    assert np.array_equal(run(final, inputs), run(ready, inputs))


# Dead, constant and broken values.


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-42, -1e-42])
def test_constant_data_trains_and_finalizes(value):
    model, data = dense_network(), np.full((16, 4), value, np.float32)
    ready = mct.prepare_qat(model, data)
    ready.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=BACKEND == "tensorflow")
    loss = ready.fit(data, np.ones((16, 2)), epochs=1, batch_size=16, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    final = mct.finalize(ready)
    for quantized in (ready, final):
        check_scales(quantized)
        assert np.isfinite(run(quantized, data)).all()


def test_zero_is_zero_exactly_through_the_whole_model():
    """Without biases nothing else comes out, in training and frozen."""
    x = keras.Input((4,), name="x")
    y = layers.ReLU(name="relu")(layers.Dense(6, use_bias=False, name="first")(x))
    model = worn(keras.Model(x, layers.Dense(2, use_bias=False, name="second")(y)))
    uniform = mct.TensorConfig(4, mct.QuantizationMethod.UNIFORM)
    config = mct.QuantizationConfig(weights=uniform, activations=uniform, first_last_bits=None)
    ready = mct.prepare_qat(model, random(32, 4) + 0.5, config)
    zeros = np.zeros((3, 4), np.float32)
    for quantized in (ready, mct.finalize(ready)):
        for training in (False, True):
            assert not run(quantized, zeros, training=training).any()


@pytest.mark.parametrize("dead", [0.0, 1e-42])
def test_a_dead_channel_beside_live_ones_stays_dead(dead):
    model = dense_network()
    kernel = ops.convert_to_numpy(model.get_layer("first").kernel).copy()
    kernel[:, 2] = dead
    model.get_layer("first").kernel.assign(kernel)
    data = random(32, 4)
    ready = mct.prepare_qat(model, data, mct.QuantizationConfig.from_bits("w4a8", first_last_bits=None))
    final = mct.finalize(ready)
    for quantized in (ready, final):
        check_scales(quantized)
        weights = ops.convert_to_numpy(quantized.get_layer("first").get_quantized_weights()["kernel"])
        assert np.abs(weights[:, 2]).max() <= 1e-41
        assert np.abs(weights).max(axis=0)[[0, 1, 3, 4, 5]].min() > 0.01
    assert np.array_equal(run(final, data), run(ready, data))


def test_nan_is_not_hidden_and_infinity_saturates():
    """In a model that trains and in the frozen one, each sample by itself."""
    model, data = fresh("residual")
    ready = mct.prepare_qat(model, data)
    broken = images(8)
    broken[0, 0, 0, 0] = np.nan
    infinite = images(8)
    infinite[:4, 0, 0, 0], infinite[4:, 0, 0, 0] = np.inf, -np.inf
    huge = np.where(np.isinf(infinite), np.sign(infinite) * np.float32(1e6), infinite).astype(np.float32)
    for quantized in (ready, mct.finalize(ready)):
        output = ops.convert_to_numpy(quantized(broken))
        assert np.isnan(output[0]).all()
        assert np.isfinite(output[1:]).all()
        assert np.array_equal(run(quantized, infinite), run(quantized, huge))


# What the caller has stays.


def trained(model, inputs):
    """The model as its owner trained it, with state in its optimizer and its metrics."""
    outputs = model.output_shape[1:]
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    model.fit(inputs, np.zeros((len(inputs), *outputs)), epochs=1, batch_size=16, verbose=0)
    return model


def surroundings(model):
    """All that a call must leave alone."""
    return {
        **fingerprint(model),
        "optimizer": [(v.path, ops.convert_to_numpy(v).tobytes()) for v in model.optimizer.variables],
        "compiled with": (model.loss, id(model.train_function), model.jit_compile, model.stop_training),
        "dtype": (model.dtype_policy.name, [layer.dtype_policy.name for layer in model._flatten_layers()]),
        "global": (
            keras.config.dtype_policy().name,
            keras.config.floatx(),
            keras.config.epsilon(),
            keras.config.image_data_format(),
            keras.config.is_traceback_filtering_enabled(),
        ),
        "numbers": (python_random.getstate(), np.random.get_state()[1].tobytes()),
    }


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_trained_model_and_the_program_around_it_stay_as_they_are(policy):
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = random(32, 4)
        model = trained(dense_network(), inputs)
        before = surroundings(model)
        ready = mct.prepare_qat(model, inputs)
        assert surroundings(model) == before
        final = mct.finalize(ready)
        mct.quantize(model, inputs)
        run(final, inputs)
        assert surroundings(model) == before
        for broken in (np.full((4, 4), np.nan, np.float32), random(4, 3), [], "data"):
            with pytest.raises((ValueError, TypeError)):
                mct.prepare_qat(model, broken)
            assert surroundings(model) == before
        with pytest.raises(ValueError, match="nothing to quantize"):
            rules = (mct.Rule(name=".*", quantize=False),)
            mct.prepare_qat(model, inputs, mct.QuantizationConfig(rules=rules))
        with pytest.raises(ValueError, match="`model` must be a model that"):
            mct.finalize(model)
        assert surroundings(model) == before
    finally:
        keras.config.set_dtype_policy(former)
    # Its owner goes on training it.
    model.fit(inputs, np.zeros((32, 2)), epochs=1, batch_size=16, verbose=0)
    assert int(model.optimizer.iterations) == 4


def test_preparing_a_prepared_model_or_finalizing_twice_is_refused_and_changes_nothing():
    model, inputs = built("shared")
    ready = mct.prepare_qat(model, inputs)
    final = mct.finalize(ready)
    for made, verb, text in (
        (ready, lambda: mct.prepare_qat(ready, inputs), "quantized already"),
        (final, lambda: mct.prepare_qat(final, inputs), "quantized already"),
        (ready, lambda: mct.quantize(ready, inputs), "quantized already"),
        (final, lambda: mct.finalize(final), "finalized already"),
    ):
        before = fingerprint(made)
        with pytest.raises(ValueError, match=text):
            verb()
        assert fingerprint(made) == before


# What the library does not know.


@keras.saving.register_keras_serializable("robustness")
class Gate(layers.Layer):
    """A layer of the user's own, with a weight and another output for each sign of a sum."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, inputs):
        total = ops.sum(inputs, axis=-1, keepdims=True)
        return ops.where(total > 0, inputs * self.factor, 0.5 * inputs)


def test_functions_and_layers_of_the_users_own_pass_and_are_listed():
    """`a * a`, residual additions and a layer that nobody knows, trained, frozen and loaded."""
    x = keras.Input((4,), name="x")
    y = layers.Dense(6, name="first")(x)
    y = Gate(name="gate")(y * y + ops.relu(y))
    model = worn(keras.Model(x, layers.Dense(2, name="second")(y)))
    data = random(32, 4)
    ready = mct.prepare_qat(model, data)
    plan = mct.plan_of(ready)
    quantized = {tensor.name for tensor in plan.quantized()}
    assert {"x.output", "first.kernel", "first.output", "multiply.output", "gate.output", "second.kernel"} <= quantized
    assert all(tensor.reason for tensor in plan.skipped())
    assert {tensor.site.layer for tensor in plan.tensors} == {
        "x", "first", "multiply", "relu", "add", "gate", "second"
    }  # fmt: skip
    ready.compile(keras.optimizers.SGD(0.02), "mse", run_eagerly=BACKEND == "tensorflow")
    before = ops.convert_to_numpy(ready.get_layer("gate").factor).copy()
    ready.fit(data, random(32, 2, seed=1), epochs=1, batch_size=16, verbose=0)
    assert not np.array_equal(ops.convert_to_numpy(ready.get_layer("gate").factor), before)
    final = mct.finalize(ready)
    assert np.array_equal(run(final, data), run(ready, data))


def test_a_batch_without_elements_trains_as_in_float():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, activation="relu"), layers.Dense(4)])
    prepared = mct.prepare_qat(model, random(16, 8))
    assert tuple(prepared(random(16, 8)[:0], training=True).shape) == (0, 4)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Keras mixed precision: tensors keep their dtype, grids and weights stay float32, codes are those of float32."""

from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import random, worn

import model_compression_toolkit as mct
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from model_compression_toolkit.core.keras.surgery import names_of, quantizer_in

pytestmark = pytest.mark.keras

BACKEND = keras.config.backend()
POLICIES = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}
policies = pytest.mark.parametrize("policy", POLICIES)


def network():
    x = keras.Input((6,), name="x")
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Dense(8, name="first")(x)))
    y = layers.Add(name="add")([y, layers.Dense(8, activation="tanh", name="second")(y)])
    return worn(keras.Model(x, layers.Dense(3, name="head")(y)))


@contextmanager
def standing(policy):
    """The policy of the program."""
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
        assert keras.config.dtype_policy().name == policy
    finally:
        keras.config.set_dtype_policy(former)


def prepared_under(policy, bits="w4a8", **arguments):
    """A model that was made and prepared under a policy."""
    with standing(policy):
        return mct.prepare_qat(network(), random(32, 6), mct.QuantizationConfig.from_bits(bits, **arguments))


def train(model, epochs=1):
    data = random(32, 6)
    # Tracing takes longer than these few steps; test_keras_contracts.py trains compiled.
    model.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=BACKEND == "tensorflow")
    history = model.fit(data, np.tanh(random(32, 3, seed=1)), epochs=epochs, batch_size=16, shuffle=False, verbose=0)
    return history.history["loss"]


def float32(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def dtype_of(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def check_codes(model, dtype):
    """Every quantized tensor has the codes that float32 gives for the same values."""
    data, names, count = random(16, 6, seed=3), names_of(model), 0
    for tensor in mct.plan_of(model).quantized():
        layer = model.get_layer(names[tensor.name])
        quantizer = quantizer_in(layer, tensor)
        if tensor.is_weight:
            value = ops.convert_to_tensor(layer.layer.kernel)
            assert dtype_of(value) == "float32"
        else:
            value = keras.Model(model.input, layer.input)(data, training=False)
            # The input of the model has no layer that would cast it.
            assert dtype_of(value) == ("float32" if tensor.name == "x.output" else dtype), tensor.name
            expected = ops.cast(quantizer(ops.cast(value, "float32")), dtype_of(value))
            received = layer(value)
            assert dtype_of(received) == dtype_of(value)
            np.testing.assert_array_equal(float32(received), float32(expected), err_msg=tensor.name)
        params = quantizer.params
        scale = np.asarray(params.scale, np.float32)
        if params.axis is not None:
            scale = scale.reshape([-1 if i == params.axis % value.ndim else 1 for i in range(value.ndim)])
        expected = np.round(float32(value) / scale) + np.asarray(params.zero_point)
        codes = np.asarray(ops.convert_to_numpy(quantizer.quantize(value)), np.float64)
        np.testing.assert_array_equal(codes, np.clip(expected, params.quant_min, params.quant_max), err_msg=tensor.name)
        assert np.unique(codes).size > 4
        count += 1
    assert count > 5


@policies
def test_codes_are_those_of_float32_and_tensors_keep_their_dtype(policy):
    ready = prepared_under(policy)
    losses = train(ready, 4)
    assert losses[-1] < losses[0]
    assert {variable.dtype for variable in ready.trainable_variables} == {"float32"}
    final = mct.finalize(ready)
    for model in (ready, final):
        check_codes(model, POLICIES[policy])
        assert dtype_of(model(random(4, 6))) == POLICIES[policy]
        assert dtype_of(model(random(4, 6), training=True)) == POLICIES[policy]
    for name in ("first", "second", "head"):
        trained, frozen = (model.get_layer(name).get_integer_weights()["kernel"] for model in (ready, final))
        np.testing.assert_array_equal(trained, frozen)
        assert final.get_layer(name).layer.kernel.dtype == "float32"


@policies
def test_calibration_and_integers_are_near_those_of_float32(policy):
    """Weights are float32 either way: their grids and integers are the same."""
    ready, expected = prepared_under(policy, batch_norm="fold"), prepared_under("float32", batch_norm="fold")
    for tensor in mct.plan_of(expected).quantized():
        scale = mct.plan_of(ready)[tensor.name].params.scale
        if tensor.is_weight:
            np.testing.assert_array_equal(scale, tensor.params.scale)
        else:
            np.testing.assert_allclose(scale, tensor.params.scale, rtol=0.05)
    for name in ("first", "second", "head"):
        ours, theirs = (model.get_layer(name).get_integer_weights()["kernel"] for model in (ready, expected))
        np.testing.assert_array_equal(ours, theirs)


@policies
def test_a_file_keeps_the_precision(policy, tmp_path):
    """Also where another policy stands."""
    ready = prepared_under(policy)
    train(ready)
    data = random(8, 6)
    for step, model in (("prepared", ready), ("final", mct.finalize(ready))):
        model.save(tmp_path / f"{step}.keras")
        loaded = mct.keras_load_quantized_model(tmp_path / f"{step}.keras", compile=False)
        assert dtype_of(loaded(data)) == POLICIES[policy]
        np.testing.assert_array_equal(float32(loaded(data)), float32(model(data)))


@policies
def test_resuming_from_a_file_is_exact(policy, tmp_path):
    """Where the policy stands Keras scales the loss by itself, and its scale too comes from the file."""
    with standing(policy):
        ready = prepared_under(policy)
        train(ready)
        assert isinstance(ready.optimizer, keras.optimizers.LossScaleOptimizer) is (policy == "mixed_float16")
        ready.save(tmp_path / "half.keras")
        loaded = mct.keras_load_quantized_model(tmp_path / "half.keras")
        assert type(loaded.optimizer) is type(ready.optimizer)
        batch = random(16, 6, seed=7), random(16, 3, seed=8)
        received, expected = ([float(model.train_on_batch(*batch)) for _ in range(3)] for model in (loaded, ready))
    assert received == expected


def test_a_step_whose_gradients_overflow_changes_nothing_but_the_loss_scale():
    """Under mixed float16 Keras scales the loss; a step with infinite gradients is left out, for grids as well."""
    ready = prepared_under("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=2.0**30)
    ready.compile(optimizer, "mse", run_eagerly=BACKEND == "tensorflow")
    moving = {id(v) for layer in ready.layers for v in layer.non_trainable_variables}
    before = [(v.path, v.numpy()) for v in ready.trainable_variables if id(v) not in moving]
    ready.train_on_batch(random(16, 6), 100.0 * random(16, 3, seed=1))
    after = {variable.path: variable.numpy() for variable in ready.trainable_variables}
    assert len(before) > 8
    for path, value in before:
        assert np.array_equal(after[path], value), path
    assert float(ops.convert_to_numpy(optimizer.dynamic_scale)) < 2.0**30


@policies
def test_mixed_precision_inside_a_float32_model_is_kept_layer_by_layer(policy):
    """Policies of single layers, as for a head in float32."""
    x = keras.Input((6,), name="x")
    y = layers.ReLU(dtype=policy, name="relu")(layers.Dense(8, dtype=policy, name="first")(x))
    model = worn(keras.Model(x, layers.Dense(3, dtype="float32", name="head")(y)))
    final = mct.finalize(mct.prepare_qat(model, random(32, 6)))
    assert final.get_layer("first").layer.compute_dtype == POLICIES[policy]
    assert final.get_layer("head").layer.compute_dtype == "float32"
    data = random(8, 6)
    assert dtype_of(final(data)) == dtype_of(model(data)) == "float32"
    holders = [layer for layer in final.layers if isinstance(layer, KerasActivationQuantizationHolder)]
    found = [dtype_of(keras.Model(final.input, holder.output)(data)) for holder in holders]
    assert found == ["float32", POLICIES[policy]]
    expected = float32(model(data))
    assert np.linalg.norm(float32(final(data)) - expected) < 0.05 * np.linalg.norm(expected)


def test_a_model_keeps_its_policy_whatever_that_of_the_program_is():
    with standing("mixed_float16"):
        model = network()
    prepared = mct.prepare_qat(model, random(32, 6))
    assert prepared.dtype_policy.name == mct.finalize(prepared).dtype_policy.name == "mixed_float16"
    prepared.compile("sgd", "mse")
    assert isinstance(prepared.optimizer, keras.optimizers.LossScaleOptimizer)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Copies of Keras models have all that their results depend on: vocabularies, statistics, seeds."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import random, run

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras.unquantized import unquantized

pytestmark = pytest.mark.keras

only_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Keras's tables and texts are TensorFlow's"
)


def assert_same_function(assembled, model, inputs):
    with unquantized(assembled):
        # Two compilations of one computation, batch norms apart: a few units in the last place.
        np.testing.assert_allclose(run(assembled, inputs), run(model, inputs), rtol=1e-4, atol=1e-5)


def embedded(layer, dtype):
    x = keras.Input((1,), dtype=dtype)
    hidden = layers.Flatten()(layers.Embedding(64, 4)(layer(x)))
    return keras.Model(x, layers.Dense(3)(hidden))


def normalization():
    data = 100.0 + 5.0 * random(32, 6)
    layer = layers.Normalization()
    layer.adapt(data)
    return keras.Sequential([keras.Input((6,)), layer, layers.Dense(4, activation="relu"), layers.Dense(2)]), data


def discretization():
    data = random(64, 1)
    layer = layers.Discretization(num_bins=8)
    layer.adapt(data)
    return embedded(layer, "float32"), data


def integer_lookup():
    data = np.random.default_rng(0).integers(0, 50, (64, 1)) * 3
    layer = layers.IntegerLookup()
    layer.adapt(data)
    return embedded(layer, "int64"), data


def string_lookup():
    data = np.array([["red"], ["green"], ["blue"], ["red"]])
    layer = layers.StringLookup()
    layer.adapt(data)
    return embedded(layer, "string"), data


def text_vectorization():
    layer = layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    layer.adapt(["a b c", "d e f g"])
    return embedded(layer, "string"), np.array([["a b"], ["c d e"]])


def hashing():
    return embedded(layers.Hashing(num_bins=16), "int64"), np.arange(24).reshape(-1, 1)


@pytest.mark.parametrize(
    "make",
    [
        normalization,
        pytest.param(discretization, marks=only_tensorflow),
        pytest.param(integer_lookup, marks=only_tensorflow),
        pytest.param(string_lookup, marks=only_tensorflow),
        pytest.param(text_vectorization, marks=only_tensorflow),
        pytest.param(hashing, marks=only_tensorflow),
    ],
)
def test_what_a_layer_keeps_beside_its_weights_is_copied_saved_and_frozen(make, tmp_path):
    model, data = make()
    inputs = ops.convert_to_tensor(data) if data.dtype.kind in "US" else data
    expected = run(model, inputs)
    quantized = mct.quantize(model, [inputs])
    assert_same_function(quantized, model, inputs)
    assert np.array_equal(run(model, inputs), expected)
    mct.export(quantized, tmp_path / "q.keras", quiet=True)
    loaded = mct.keras_load_quantized_model(tmp_path / "q.keras")
    assert np.array_equal(run(loaded, inputs), run(quantized, inputs))
    prepared = mct.prepare_qat(model, [inputs])
    assert_same_function(prepared, model, inputs)
    frozen = mct.finalize(prepared)
    np.testing.assert_allclose(run(frozen, inputs), run(prepared, inputs), rtol=1e-5, atol=1e-6)


def test_normalization_inside_a_model_that_is_seen_layer_by_layer_is_copied_too():
    model, data = normalization()
    assert_same_function(mct.quantize(model, data, mct.QuantizationConfig(capture="modules")), model, data)


@only_tensorflow
def test_texts_are_data_as_arrays_and_as_tensors():
    model, data = text_vectorization()
    assert np.array_equal(
        run(mct.quantize(model, [ops.convert_to_tensor(data)]), ops.convert_to_tensor(data)),
        run(mct.quantize(model, [data]), ops.convert_to_tensor(data)),
    )


# Random numbers.


@keras.saving.register_keras_serializable("own_models")
class Sampling(layers.Layer):
    """Draws from a normal distribution, in evaluation too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, log_variance = inputs
        noise = keras.random.normal(shape=ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


@keras.saving.register_keras_serializable("own_models")
class Unseeded(layers.Layer):
    """Adds noise whose seed is that of the whole program."""

    def call(self, inputs):
        return inputs + keras.random.normal(ops.shape(inputs))


def autoencoder():
    x = keras.Input((6,))
    hidden = layers.Dense(8, activation="relu")(x)
    mean, log_variance = layers.Dense(2)(hidden), layers.Dense(2)(hidden)
    return keras.Model(x, [mean, log_variance, Sampling()([mean, log_variance])])


def dropout(seed=None):
    x = keras.Input((6,))
    hidden = layers.Dropout(0.5, seed=seed)(layers.Dense(8, activation="relu")(x), training=True)
    return keras.Model(x, layers.Dense(2)(hidden))


def noise():
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(2)(Unseeded()(layers.Dense(8)(x))))


def seeds(model):
    weights = {id(weight) for weight in model.weights}
    return [variable.numpy().tolist() for variable in model.variables if id(variable) not in weights]


without_jax = pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX takes no numbers without a seed")


@pytest.mark.parametrize("make", [autoencoder, dropout, pytest.param(noise, marks=without_jax)])
@pytest.mark.parametrize("verb", [mct.quantize, mct.prepare_qat])
def test_randomness_is_no_difference_and_the_seeds_of_the_users_model_stay(make, verb):
    model, data = make(), random(16, 6)
    before = seeds(model)
    quantized = verb(model, data)
    assert seeds(model) == before
    shapes = [output.shape for output in keras.tree.flatten(model(data))]
    assert [output.shape for output in keras.tree.flatten(quantized(data))] == shapes


def test_a_copy_with_the_seeds_of_the_model_draws_the_same_numbers():
    model, data = autoencoder(), random(16, 6)
    quantized = mct.quantize(model, data)
    weights = {id(weight) for weight in quantized.weights}
    (state,) = [variable for variable in quantized.variables if id(variable) not in weights]
    state.assign(np.asarray(seeds(model)[0], "uint32"))
    assert_same_function(quantized, model, data)


def test_a_wrong_copy_of_a_model_with_randomness_is_still_found():
    class Forgetful(layers.Dense):
        def __init__(self, *arguments, factor=1.0, **kwargs):
            super().__init__(*arguments, **kwargs)
            self.factor = factor

        def call(self, inputs):
            return self.factor * super().call(inputs)

    x = keras.Input((6,))
    hidden = Forgetful(8, factor=3.0)(x)
    model = keras.Model(x, [hidden, layers.Dropout(0.5)(hidden, training=True)])
    with pytest.raises(ValueError, match="cannot be copied"):
        mct.quantize(model, random(16, 6))

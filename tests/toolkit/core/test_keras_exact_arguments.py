# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Keras models that divide, look up, compare and mask: what has to keep its values keeps them."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops

from model_compression_toolkit.core.common.operation import Reading
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.keras.surgery import plan_of
from model_compression_toolkit.ptq.keras.quantization_facade import quantize

pytestmark = pytest.mark.keras

MASKED = "a mask stands in it: the scores are quantized before the mask"


def relative_error(model, quantized, x):
    expected, received = (ops.convert_to_numpy(item(x, training=False)) for item in (model, quantized))
    return float(np.sqrt(((received - expected) ** 2).mean() / (expected**2).mean()))


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_lengths_by_which_a_model_divides_stay_in_float():
    keras.utils.set_random_seed(0)
    x = layers.Input((6, 6, 3))
    hidden = layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    length = ops.sqrt(ops.sum(ops.square(hidden), axis=-1, keepdims=True) + 1e-9)
    model, images = keras.Model(x, layers.Conv2D(3, 1)(hidden / length)), normal(16, 6, 6, 3)
    # So small there that all codes of a grid for the whole tensor are zero; the error was infinite.
    model.layers[1].kernel.assign(model.layers[1].kernel * 1e-3)
    quantized = quantize(model, images, QuantizationConfig.from_bits("w8a4", first_last_bits=8))
    assert relative_error(model, quantized, images) < 0.15
    plan = plan_of(quantized)
    reasons = {tensor.site.type: tensor.reason for tensor in plan.skipped()}
    assert reasons["Sqrt"] == Reading.DIVISOR.value
    assert reasons["Add"] == Reading.ROOT.value
    assert plan[
        "true_divide.output" if "true_divide.output" in {t.name for t in plan.tensors} else "divide.output"
    ].config


def test_indices_that_are_given_as_floats_keep_their_values():
    keras.utils.set_random_seed(0)
    tokens = np.random.default_rng(0).integers(0, 1000, (64, 12)).astype("float32")
    pooling = layers.GlobalAveragePooling1D()
    model = keras.Sequential(
        [layers.Input((12,)), layers.Embedding(1000, 8, embeddings_initializer="normal"), pooling, layers.Dense(2)]
    )
    # 1.3 with the indices on a grid.
    assert relative_error(model, quantize(model, tokens), tokens) < 0.03


CASTS = {
    "cast": lambda x: ops.cast(x, "int32"),
    "scaled": lambda x: ops.cast(x * 1.0, "int32"),
    "bins": layers.Discretization([10.5, 200.5, 500.5, 800.5]),
}


@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.parametrize("name", CASTS)
def test_numbers_that_are_cast_to_integers_keep_their_values(name):
    keras.utils.set_random_seed(0)
    x = layers.Input((4,))
    rows = layers.Embedding(1000, 8, embeddings_initializer="normal")(CASTS[name](x[:, :1]))
    model = keras.Model(x, layers.Dense(2)(ops.concatenate([rows[:, 0], layers.Dense(3)(x[:, 1:])], -1)))
    data = np.concatenate([np.random.default_rng(0).integers(0, 1000, (64, 1)), normal(64, 3)], 1).astype("float32")
    quantized = quantize(model, data)
    assert relative_error(model, quantized, data) < 0.03
    plan = plan_of(quantized)
    # What the layer reads has a grid of its own, of the size of its values.
    (part,) = (t for t in plan.quantized() if t.site.type == "GetItem" and t.site.shape[-1] == 3)
    assert part.params.scale < 0.1


def test_values_that_mark_padding_keep_their_values():
    value = 7.0
    keras.utils.set_random_seed(0)
    x = normal(32, 10, 2)
    x[:, 5:] = value
    model = keras.Sequential([layers.Input((10, 2)), layers.Masking(value), layers.LSTM(4), layers.Dense(2)])
    quantized = quantize(model, x)
    # 2.0 where the mask was lost.
    assert relative_error(model, quantized, x) < 0.05
    assert Reading.EQUALITY.value in {tensor.reason for tensor in plan_of(quantized).skipped()}


def attention(mask):
    keras.utils.set_random_seed(0)
    x = layers.Input((6, 8))
    query, key, value = (layers.Dense(8)(x) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / 8**0.5
    return keras.Model(x, layers.Dense(8)(ops.matmul(ops.softmax(mask(scores)), value)))


FUTURE = np.triu(np.ones((6, 6), bool), 1)
LEAST = float(np.finfo("float32").min)
MASKS = {
    "where": lambda value: lambda scores: 0.5 * ops.where(FUTURE, value, scores),
    "added": lambda value: lambda scores: scores + np.where(FUTURE, value, 0.0).astype("float32"),
}


@pytest.mark.parametrize("name", MASKS)
def test_attention_does_not_depend_on_the_value_of_the_mask(name):
    x, results = 2 * normal(4, 6, 8), []
    for value in (-1e4, LEAST):
        model = attention(MASKS[name](value))
        quantized = quantize(model, x)
        # 0.7 with the mask in the grid of the scores.
        assert relative_error(model, quantized, x) < 0.03
        assert MASKED in {tensor.reason for tensor in plan_of(quantized).skipped()}
        results.append(ops.convert_to_numpy(quantized(x)))
    np.testing.assert_array_equal(*results)


def test_a_mask_that_is_an_input_keeps_its_values():
    keras.utils.set_random_seed(0)
    x, mask = layers.Input((6, 8)), layers.Input((6,))
    query, key, value = (layers.Dense(8)(x) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / 8**0.5
    scores = scores + (1.0 - mask[:, None, :]) * -1e9
    model = keras.Model([x, mask], layers.Dense(8)(ops.matmul(ops.softmax(scores), value)))
    data = [2 * normal(4, 6, 8), np.tile((np.arange(6) < 4).astype("float32"), (4, 1))]
    assert relative_error(model, quantize(model, [data]), data) < 0.03

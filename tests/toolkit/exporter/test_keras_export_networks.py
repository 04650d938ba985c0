# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Networks as they are met, quantized and exported to every format that the backend makes, each file proven."""

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("onnxruntime")

import keras
from keras import layers, ops

import model_compression_toolkit as mct

pytestmark = pytest.mark.keras

FORMATS = ("onnx", "tflite") if keras.config.backend() == "tensorflow" else ("onnx",)
IMAGE = (8, 8, 3)


class LayerScale(layers.Layer):
    """A weight in front of an operator, as many write it."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return self.gamma * x


class StochasticDepth(layers.Layer):
    """Another path in training."""

    def call(self, x, training=None):
        if training:
            return x * ops.floor(0.8 + keras.random.uniform((1,)))
        return x


def convnext_block(x):
    """Augmentation, a stem, and a block with the layers that its authors wrote themselves."""
    x = layers.RandomRotation(0.2)(layers.RandomFlip()(x))
    x = layers.LayerNormalization()(layers.Conv2D(8, 2, strides=2)(layers.GaussianNoise(0.2)(x)))
    y = layers.LayerNormalization()(layers.DepthwiseConv2D(3, padding="same")(x))
    y = LayerScale()(layers.Dense(8)(layers.Dense(16, activation="gelu")(y)))
    x = layers.GroupNormalization(2)(x + StochasticDepth()(y))
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def detector(x):
    """Padding, resizing, gates and places of the largest."""
    x = ops.roll(x, 2, axis=1) + ops.roll(x, -1, axis=2)
    x = layers.Conv2D(4, 3)(ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "reflect"))
    x = ops.concatenate([x, ops.image.resize(layers.Conv2D(4, 2, strides=2)(x), (8, 8))])
    x = layers.Conv2D(4, 1)(ops.maximum(x, 0.1 * x)) * (1 / 6.0)
    heat = layers.Softmax(axis=(1, 2))(layers.Conv2D(2, 1)(x))
    scores = layers.Dense(5)(ops.mean(x, axis=(1, 2)))
    return [heat, ops.std(x, axis=(1, 2)), ops.argmax(scores, axis=-1), ops.argmin(scores, axis=1, keepdims=True)]


@pytest.mark.skipif(keras.config.backend() == "jax", reason="compiles each model anew")
@pytest.mark.parametrize("network", [convnext_block, detector])
def test_a_network_of_many_operators_is_exported_and_proven(network, tmp_path):
    x = keras.Input(IMAGE)
    keras.utils.set_random_seed(0)
    model = keras.Model(x, network(x))
    images = np.random.default_rng(0).normal(size=(16, *IMAGE)).astype(np.float32)
    quantized = mct.quantize(model, images)
    for suffix in FORMATS:
        report = mct.export(quantized, tmp_path / f"model.{suffix}", verify=images, quiet=True).parity
        assert report.passed, f"{suffix}: {report}"
        # Evaluation: nothing random takes part. LiteRT sums in another order, so that codes next to ties differ.
        assert report.replayed_output_difference < 1e-4

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Per channel everywhere: weights of every kind of layer on the right axis, against a loop over slices."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import random, worn

import model_compression_toolkit as mct
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper

pytestmark = pytest.mark.keras

# Constructor, shape of a batch, axes of the weights.
AXES = {
    "dense": (lambda: layers.Dense(5), (8, 4), {"kernel": 1}),
    "dense over time": (lambda: layers.Dense(5), (8, 3, 4), {"kernel": 1}),
    "conv1d": (lambda: layers.Conv1D(5, 3), (8, 7, 4), {"kernel": 2}),
    "conv2d": (lambda: layers.Conv2D(5, 3), (8, 5, 5, 4), {"kernel": 3}),
    "grouped": (lambda: layers.Conv2D(6, 3, groups=2), (8, 5, 5, 4), {"kernel": 3}),
    "channels first": (lambda: layers.Conv2D(5, 3, data_format="channels_first"), (8, 4, 5, 5), {"kernel": 3}),
    "conv3d": (lambda: layers.Conv3D(5, 2), (4, 3, 3, 3, 4), {"kernel": 4}),
    "transposed1d": (lambda: layers.Conv1DTranspose(5, 3), (8, 7, 4), {"kernel": 1}),
    "transposed2d": (lambda: layers.Conv2DTranspose(5, 3), (8, 5, 5, 4), {"kernel": 2}),
    "transposed3d": (lambda: layers.Conv3DTranspose(5, 2), (4, 3, 3, 3, 4), {"kernel": 3}),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (8, 7, 4), {"kernel": 1}),
    "depthwise2d": (lambda: layers.DepthwiseConv2D(3), (8, 5, 5, 4), {"kernel": 2}),
    "separable1d": (
        lambda: layers.SeparableConv1D(5, 3), (8, 7, 4), {"depthwise_kernel": 1, "pointwise_kernel": 2},
    ),
    "separable2d": (
        lambda: layers.SeparableConv2D(5, 3), (8, 5, 5, 4), {"depthwise_kernel": 2, "pointwise_kernel": 3},
    ),
    "einsum": (lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, 6)), (8, 3, 4), {"kernel": 1}),
    "einsum of heads": (
        lambda: layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3)), (8, 3, 4), {"kernel": 2},
    ),
    "embedding": (lambda: layers.Embedding(10, 5), None, {"embeddings": 0}),
}  # fmt: skip
# TensorFlow computes these on accelerators only.
RUNS = [kind for kind in AXES if keras.config.backend() != "tensorflow" or kind not in ("grouped", "channels first")]


def case(kind):
    """A model of one layer, whose channels differ by magnitudes, with data for it and the layer."""
    make, shape, axes = AXES[kind]
    is_lookup = shape is None
    data = np.random.default_rng(0).integers(0, 10, (8, 3)).astype(np.int32) if is_lookup else random(*shape)
    x = keras.Input(data.shape[1:], dtype="int32" if is_lookup else "float32", name="x")
    layer = make()
    model = worn(keras.Model(x, layer(x)))
    for name, axis in axes.items():
        weight = getattr(layer, name)
        spread = np.logspace(-2, 2, weight.shape[axis]).reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        weight.assign(ops.convert_to_numpy(weight) * spread)
    return model, data, layer


def config(num_bits):
    weights = mct.TensorConfig(num_bits, granularity="per_channel", range_search="min_max")
    return mct.QuantizationConfig(weights=weights, first_last_bits=None)


def check_slices(quantized, layer, kind, num_bits):
    """Every slice of every weight has the grid of its own smallest and largest value."""
    (wrapper,) = [item for item in quantized.layers if isinstance(item, KerasQuantizationWrapper)]
    received, axes = wrapper.get_quantized_weights(), AXES[kind][2]
    assert set(received) == set(axes)
    quant_max = 2 ** (num_bits - 1) - 1
    for name, axis in axes.items():
        weight = ops.convert_to_numpy(getattr(layer, name))
        for index in range(weight.shape[axis]):
            part = np.take(weight, index, axis=axis)
            scale = np.float32(max(float(part.max()) / quant_max, -float(part.min()) / (quant_max + 1)))
            expected = (np.clip(np.round(part / scale), -quant_max - 1, quant_max) * scale).astype(np.float32)
            assert np.array_equal(np.take(ops.convert_to_numpy(received[name]), index, axis=axis), expected)


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("kind", RUNS)
def test_weights_are_quantized_as_a_loop_over_slices_does(kind, num_bits):
    model, data, layer = case(kind)
    check_slices(mct.quantize(model, data, config(num_bits)), layer, kind, num_bits)


@pytest.mark.parametrize("kind", RUNS)
def test_prepared_and_frozen_weights_are_those_of_a_loop_over_slices(kind):
    model, data, layer = case(kind)
    ready = mct.prepare_qat(model, data, config(4), mct.QATConfig("STE", "STE"))
    for quantized in (ready, mct.finalize(ready)):
        check_slices(quantized, layer, kind, 4)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Each translation of a layer or function of Keras against Keras itself, in float and on the backend of the day."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")
pytest.importorskip("onnxruntime")

import keras
from keras import layers, ops
from keras_onnx_checks import assert_same_outputs, randomized, run

from model_compression_toolkit.exporter.keras.onnx_export import export_onnx
from model_compression_toolkit.exporter.keras.onnx_layers import LAYERS
from model_compression_toolkit.exporter.keras.onnx_operators import FUNCTIONS

pytestmark = [
    pytest.mark.keras,
    # The translation is NumPy's; compiling hundreds of small models shows nothing new.
    pytest.mark.skipif(keras.config.backend() == "jax", reason="shown on TensorFlow and torch"),
]

BOX, IMAGE, SEQUENCE, VECTOR = (5, 6, 7, 4), (9, 8, 4), (10, 4), (6,)


def of_layer(layer, shape, dtype="float32"):
    x = keras.Input(shape, dtype=dtype)
    return randomized(keras.Model(x, layer(x)))


def op_types(proto):
    return [node.op_type for node in proto.graph.node]


LAYER_CASES = [
    *[
        (cls(5, kernel_size=3, strides=strides, padding=padding, activation="relu"), shape)
        for cls, shape, strides, padding in (
            (layers.Conv1D, SEQUENCE, 1, "valid"), (layers.Conv1D, SEQUENCE, 2, "same"),
            (layers.Conv2D, IMAGE, 1, "valid"), (layers.Conv2D, IMAGE, 2, "same"), (layers.Conv2D, IMAGE, 3, "same"),
            (layers.Conv3D, BOX, 2, "same"),
        )
    ],
    (layers.Conv2D(8, (3, 2), groups=2, dilation_rate=2, padding="same"), IMAGE),
    (layers.Conv2D(5, (2, 4), padding="same", use_bias=False), IMAGE),
    (layers.Conv1D(5, 3, padding="causal", dilation_rate=2), SEQUENCE),
    (layers.Conv1D(5, 4, padding="causal", strides=2), SEQUENCE),
    *[
        (cls(3, strides=strides, padding=padding, depth_multiplier=multiplier, activation="tanh"), shape)
        for cls, shape in ((layers.DepthwiseConv1D, SEQUENCE), (layers.DepthwiseConv2D, IMAGE))
        for strides, padding, multiplier in ((1, "valid", 1), (2, "same", 2))
    ],
    (layers.SeparableConv1D(5, 3, padding="same", depth_multiplier=2), SEQUENCE),
    (layers.SeparableConv2D(5, 3, strides=2, padding="same", activation="sigmoid"), IMAGE),
    *[
        (cls(5, kernel_size=size, strides=strides, padding=padding, activation="relu"), shape)
        for cls, shape, size, strides, padding in (
            (layers.Conv1DTranspose, SEQUENCE, 3, 2, "same"), (layers.Conv1DTranspose, SEQUENCE, 2, 3, "valid"),
            (layers.Conv2DTranspose, IMAGE, 3, 2, "same"), (layers.Conv2DTranspose, IMAGE, 3, 1, "valid"),
            (layers.Conv2DTranspose, IMAGE, 4, 2, "same"), (layers.Conv2DTranspose, IMAGE, 2, 3, "same"),
            (layers.Conv3DTranspose, BOX, 2, 2, "valid"),
        )
    ],
    *[
        (cls(2, strides=strides, padding=padding), shape)
        for cls, shape in (
            (layers.MaxPooling1D, SEQUENCE), (layers.MaxPooling2D, IMAGE), (layers.MaxPooling3D, BOX),
            (layers.AveragePooling1D, SEQUENCE), (layers.AveragePooling2D, IMAGE), (layers.AveragePooling3D, BOX),
        )
        for strides, padding in ((None, "valid"), (2, "same"))
    ],
    (layers.MaxPooling2D(3, strides=2, padding="same"), IMAGE),
    (layers.AveragePooling2D(3, strides=2, padding="same"), IMAGE),
    *[
        (cls(keepdims=keepdims), shape)
        for cls, shape in (
            (layers.GlobalMaxPooling1D, SEQUENCE), (layers.GlobalMaxPooling2D, IMAGE), (layers.GlobalMaxPooling3D, BOX),
            (layers.GlobalAveragePooling1D, SEQUENCE), (layers.GlobalAveragePooling2D, IMAGE),
            (layers.GlobalAveragePooling3D, BOX),
        )
        for keepdims in (False, True)
    ],
    (layers.UpSampling1D(3), SEQUENCE), (layers.UpSampling2D((2, 3)), IMAGE), (layers.UpSampling3D(2), BOX),
    (layers.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    (layers.ZeroPadding1D((1, 2)), SEQUENCE), (layers.ZeroPadding2D(((1, 2), (0, 3))), IMAGE),
    (layers.ZeroPadding3D(((1, 2), (0, 3), (1, 1))), BOX),
    (layers.Cropping1D((1, 2)), SEQUENCE), (layers.Cropping2D(((1, 2), (0, 3))), IMAGE),
    (layers.Cropping3D(((1, 2), (0, 3), (1, 1))), BOX),
    (layers.Dense(5), VECTOR), (layers.Dense(5, use_bias=False, activation="gelu"), SEQUENCE),
    (layers.Dense(5, activation="softmax"), IMAGE),
    (layers.EinsumDense("abc,cd->abd", output_shape=(None, 7), bias_axes="d"), SEQUENCE),
    (layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 7), bias_axes="de"), SEQUENCE),
    (layers.EinsumDense("...x,xy->...y", output_shape=7, activation="relu"), SEQUENCE),
    (layers.EinsumDense("abc,cb->abc", output_shape=(10, 4)), SEQUENCE),
    (layers.BatchNormalization(), IMAGE), (layers.BatchNormalization(scale=False), VECTOR),
    (layers.BatchNormalization(axis=1, center=False, epsilon=0.1), IMAGE), (layers.BatchNormalization(), SEQUENCE),
    (layers.LayerNormalization(), SEQUENCE), (layers.LayerNormalization(scale=False, epsilon=0.1), IMAGE),
    (layers.LayerNormalization(axis=[2, 3], center=False), IMAGE),
    (layers.Flatten(), IMAGE), (layers.Flatten(), VECTOR), (layers.Reshape((8, -1)), IMAGE),
    (layers.Permute((3, 1, 2)), IMAGE), (layers.RepeatVector(3), VECTOR),
    *[
        (layers.Activation(name), SEQUENCE)
        for name in (
            "relu", "relu6", "sigmoid", "tanh", "softmax", "log_softmax", "gelu", "silu", "swish", "elu", "selu",
            "celu", "leaky_relu", "hard_sigmoid", "hard_swish", "hard_tanh", "softplus", "softsign", "mish",
            "exponential", "linear",
        )
    ],
    (layers.ReLU(), IMAGE), (layers.ReLU(6.0), IMAGE), (layers.ReLU(1.0, negative_slope=0.1), IMAGE),
    (layers.ReLU(negative_slope=0.1), IMAGE), (layers.LeakyReLU(0.3), IMAGE), (layers.ELU(0.5), IMAGE),
    (layers.PReLU(), IMAGE), (layers.PReLU(shared_axes=[1, 2]), IMAGE),
    (layers.Softmax(), IMAGE), (layers.Softmax(axis=1), IMAGE),
    *[
        (layer, IMAGE)
        for layer in (
            layers.Dropout(0.5), layers.SpatialDropout2D(0.5), layers.AlphaDropout(0.5), layers.GaussianDropout(0.5),
            layers.GaussianNoise(0.5), layers.ActivityRegularization(), layers.Identity(),
        )
    ],
    (layers.SpatialDropout1D(0.5), SEQUENCE), (layers.SpatialDropout3D(0.5), BOX),
    (layers.Rescaling(1 / 127.5, offset=-1.0), IMAGE),
    (layers.Rescaling([0.1, 0.2, 0.3, 0.4], offset=[1, 2, 3, 4]), IMAGE),
    (layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 2.0, 0.0, 4.0]), IMAGE),
]  # fmt: skip
MERGES = (layers.Add, layers.Subtract, layers.Multiply, layers.Maximum, layers.Minimum, layers.Average)


@pytest.mark.parametrize(
    ("layer", "shape"), LAYER_CASES, ids=[f"{type(layer).__name__}-{i}" for i, (layer, _) in enumerate(LAYER_CASES)]
)
def test_a_layer_computes_the_same(layer, shape):
    assert_same_outputs(of_layer(layer, shape))


@pytest.mark.parametrize("cls", MERGES)
def test_a_merging_layer_computes_the_same(cls):
    inputs = [keras.Input(IMAGE), keras.Input((1, 8, 4))]
    if cls is not layers.Subtract:
        inputs.append(keras.Input(IMAGE))
    assert_same_outputs(keras.Model(inputs, cls()(inputs)))


@pytest.mark.parametrize("axis", [-1, 1])
def test_concatenation_computes_the_same(axis):
    inputs = [keras.Input(IMAGE), keras.Input(IMAGE)]
    assert_same_outputs(keras.Model(inputs, layers.Concatenate(axis=axis)(inputs)))


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_an_embedding_looks_rows_up(dtype):
    words = keras.Input((4,), dtype=dtype)
    model = randomized(keras.Model(words, layers.Embedding(6, 3)(words)))
    proto = export_onnx(model)
    words = np.array([[0, 1, 5, 2], [3, 3, 4, 0]], dtype)
    np.testing.assert_array_equal(run(proto, [words])[0], ops.convert_to_numpy(model(words)))


def test_integers_are_rescaled_in_float():
    assert_same_outputs(of_layer(layers.Rescaling(1 / 255), IMAGE, "uint8"))


@pytest.mark.parametrize("layer", ["conv", "depthwise", "max", "average"])
@pytest.mark.parametrize("shape", [(7, 10), (8, 9), (1, 2)])
def test_strides_over_sizes_that_vary_pad_as_keras_does(layer, shape):
    make = {
        "conv": lambda: layers.Conv2D(5, (3, 4), strides=(2, 3), padding="same"),
        "depthwise": lambda: layers.DepthwiseConv2D(3, strides=2, padding="same"),
        "max": lambda: layers.MaxPooling2D(3, strides=2, padding="same"),
        "average": lambda: layers.AveragePooling2D(3, strides=2, padding="same"),
    }
    model = of_layer(make[layer](), (None, None, 4))
    x = np.random.default_rng(0).normal(size=(2, *shape, 4)).astype(np.float32)
    if layer == "average" and keras.config.backend() == "torch":
        # There Keras repeats the edge, of a width that depends on the size.
        with pytest.raises(ValueError, match=r"average_pooling2d.* axis without a size.* fixed size"):
            export_onnx(model)
        return
    np.testing.assert_allclose(run(export_onnx(model), [x])[0], ops.convert_to_numpy(model(x)), atol=2e-5, rtol=2e-5)


FUNCTION_CASES = {
    "arithmetic": (lambda x: 2.0 - (x + 1) * (x - 0.5) / 3 - (-x), IMAGE),
    "constants": (lambda x: x * np.arange(4, dtype=np.float32) + np.ones((9, 1, 4), np.float32), IMAGE),
    "powers": (lambda x: ops.sqrt(ops.square(x) + 1) + ops.rsqrt(ops.abs(x) + 1.0) + ops.power(ops.abs(x), 1.5), IMAGE),
    "exponents": (lambda x: ops.log(ops.exp(x) + 1.0) + ops.sin(x) + ops.cos(x) + ops.erf(x), IMAGE),
    "rounding": (lambda x: ops.floor(x) + ops.ceil(x) + ops.reciprocal(ops.abs(x) + 1.0), IMAGE),
    "extremes": (lambda x: ops.maximum(ops.minimum(x, 1.0), ops.clip(x, -0.5, 2.0)), IMAGE),
    "relu": (lambda x: ops.relu(x) + ops.relu6(x) + ops.leaky_relu(x, 0.3) + ops.elu(x, 0.5) + ops.selu(x), IMAGE),
    "sigmoid": (lambda x: ops.sigmoid(x) + ops.tanh(x) + ops.hard_sigmoid(x) + ops.softsign(x), IMAGE),
    "swish": (lambda x: ops.silu(x) + ops.hard_silu(x) + ops.softplus(x) + ops.celu(x, 0.5) + ops.hard_tanh(x), IMAGE),
    "gelu": (lambda x: ops.gelu(x) + ops.gelu(x, approximate=False), IMAGE),
    "softmax": (lambda x: ops.softmax(x) + ops.log_softmax(x, axis=1), IMAGE),
    "matmul": (lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), SEQUENCE),
    "matmul with a constant": (lambda x: ops.matmul(x, np.eye(4, 3, dtype=np.float32)), SEQUENCE),
    "einsum": (lambda x: ops.einsum("bij,bkj->bik", x, x), SEQUENCE),
    "reshape": (lambda x: ops.reshape(x, (-1, 3, 24)), IMAGE),
    "transpose": (lambda x: ops.swapaxes(ops.moveaxis(x, 1, -1), 2, 3), IMAGE),
    "transpose of all": (ops.transpose, VECTOR),
    "concatenate": (lambda x: ops.concatenate([x, x * 2, x], axis=2), IMAGE),
    "stack": (lambda x: ops.stack([x, x * 2], axis=1), IMAGE),
    "split": (lambda x: ops.split(x, 2, axis=-1), IMAGE),
    "split at": (lambda x: ops.split(x, [2, 5], axis=1), IMAGE),
    "unstack": (lambda x: ops.unstack(x, axis=-1), SEQUENCE),
    "dimensions": (lambda x: ops.squeeze(ops.expand_dims(x, 1) * 2, 1), SEQUENCE),
    "mean": (lambda x: ops.mean(x, axis=(1, 2)) + ops.mean(x, axis=(1, 2), keepdims=True)[:, 0, 0], IMAGE),
    "sum": (lambda x: ops.sum(x, axis=-1), IMAGE),
    "max": (lambda x: ops.max(x, axis=1) - ops.min(x, axis=1), IMAGE),
    "get item": (lambda x: x[:, 1:, ..., 2] + x[:, :-1, -1, -2][..., None], IMAGE),
    "steps": (lambda x: x[:, ::2, 1:7:3], IMAGE),
    "new axes": (lambda x: x[:, None, 3, :, None], IMAGE),
    "take": (lambda x: ops.take(x, [2, 0], axis=-1), IMAGE),
    "tile": (lambda x: ops.tile(x, (1, 2, 3)), SEQUENCE),
    "where": (lambda x: ops.where(x > 0.5, x, 0.0) + ops.where(ops.less_equal(x, -1.0), 1.0, x), IMAGE),
    "cast": (lambda x: ops.cast(ops.cast(x, "int32"), "float32"), IMAGE),
    "ravel": (ops.ravel, IMAGE),
    "comparisons": (lambda x: ops.where(ops.less(x, 1.0), ops.cast(x >= 0.0, "float32"), ops.divide(x, 2.0)), IMAGE),
    "equality": (lambda x: ops.where(ops.equal(ops.round(x), 1.0), 1.0, x), IMAGE),
    "stop gradient": (lambda x: ops.stop_gradient(x) + ops.copy(x), IMAGE),
}
if keras.config.backend() != "torch":  # torch has no steps backwards
    FUNCTION_CASES["backwards"] = (lambda x: x[:, ::-1] + x[:, 8:2:-1, :][:, :1], SEQUENCE)


@pytest.mark.parametrize("case", FUNCTION_CASES)
def test_a_function_computes_the_same(case):
    function, shape = FUNCTION_CASES[case]
    x = keras.Input(shape)
    assert_same_outputs(keras.Model(x, function(x)))


def test_a_softmax_of_images_needs_their_last_axis_only():
    x = keras.Input(IMAGE)
    assert_same_outputs(randomized(keras.Model(x, layers.Conv2D(5, 1, activation="softmax")(x))))


def unet():
    x = keras.Input((16, 16, 3))
    first = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    below = layers.MaxPooling2D()(first)
    below = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(below))
    below = layers.PReLU(shared_axes=[1, 2])(below)
    above = layers.Conv2DTranspose(8, 2, strides=2)(below)
    joined = layers.Concatenate()([above, first])
    up = layers.UpSampling2D()(layers.MaxPooling2D()(joined)) * np.arange(16, dtype=np.float32)
    joined = layers.Add()([layers.ZeroPadding2D(1)(up), layers.ZeroPadding2D(1)(joined)])
    cut = layers.Cropping2D(1)(joined)[:, 2:]
    return randomized(keras.Model(x, layers.Conv2D(2, 1, activation="sigmoid")(cut)))


def test_a_network_of_convolutions_transposes_its_ends_only():
    proto = assert_same_outputs(unet(), tolerance=5e-5)
    assert op_types(proto).count("Transpose") == 2


def vit():
    """One block of a vision transformer, its attention written out."""
    x = keras.Input((8, 8, 3))
    patches = layers.Reshape((16, 12))(layers.Conv2D(12, 2, strides=2)(x))
    normal = layers.LayerNormalization(epsilon=1e-6)(patches)
    queries, keys, values = ops.split(layers.Dense(36)(normal), 3, axis=-1)
    heads = [ops.transpose(ops.reshape(part, (-1, 16, 3, 4)), (0, 2, 1, 3)) for part in (queries, keys, values)]
    scores = ops.softmax(ops.matmul(heads[0], ops.transpose(heads[1], (0, 1, 3, 2))) * 0.5, axis=-1)
    mixed = ops.reshape(ops.transpose(ops.matmul(scores, heads[2]), (0, 2, 1, 3)), (-1, 16, 12))
    patches = patches + layers.EinsumDense("abc,cd->abd", output_shape=(None, 12), bias_axes="d")(mixed)
    hidden = layers.Dense(24, activation="gelu")(layers.LayerNormalization()(patches))
    patches = layers.Add()([patches, layers.Dense(12)(hidden)])
    return randomized(keras.Model(x, layers.Dense(5)(ops.mean(patches, axis=1))))


def test_a_block_of_a_vision_transformer_computes_the_same():
    assert_same_outputs(vit(), tolerance=1e-4)


def test_every_translation_is_compared():
    """A translator that no case above reaches would be a promise only."""
    used = {type(layer) for layer, _ in LAYER_CASES}
    assert set(LAYERS) - used - {*MERGES, layers.Concatenate, layers.Embedding} == set()
    seen = set()
    for function, shape in FUNCTION_CASES.values():
        x = keras.Input(shape)
        seen |= {type(operation).__name__ for operation in keras.Model(x, function(x)).operations}
    assert set(FUNCTIONS) - seen == set()


class OwnLayer(layers.Layer):
    def call(self, x):
        return x


class OwnDense(layers.Dense):
    def call(self, x):
        return super().call(x) * 2


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (lambda: OwnLayer(name="mine"), IMAGE, "mine, of class OwnLayer, .* Supported layers: .*Conv2D"),
        (lambda: OwnDense(3), VECTOR, "OwnDense, cannot be exported"),
        (lambda: layers.GroupNormalization(2), SEQUENCE, "GroupNormalization, cannot be exported"),
        (lambda: layers.Activation(lambda x: x * 2), IMAGE, "activation function '<lambda>'.* Supported: .*'relu'"),
        (lambda: layers.ReLU(threshold=1.0), IMAGE, "threshold=1.0"),
        (lambda: layers.UpSampling2D(interpolation="bicubic"), IMAGE, "interpolation='bicubic'"),
        (lambda: layers.Conv2DTranspose(3, 3, strides=2, output_padding=1), IMAGE, r"output_padding"),
        (lambda: layers.LayerNormalization(axis=1), IMAGE, "last axes"),
        (lambda: layers.Softmax(axis=[1, 2]), IMAGE, "softmax over the axes"),
        (lambda: layers.Conv2D(3, 3, dtype="mixed_bfloat16"), IMAGE, "must compute in float32"),
    ],
)
def test_what_has_no_translation_is_refused_by_name(layer, shape, words):
    x = keras.Input(shape)
    with pytest.raises(ValueError, match=words):
        export_onnx(keras.Model(x, layer()(x)))


def test_a_function_without_translation_is_refused_by_name():
    x = keras.Input(IMAGE)
    with pytest.raises(ValueError, match=r"of class Argsort, .* Supported functions of `keras.ops`: Abs"):
        export_onnx(keras.Model(x, ops.argsort(x)))


def test_masks_are_refused():
    words = keras.Input((4,), dtype="int32")
    with pytest.raises(ValueError, match="mask_zero=True"):
        export_onnx(keras.Model(words, layers.Embedding(6, 3, mask_zero=True)(words)))
    x, mask = keras.Input(SEQUENCE), keras.Input((10,), dtype="bool")
    with pytest.raises(ValueError, match=r"the arguments \['mask'\]"):
        export_onnx(keras.Model([x, mask], layers.GlobalAveragePooling1D()(x, mask=mask)))


def test_a_model_that_is_no_recorded_one_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="must be a functional model"):
        export_onnx(Own())
    with pytest.raises(TypeError, match=r"must be a keras\.Model"):
        export_onnx(layers.Dense(3))

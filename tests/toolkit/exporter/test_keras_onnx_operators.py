# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Each translation of a layer or function of Keras against Keras itself, in float and on the backend of the day."""

import functools

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


AUGMENTATIONS = [
    layers.AugMix, layers.CutMix, layers.MixUp, layers.RandAugment, layers.RandomGrayscale, layers.RandomPerspective,
    layers.RandomErasing, layers.RandomElasticTransform, layers.RandomGaussianBlur, layers.RandomColorJitter,
    *[functools.partial(cls, 0.3) for cls in (
        layers.RandomBrightness, layers.RandomColorDegeneration, layers.RandomContrast, layers.RandomHue,
        layers.RandomInvert, layers.RandomRotation, layers.RandomSaturation, layers.RandomSharpness,
        layers.RandomShear, layers.RandomZoom,
    )],
    functools.partial(layers.RandomPosterization, 4), layers.RandomFlip,
    functools.partial(layers.RandomTranslation, 0.3, 0.3),
]  # fmt: skip
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
        (layers.Conv2DTranspose(3, size, strides=strides, padding=padding, output_padding=more), IMAGE)
        for size, strides, padding, more in ((3, 2, "same", 1), (4, 3, "same", (1, 2)), (2, 2, "valid", 1))
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
    (layers.LayerNormalization(axis=[1, 3], center=False), IMAGE),
    (layers.GroupNormalization(2), IMAGE), (layers.GroupNormalization(-1, axis=1, scale=False), SEQUENCE),
    (layers.GroupNormalization(1, center=False, epsilon=0.1), VECTOR),
    (layers.RMSNormalization(), IMAGE), (layers.UnitNormalization(), SEQUENCE), (layers.UnitNormalization(1), IMAGE),
    (layers.Flatten(), IMAGE), (layers.Flatten(), VECTOR), (layers.Reshape((8, -1)), IMAGE),
    (layers.Permute((3, 1, 2)), IMAGE), (layers.RepeatVector(3), VECTOR),
    *[
        (layers.Activation(name), SEQUENCE)
        for name in (
            "relu", "relu6", "sigmoid", "tanh", "softmax", "log_softmax", "gelu", "silu", "swish", "elu", "selu",
            "celu", "leaky_relu", "hard_sigmoid", "hard_swish", "hard_tanh", "softplus", "softsign", "mish",
            "exponential", "linear", "log_sigmoid", "tanh_shrink", "hard_shrink", "soft_shrink", "sparse_sigmoid",
        )
    ],
    (layers.ReLU(), IMAGE), (layers.ReLU(6.0), IMAGE), (layers.ReLU(1.0, negative_slope=0.1), IMAGE),
    (layers.ReLU(negative_slope=0.1), IMAGE), (layers.LeakyReLU(0.3), IMAGE), (layers.ELU(0.5), IMAGE),
    (layers.PReLU(), IMAGE), (layers.PReLU(shared_axes=[1, 2]), IMAGE),
    (layers.Softmax(), IMAGE), (layers.Softmax(axis=1), IMAGE), (layers.Softmax(axis=(-2, -1)), IMAGE),
    *[
        (layer, IMAGE)
        for layer in (
            layers.Dropout(0.5), layers.SpatialDropout2D(0.5), layers.AlphaDropout(0.5), layers.GaussianDropout(0.5),
            layers.GaussianNoise(0.5), layers.ActivityRegularization(), layers.Identity(),
        )
    ],
    (layers.Resizing(5, 11), IMAGE), (layers.Resizing(6, 16, interpolation="nearest"), IMAGE),
    (layers.CenterCrop(4, 5), IMAGE),
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
    "stop gradient": (lambda x: ops.stop_gradient(x) + ops.copy(x) + ops.convert_to_tensor(x), IMAGE),
    "trigonometry": (
        lambda x: (
            ops.tan(x)
            + ops.arctan(x)
            + ops.sinh(x)
            + ops.cosh(x)
            + ops.arcsinh(x)
            + ops.arcsin(ops.clip(x, -0.9, 0.9))
            + ops.arccos(ops.clip(x, -0.9, 0.9))
            + ops.arctanh(ops.clip(x, -0.9, 0.9))
            + ops.arccosh(ops.abs(x) + 2.0)
        ),
        IMAGE,
    ),
    "logarithms": (
        lambda x: ops.log1p(ops.abs(x)) + ops.log2(ops.abs(x) + 1.0) + ops.log10(ops.abs(x) + 1.0) + ops.expm1(x),
        IMAGE,
    ),
    "signs": (lambda x: ops.sign(x) + ops.trunc(x) + x // 0.75 + x % 0.75 + ops.absolute(x), IMAGE),
    "no division by zero": (lambda x: ops.divide_no_nan(x, ops.relu(x)), IMAGE),
    "shrinking": (
        lambda x: (
            ops.hard_shrink(x, 0.3)
            + ops.soft_shrink(x, 0.3)
            + ops.tanh_shrink(x)
            + ops.squareplus(x)
            + ops.log_sigmoid(x)
            + ops.sparse_sigmoid(x)
        ),
        IMAGE,
    ),
    "gated": (lambda x: ops.glu(x) + ops.glu(x, axis=-1), IMAGE),
    "logic": (
        lambda x: ops.where(
            ops.logical_and(x > 0.5, ops.logical_not(x > 2.0)) | ops.logical_xor(x < -1.0, ops.not_equal(x, x)), x, 0.0
        ),
        IMAGE,
    ),
    "finite": (lambda x: ops.where(ops.isnan(ops.log(x)) | ops.isinf(x), 1.0, x), IMAGE),
    "promotion": (lambda x: ops.where(ops.cast(x, "int32") > 0.5, 1.0, x) + ops.cast(x, "int32") % 3, IMAGE),
    "variance": (lambda x: ops.var(x, axis=(1, 2)) + ops.std(x + 100.0, axis=(1, 2), keepdims=True)[:, 0, 0], IMAGE),
    "moments": (lambda x: [*ops.moments(x, axes=(1, 2)), *ops.moments(x, axes=-1, keepdims=True)], IMAGE),
    "norms": (
        lambda x: [
            ops.norm(x, axis=-1),
            ops.norm(x, ord=1, axis=1, keepdims=True),
            ops.norm(x, ord=3, axis=1),
            ops.norm(x, ord=np.inf, axis=-1),
            ops.norm(x, axis=(1, 2)),
            ops.norm(x, ord=-np.inf, axis=-1),
        ],
        IMAGE,
    ),
    "normalize": (lambda x: ops.normalize(ops.relu(x)) + ops.normalize(x, axis=1, order=1), IMAGE),
    "normalizations": (
        lambda x: (
            ops.rms_normalization(x, np.arange(4, dtype=np.float32), epsilon=0.1)
            + ops.layer_normalization(x, np.arange(4, dtype=np.float32), axis=-1)
            + ops.layer_normalization(x, axis=(1, 3))
        ),
        IMAGE,
    ),
    "extremes' places": (
        lambda x: [ops.argmax(x, axis=-1), ops.argmin(x, axis=1, keepdims=True), ops.argmax(x)],
        IMAGE,
    ),
    "reductions": (
        lambda x: [
            ops.prod(x, axis=-1),
            ops.logsumexp(x, axis=(1, 2)),
            ops.amax(x, axis=1),
            ops.amin(x, axis=-1),
            ops.average(x, axis=1),
            ops.any(x > 2.0, axis=-1),
            ops.all(x > -2.0, axis=1, keepdims=True),
        ],
        IMAGE,
    ),
    "running sums": (lambda x: ops.cumsum(x, axis=1), IMAGE),
    "running sum of all": (ops.cumsum, VECTOR),
    "best": (lambda x: [ops.top_k(x, 2)[0], ops.cast(ops.top_k(x, 2)[1], "int32")], IMAGE),
    "one hot": (
        lambda x: (
            ops.one_hot(ops.cast(ops.minimum(x, 3.0), "int32"), 4) + ops.one_hot(ops.argmax(x, -1), 4)[..., None, :]
        ),
        IMAGE,
    ),
    "padding": (
        lambda x: [
            ops.pad(x, [[0, 0], [1, 2], [0, 3], [1, 0]]),
            ops.pad(x, [[0, 0], [1, 2], [0, 3], [0, 0]], "constant", 2.5),
            ops.pad(x, [[0, 0], [1, 2], [0, 3], [1, 0]], "reflect"),
        ],
        IMAGE,
    ),
    "flips": (lambda x: ops.flip(x, axis=1) + ops.flip(x, axis=(1, -1)) + ops.roll(x, 2, axis=1), IMAGE),
    "rolls": (lambda x: ops.roll(x, (1, -3), axis=(1, 2)) + ops.roll(x, 0, axis=1), IMAGE),
    "repeats": (
        lambda x: [ops.repeat(x, 3, axis=1), ops.repeat(x, 2, axis=-1), ops.repeat(x, np.array([1, 0, 2, 1]), axis=3)],
        IMAGE,
    ),
    "repeats of all": (lambda x: [ops.repeat(x, 2), ops.repeat(x, 2, axis=0)], VECTOR),
    "places": (
        lambda x: [
            ops.take_along_axis(x, ops.cast(ops.abs(x[:, :2]), "int32") % 9, axis=1),
            ops.take(x, [5, 7]),
            ops.take(x[0, :, 0, 0], ops.cast(ops.abs(x[:, :, 0, 0]), "int32") % 9, axis=0),
        ],
        IMAGE,
    ),
    "slices": (lambda x: ops.slice(x, (0, 1, 2, 0), (3, 4, 5, 2)), IMAGE),
    "triangles": (lambda x: ops.tril(x) + ops.triu(x, k=1), SEQUENCE),
    "fillings": (lambda x: [ops.zeros_like(x), ops.ones_like(x, dtype="int32"), ops.full_like(x, 2.5)], IMAGE),
    "broadcasts": (lambda x: ops.broadcast_to(x[:, :1], (3, 9, 8, 4)), IMAGE),
    "more tiles": (lambda x: ops.tile(x, (2, 1, 3)), VECTOR),
    "blocks": (lambda x: ops.depth_to_space(ops.space_to_depth(x[:, :8], 4), 2), IMAGE),
    "resize": (lambda x: ops.image.resize(x, (5, 13)) + ops.image.resize(x, (5, 13), "nearest"), IMAGE),
    "images": (
        lambda x: [
            ops.image.crop_images(x, 1, 2, target_height=5, target_width=4),
            ops.image.pad_images(x, 1, 2, target_height=12, target_width=14),
            ops.image.rgb_to_grayscale(x[..., :3]),
        ],
        IMAGE,
    ),
}
if keras.config.backend() == "jax":
    FUNCTION_CASES["more padding"] = (lambda x: ops.pad(x, [[0, 0], [2, 3], [0, 0]], "edge"), SEQUENCE)
if keras.config.backend() == "tensorflow":
    FUNCTION_CASES["more padding"] = (lambda x: ops.pad(x, [[0, 0], [2, 3], [0, 1]], "symmetric"), SEQUENCE)
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
    used = {type(layer) for layer, _ in LAYER_CASES} | {type(make()) for make in AUGMENTATIONS}
    assert set(LAYERS) - used - {*MERGES, layers.Concatenate, layers.Embedding} == set()
    seen = set()
    for function, shape in FUNCTION_CASES.values():
        x = keras.Input(shape)
        seen |= {type(operation).__name__ for operation in keras.Model(x, function(x)).operations}
    assert set(FUNCTIONS) - seen == set()


def test_layers_that_change_images_in_training_only_are_left_out():
    x = y = keras.Input((8, 8, 3))
    for make in AUGMENTATIONS:
        y = make()(y)
    proto = assert_same_outputs(keras.Model(x, y))
    assert op_types(proto) == ["Identity"]


class LayerScale(layers.Layer):
    """As of ConvNeXt: with a weight of its own."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(shape[-1],))

    def call(self, x):
        return x * self.gamma

    def compute_output_shape(self, shape):
        return shape


class StochasticDepth(layers.Layer):
    """Drops in training only."""

    def compute_output_shape(self, shape):
        return shape

    def call(self, x, training=None):
        if training:
            return x * keras.random.uniform((1,))
        return x


class Mixed(layers.Layer):
    """Layers, functions and weights, and two results."""

    def __init__(self):
        super().__init__()
        self.dense, self.scale = layers.Dense(4, activation="relu"), LayerScale()

    def build(self, shape):
        self.dense.build(shape)
        self.scale.build(shape)
        self.bias = self.add_weight(shape=(1, shape[-1]))

    def call(self, x, other):
        y = self.bias * self.scale(self.dense(x)) - ops.mean(other, axis=-1, keepdims=True)
        y = y + ops.reshape(self.bias, (4,))
        return ops.reshape(y, ops.shape(x)), y * ops.arange(4, dtype="float32")


def test_a_layer_that_only_calls_functions_is_exported_by_them():
    x, other = keras.Input(SEQUENCE), keras.Input(SEQUENCE)
    first, second = Mixed()(StochasticDepth()(LayerScale()(x)), other)
    doubled = layers.Lambda(lambda y: ops.sin(y) * 2.0)(second)
    assert_same_outputs(randomized(keras.Model([x, other], [first, doubled])))


def test_attention_without_projections_and_dot_compute_the_same():
    x, other = keras.Input(SEQUENCE), keras.Input(SEQUENCE)
    results = [layers.Attention(use_scale=True)([x, other]), layers.AdditiveAttention()([x, other])]
    results.append(layers.Dot(axes=(2, 2), normalize=True)([x, other]))
    assert_same_outputs(randomized(keras.Model([x, other], results)))


def test_a_wrapped_model_or_normalized_layer_computes_the_same():
    x = keras.Input((3, *IMAGE))
    step = keras.Sequential([keras.Input(IMAGE), layers.Conv2D(3, 3), layers.GlobalAveragePooling2D(), layers.Dense(4)])
    y = layers.SpectralNormalization(layers.Dense(5))(layers.TimeDistributed(step)(x))
    assert_same_outputs(randomized(keras.Model(x, layers.TimeDistributed(LayerScale())(y))))


class Random(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal((4,), seed=self.seed_generator)


class Numpy(layers.Layer):
    def call(self, x):
        return x * ops.convert_to_tensor(np.random.default_rng().normal(size=4).astype(np.float32))


class Counter(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(1,), trainable=False)

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x * self.count


class Values(layers.Layer):
    def call(self, x):
        return ops.convert_to_tensor(np.sin(ops.convert_to_numpy(x)))

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (lambda: Values(name="mine"), IMAGE, "mine, of class Values, .* Supported layers: .*Conv2D.* symbolic tensors"),
        (Random, IMAGE, "Random, cannot be exported.* random numbers"),
        (Numpy, IMAGE, "Numpy, cannot be exported.* other constants each time"),
        (Counter, IMAGE, "Counter, cannot be exported.* changes its state"),
        (layers.Masking, SEQUENCE, "Masking, cannot be exported.* makes a mask"),
        (lambda: layers.Lambda(ops.argsort), SEQUENCE, "Lambda, cannot .* Reason: .*of class Argsort"),
        (lambda: layers.Activation(lambda x: x * 2), IMAGE, "activation function '<lambda>'.* Supported: .*'relu'"),
        (lambda: layers.ReLU(threshold=1.0), IMAGE, "threshold=1.0"),
        (lambda: layers.UpSampling2D(interpolation="bicubic"), IMAGE, "interpolation='bicubic'"),
        (lambda: layers.Resizing(4, 4, crop_to_aspect_ratio=True), IMAGE, "crop_to_aspect_ratio=True"),
        (lambda: layers.Resizing(4, 4, "bicubic"), IMAGE, "interpolation='bicubic'"),
        (lambda: layers.TimeDistributed(Values()), SEQUENCE, "Values, cannot be exported"),
        (lambda: layers.Conv2D(3, 3, dtype="mixed_bfloat16"), IMAGE, "must compute in float32"),
    ],
)
def test_what_has_no_translation_is_refused_by_name(layer, shape, words):
    x = keras.Input(shape)
    with pytest.raises(ValueError, match=words):
        export_onnx(keras.Model(x, layer()(x)))


def test_a_function_without_translation_is_refused_by_name():
    x = keras.Input(IMAGE)
    with pytest.raises(ValueError, match=r"of class Argsort, .* Supported functions of `keras.ops`: Absolute"):
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

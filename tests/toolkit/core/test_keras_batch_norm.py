# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Batch norms of Keras models: folded exactly, live in training, folded at the end without changing an integer."""

import itertools

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from backend_marks import few_on_jax
from keras import layers, ops
from keras_models import built, fresh, random, run

import model_compression_toolkit as mct
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.keras.batch_norm import (
    LiveBatchNormalization,
    affine_of,
    fold_batch_norm,
    make_factors_positive,
    with_bias,
)
from model_compression_toolkit.core.keras.surgery import names_of, quantizer_in

pytestmark = pytest.mark.keras

BACKEND = keras.config.backend()
SPECIAL_GAMMAS = (0.0, -1.5, 2.0, -0.3)

# Constructor, shape of a batch.
LAYERS = {
    "dense": (lambda **a: layers.Dense(6, **a), (8, 4)),
    "dense over time": (lambda **a: layers.Dense(6, **a), (8, 3, 4)),
    "conv1d": (lambda **a: layers.Conv1D(6, 3, **a), (5, 9, 4)),
    "conv2d": (lambda **a: layers.Conv2D(6, 3, **a), (5, 7, 6, 4)),
    "grouped": (lambda **a: layers.Conv2D(6, 3, groups=2, **a), (5, 7, 6, 4)),
    "conv3d": (lambda **a: layers.Conv3D(6, 2, **a), (5, 4, 4, 3, 4)),
    "depthwise1d": (lambda **a: layers.DepthwiseConv1D(3, **a), (5, 9, 4)),
    "depthwise2d": (lambda **a: layers.DepthwiseConv2D((3, 2), **a), (5, 7, 6, 4)),
    "depthwise with a multiplier": (lambda **a: layers.DepthwiseConv2D(3, depth_multiplier=2, **a), (5, 7, 6, 4)),
    "separable1d": (lambda **a: layers.SeparableConv1D(6, 3, **a), (5, 9, 4)),
    "separable2d": (lambda **a: layers.SeparableConv2D(6, 3, depth_multiplier=2, **a), (5, 7, 6, 4)),
    "transposed1d": (lambda **a: layers.Conv1DTranspose(6, 3, **a), (5, 9, 4)),
    "transposed2d": (lambda **a: layers.Conv2DTranspose(6, (3, 2), strides=2, **a), (5, 5, 4, 4)),
    "transposed3d": (lambda **a: layers.Conv3DTranspose(6, 2, **a), (5, 3, 3, 3, 4)),
    "channels first": (lambda **a: layers.Conv2D(6, 3, data_format="channels_first", **a), (5, 4, 7, 6)),
}
# TensorFlow computes these on accelerators only.
RUNS = [kind for kind in LAYERS if BACKEND != "tensorflow" or kind not in ("grouped", "channels first")]
SHARED_SCALES = "depthwise with a multiplier"
kinds = pytest.mark.parametrize("kind", RUNS)
trained_kinds = pytest.mark.parametrize(
    "kind",
    # On JAX what TensorFlow does not run, too.
    few_on_jax((kind for kind in RUNS if kind != SHARED_SCALES), ("conv2d", "grouped", "channels first")),
)


def pair(kind, use_bias=True, **arguments):
    """A layer and a batch norm as training leaves it, with factors of zero and below, and a batch."""
    make, shape = LAYERS[kind]
    generator = np.random.default_rng(0)
    x = keras.Input(shape[1:], name="x")
    layer = make(use_bias=use_bias, name="layer")
    norm = layers.BatchNormalization(axis=1 if kind == "channels first" else -1, name="norm", **arguments)
    norm(layer(x))
    for weight in layer.weights:
        weight.assign(generator.normal(size=weight.shape))
    channels = norm.moving_mean.shape[0]
    norm.moving_mean.assign(generator.normal(size=channels))
    norm.moving_variance.assign(generator.normal(size=channels) ** 2 + 0.1)
    if norm.gamma is not None:
        norm.gamma.assign([SPECIAL_GAMMAS[i % 4] for i in range(channels)])
    if norm.beta is not None:
        norm.beta.assign(generator.normal(size=channels))
    return layer, norm, random(*shape, seed=4)


def network(kind, **arguments):
    layer, norm, data = pair(kind, **arguments)
    x = keras.Input(data.shape[1:], name="x")
    return keras.Model(x, layers.ReLU(name="relu")(norm(layer(x)))), data


# The oracle: loops over NumPy arrays, float64.


def float64(variable):
    return ops.convert_to_numpy(variable).astype(np.float64)


def windows(x, size):
    """Each position of a kernel of `size` with what it sees of `x`, channels last, without padding, stride 1."""
    lengths = [length - k + 1 for length, k in zip(x.shape[1:-1], size, strict=True)]
    for position in np.ndindex(*size):
        spatial = tuple(slice(p, p + n) for p, n in zip(position, lengths, strict=True))
        yield position, x[(slice(None), *spatial)]


def convolved(x, kernel):
    groups = x.shape[-1] // kernel.shape[-2]
    parts = zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
    return np.concatenate(
        [sum(seen @ part[position] for position, seen in windows(x_part, part.shape[:-2])) for x_part, part in parts],
        axis=-1,
    )


def depthwise(x, kernel):
    result = sum(seen[..., np.newaxis] * kernel[position] for position, seen in windows(x, kernel.shape[:-2]))
    return result.reshape(*result.shape[:-2], -1)


def transposed(x, kernel, strides):
    size = kernel.shape[:-2]
    # Keras pads what a valid transposed convolution makes to at least `stride` for each input.
    lengths = [n * s + max(k - s, 0) for n, s, k in zip(x.shape[1:-1], strides, size, strict=True)]
    result = np.zeros((x.shape[0], *lengths, kernel.shape[-2]))
    for position in np.ndindex(*size):
        spatial = tuple(slice(p, p + s * n, s) for p, s, n in zip(position, strides, x.shape[1:-1], strict=True))
        result[(slice(None), *spatial)] += x @ kernel[position].T
    return result


def products(layer, x):
    if isinstance(layer, layers.Dense):
        return x @ float64(layer.kernel)
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        return convolved(depthwise(x, float64(layer.depthwise_kernel)), float64(layer.pointwise_kernel))
    if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return depthwise(x, float64(layer.kernel))
    if "Transpose" in type(layer).__name__:
        return transposed(x, float64(layer.kernel), layer.strides)
    return convolved(x, float64(layer.kernel))


def oracle(layer, x, norm=None):
    """The layer, and the batch norm behind it in evaluation, in float64; channels last."""
    x = np.moveaxis(x, 1, -1) if getattr(layer, "data_format", None) == "channels_first" else x
    result = products(layer, x.astype(np.float64)) + (0.0 if layer.bias is None else float64(layer.bias))
    if norm is None:
        return result
    gamma = 1.0 if norm.gamma is None else float64(norm.gamma)
    beta = 0.0 if norm.beta is None else float64(norm.beta)
    normalized = (result - float64(norm.moving_mean)) / np.sqrt(float64(norm.moving_variance) + norm.epsilon)
    return normalized * gamma + beta


@kinds
def test_the_oracle_computes_what_the_layers_compute(kind):
    layer, norm, x = pair(kind)
    received = ops.convert_to_numpy(norm(layer(x), training=False))
    received = np.moveaxis(received, 1, -1) if kind == "channels first" else received
    expected = oracle(layer, x, norm)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


ARGUMENTS = [{}, {"scale": False}, {"center": False}, {"scale": False, "center": False}, {"epsilon": 0.3}]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no bias"])
def test_folding_is_exact(kind, arguments, use_bias):
    layer, norm, x = pair(kind, use_bias, **arguments)
    expected = oracle(layer, x, norm)
    folded = with_bias(layer)
    fold_batch_norm(folded, norm)
    # Only the rounding of weights and bias to float32 is left: 2**-24 of each term.
    magnitudes = pair(kind, use_bias)[0]
    for mine, theirs in zip(magnitudes.weights, folded.weights, strict=False):
        mine.assign(np.abs(float64(theirs)))
    bound = 2.0**-24 * (oracle(magnitudes, np.abs(x)).max() + np.abs(float64(folded.bias)).max())
    assert np.abs(oracle(folded, x) - expected).max() <= bound
    # The caller's layer is another one.
    assert (layer.bias is None) is not use_bias
    assert np.array_equal(oracle(layer, x, norm), expected)


@kinds
def test_positive_factors_compute_bitwise_the_same(kind):
    layer, norm, x = pair(kind)
    expected = ops.convert_to_numpy(norm(layer(x), training=False))
    make_factors_positive(layer, norm)
    assert (ops.convert_to_numpy(norm.gamma) >= 0).all()
    # Signs flip twice; every product and sum has the same magnitude.
    assert np.array_equal(ops.convert_to_numpy(norm(layer(x), training=False)), expected)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_affine_of_is_the_map_of_the_batch_norm(arguments):
    _, norm, _ = pair("dense", **arguments)
    factor, shift = affine_of(norm)
    x = random(50, 6, seed=9)
    expected = ops.convert_to_numpy(norm(x, training=False))
    np.testing.assert_allclose(factor * x + shift, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", RUNS)
def test_post_training_quantization_folds_and_loses_the_batch_norm(kind):
    model, data = network(kind)
    config = mct.QuantizationConfig.from_bits("w16a16", first_last_bits=None)
    quantized = mct.quantize(model, data, config)
    plan = mct.plan_of(quantized)
    assert (dict(plan.batch_norms), plan.live_batch_norms) == ({"norm": "layer"}, ())
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in quantized.layers)
    folded = with_bias(model.get_layer("layer"))
    fold_batch_norm(folded, model.get_layer("norm"))
    wrapped = quantized.get_layer("layer").layer
    for received, expected in zip(wrapped.get_weights(), folded.get_weights(), strict=True):
        assert np.array_equal(received, expected)
    expected = run(model, data)
    assert np.linalg.norm(run(quantized, data) - expected) < 1e-3 * np.linalg.norm(expected)


# What cannot be folded.


def behind_an_activation(x, norm):
    return norm(layers.Activation("tanh")(layers.Conv1D(6, 1, name="layer")(x)))


def behind_an_activation_of_the_layer(x, norm):
    return norm(layers.Conv1D(6, 1, activation="tanh", name="layer")(x))


def used_twice(x, norm):
    y = layers.Conv1D(6, 1, name="layer")(x)
    return layers.Add()([norm(y), y])


def also_an_output(x, norm):
    y = layers.Conv1D(6, 1, name="layer")(x)
    return [norm(y), y]


def reused_layer(x, norm):
    layer = layers.Conv1D(6, 1, name="layer")
    return norm(layer(layer(x)))


def reused_norm(x, norm):
    return norm(layers.Conv1D(6, 1, name="layer")(norm(x)))


def another_axis(x, norm):
    return layers.BatchNormalization(axis=1)(layers.Conv1D(6, 1, name="layer")(x))


def behind_an_input(x, norm):
    return layers.Conv1D(6, 1, name="layer")(norm(x))


def behind_einsum(x, norm):
    return norm(layers.EinsumDense("abc,cd->abd", output_shape=(None, 6), name="layer")(x))


def with_a_mask(x, norm):
    y = layers.Conv1D(6, 1, name="layer")(x)
    return norm(y, mask=ops.any(x > -100.0, axis=-1))


@keras.saving.register_keras_serializable("tests")
class OwnNorm(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return 2.0 * super().call(inputs, training=training, mask=mask)


def of_a_class_of_its_own(x, norm):
    return OwnNorm(name="own")(layers.Conv1D(6, 1, name="layer")(x))


NOT_FOLDED = [
    behind_an_activation, behind_an_activation_of_the_layer, used_twice, also_an_output, reused_layer, reused_norm,
    another_axis, behind_an_input, behind_einsum, with_a_mask, of_a_class_of_its_own,
]  # fmt: skip


@pytest.mark.parametrize("make", NOT_FOLDED)
@pytest.mark.parametrize("verb", [mct.quantize, mct.prepare_qat])
def test_what_cannot_be_folded_stays_and_computes_the_same(make, verb):
    x = keras.Input((6, 6), name="x")
    norm = layers.BatchNormalization(name="norm")
    model = keras.Model(x, make(x, norm))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    data = random(32, 6, 6)
    quantized = verb(model, data)
    assert dict(mct.plan_of(quantized).batch_norms) == {}
    assert any(isinstance(layer, layers.BatchNormalization) for layer in quantized.layers)
    expected = run(model, data)
    assert np.linalg.norm(run(quantized, data) - expected) < 0.03 * np.linalg.norm(expected)
    if verb is mct.prepare_qat:
        final = mct.finalize(quantized)
        assert np.array_equal(run(final, data), run(quantized, data))
        assert not any(isinstance(layer, LiveBatchNormalization) for layer in final.layers)


# Live batch norms.


def prepared(kind="conv2d", bits="w8a8", **arguments):
    model, data = network(kind, **arguments)
    return mct.prepare_qat(model, data, mct.QuantizationConfig.from_bits(bits, first_last_bits=8)), model, data


@trained_kinds
def test_preparing_keeps_the_batch_norm_alive_with_its_settings(kind):
    ready, model, data = prepared(kind, epsilon=0.02, momentum=0.3)
    norm = ready.get_layer("norm")
    assert isinstance(norm, LiveBatchNormalization)
    assert (norm.epsilon, norm.momentum, norm.axis) == (0.02, 0.3, model.get_layer("norm").axis)
    assert mct.plan_of(ready).live_batch_norms == ("norm",)
    assert (ops.convert_to_numpy(norm.gamma) >= 0).all()
    # A bias that the batch norm would take back anyway is not made.
    assert ready.get_layer("layer").layer.use_bias is model.get_layer("layer").use_bias
    expected = run(model, data)
    assert np.linalg.norm(run(ready, data) - expected) < 0.03 * np.linalg.norm(expected)


def test_preparing_changes_nothing_beyond_quantization():
    """Every other factor is negative; at 16 bits only rounding is left."""
    model, data = network("conv2d")
    ready = mct.prepare_qat(model, data, mct.QuantizationConfig.from_bits("w16a16", first_last_bits=None))
    np.testing.assert_allclose(run(ready, data), run(model, data), rtol=1e-3, atol=2e-3)


def test_a_depthwise_layer_with_several_outputs_is_folded_unless_live_is_demanded():
    ready, model, data = prepared(SHARED_SCALES)
    plan = mct.plan_of(ready)
    assert (dict(plan.batch_norms), plan.live_batch_norms) == ({"norm": "layer"}, ())
    with pytest.raises(ValueError, match=r"`batch_norm` 'live'.*depthwise one with several"):
        mct.prepare_qat(model, data, mct.QuantizationConfig(batch_norm="live"))


@pytest.mark.parametrize(
    "weights",
    [
        mct.TensorConfig(granularity="per_tensor"),
        mct.TensorConfig(granularity="per_channel", method=mct.QuantizationMethod.POWER_OF_TWO),
    ],
    ids=["per_tensor", "power_of_two"],
)
def test_without_free_scales_per_channel_batch_norms_are_folded_unless_live_is_demanded(weights):
    model, data = network("dense")
    ready = mct.prepare_qat(model, data, mct.QuantizationConfig(weights=weights))
    assert mct.plan_of(ready).live_batch_norms == ()
    with pytest.raises(ValueError, match="`batch_norm` 'live' needs"):
        mct.prepare_qat(model, data, mct.QuantizationConfig(weights=weights, batch_norm="live"))


def test_fold_folds_before_training():
    model, data = network("dense")
    ready = mct.prepare_qat(model, data, mct.QuantizationConfig(batch_norm="fold"))
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in ready.layers)
    assert ready.get_layer("layer").layer.bias.trainable


def train(model, data, epochs=3, rate=0.05):
    """Stochastic gradient descent towards one."""
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", run_eagerly=BACKEND == "tensorflow")
    target = np.ones((len(data), *model.output.shape[1:]), np.float32)
    model.fit(data, target, epochs=epochs, batch_size=len(data), verbose=0)
    return model


def codes(model):
    """Integers of each quantized weight, by its name in the plan."""
    names = names_of(model)
    found = {}
    for tensor in mct.plan_of(model).quantized():
        if tensor.is_weight:
            wrapper = model.get_layer(names[tensor.name])
            weight = getattr(wrapper.layer, tensor.site.tensor)
            quantizer = quantizer_in(wrapper, tensor)
            found[tensor.name] = ops.convert_to_numpy(quantizer.quantize(ops.convert_to_tensor(weight)))
    return found


def check_finalized(ready, data):
    trained = codes(ready)
    final = mct.finalize(ready)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in final.layers)
    received = codes(final)
    assert received.keys() == trained.keys()
    for name, expected in trained.items():
        assert np.array_equal(received[name], expected), name
    # Folding multiplies in another order.
    expected = run(ready, data)
    assert np.linalg.norm(run(final, data) - expected) <= 1e-5 * np.linalg.norm(expected)
    return final


@trained_kinds
def test_folding_a_trained_batch_norm_changes_no_integer(kind):
    ready, _, data = prepared(kind, "w4a8")
    before = codes(ready)
    train(ready, data)
    assert any(not np.array_equal(value, before[name]) for name, value in codes(ready).items())
    final = check_finalized(ready, data)
    assert final.get_layer("layer").layer.use_bias
    assert mct.plan_of(final).live_batch_norms == ()
    assert dict(mct.plan_of(final).batch_norms) == {"norm": "layer"}


@pytest.mark.parametrize("method", [mct.QuantizationMethod.SYMMETRIC, mct.QuantizationMethod.UNIFORM])
@pytest.mark.parametrize("arguments", [{"scale": False}, {"center": False}], ids=str)
def test_batch_norms_without_factor_or_shift_fold_as_well(method, arguments):
    model, data = network("dense", use_bias=False, **arguments)
    weights = mct.TensorConfig(4, method, granularity="per_channel")
    ready = mct.prepare_qat(model, data, mct.QuantizationConfig(weights=weights, first_last_bits=None))
    check_finalized(train(ready, data), data)


def test_a_factor_that_training_drives_below_zero_counts_by_its_magnitude():
    ready, _, data = prepared("conv2d")
    norm = ready.get_layer("norm")
    positive = run(ready, data)
    norm.gamma.assign(-ops.convert_to_numpy(norm.gamma))
    assert np.array_equal(run(ready, data), positive)
    check_finalized(ready, data)


def test_a_factor_of_zero_learns_and_folds():
    ready, _, data = prepared("conv2d")
    norm = ready.get_layer("norm")
    zero = ops.convert_to_numpy(norm.gamma) == 0
    assert zero.any()
    # Silent channels: finalized, they give their shift.
    check_finalized(ready, data)
    norm.beta.assign(np.full(len(zero), 0.5))
    train(ready, data)
    assert (ops.convert_to_numpy(norm.gamma)[zero] != 0).any()
    check_finalized(ready, data)


def test_the_statistics_move_in_training_and_not_in_evaluation():
    ready, _, data = prepared("conv2d")
    norm = ready.get_layer("norm")
    before = ops.convert_to_numpy(norm.moving_mean).copy()
    run(ready, data)
    assert np.array_equal(ops.convert_to_numpy(norm.moving_mean), before)
    train(ready, data, rate=0.0)
    assert not np.array_equal(ops.convert_to_numpy(norm.moving_mean), before)


@pytest.mark.parametrize("name", ["residual", "nested"])
def test_frozen_statistics_stay_while_factors_train(name):
    """Also of batch norms that are not folded, as those of a block that is called twice."""
    model, inputs = fresh(name)
    ready = mct.prepare_qat(model, inputs)
    mct.freeze_batch_norm_statistics(ready)
    norms = [layer for layer in ready.layers if isinstance(layer, LiveBatchNormalization)]
    assert norms

    def state(attributes):
        values = [float64(getattr(norm, attribute)) for norm, attribute in itertools.product(norms, attributes)]
        return np.concatenate([value.ravel() for value in values])

    statistics, factors = state(["moving_mean", "moving_variance"]), state(["gamma", "beta"])
    train(ready, inputs)
    assert np.array_equal(state(["moving_mean", "moving_variance"]), statistics)
    assert not np.array_equal(state(["gamma", "beta"]), factors)


def test_a_batch_norm_that_the_caller_froze_stays_frozen():
    model, data = network("conv2d")
    model.get_layer("norm").trainable = False
    ready = mct.prepare_qat(model, data)
    norm = ready.get_layer("norm")
    assert not norm.trainable
    before = [value.copy() for value in norm.get_weights()]
    train(ready, data)
    for value, expected in zip(norm.get_weights(), before, strict=True):
        assert np.array_equal(value, expected)
    check_finalized(ready, data)


def test_a_live_batch_norm_of_a_layer_in_float_folds():
    model, inputs = built("residual")
    rules = (mct.Rule(name="stem_conv", quantize=False),)
    ready = mct.prepare_qat(model, inputs, mct.QuantizationConfig(rules=rules))
    assert "stem_norm" in mct.plan_of(ready).live_batch_norms
    assert not isinstance(ready.get_layer("stem_conv"), KerasQuantizationWrapper)
    check_finalized(train(ready, inputs), inputs)


def test_live_batch_norms_survive_their_configuration():
    norm = LiveBatchNormalization(momentum=0.7, folds=False, freeze_statistics=True, name="norm")
    again = LiveBatchNormalization.from_config(norm.get_config())
    assert again.get_config() == norm.get_config()
    assert (again.folds, again.freeze_statistics, again.momentum) == (False, True, 0.7)


# Constraints and regularizers.


@keras.saving.register_keras_serializable("own_models")
class Signed(keras.regularizers.Regularizer):
    def __call__(self, weight):
        return ops.sum(weight)

    def get_config(self):
        return {}


def constrained(factors=(1.0, -1.0, 1.0, -1.0), **arguments):
    kernel = keras.initializers.RandomUniform(0.1, 1.0, seed=0)
    dense = layers.Dense(4, use_bias=False, kernel_initializer=kernel, name="dense", **arguments)
    norm = layers.BatchNormalization(name="norm")
    model = keras.Sequential([keras.Input((5,)), dense, norm, layers.ReLU(), layers.Dense(2, name="head")])
    norm.gamma.assign(np.array(factors))
    return model


def moved_by_training(model, data):
    model.compile(keras.optimizers.SGD(1e-9), "mse")
    before = run(model, data)
    model.fit(data, random(64, 2), verbose=0)
    return run(model, data) - before


@pytest.mark.parametrize("norm", ["live", "fold"])
def test_a_constraint_acts_on_the_weight_as_in_the_float_model(norm):
    data = random(64, 5)
    model = constrained(kernel_constraint="non_neg")
    prepared = mct.prepare_qat(model, data, mct.QuantizationConfig(batch_norm=norm))
    assert any("norm stays an operation of its own: the constraint NonNeg" in n for n in mct.plan_of(prepared).notes)
    kernel = next(weight for weight in prepared.weights if weight.path.endswith("dense/kernel"))
    before = kernel.numpy()
    # Without a step only the moving statistics change, as in float; 8 bits lose a few percent.
    moved, expected = moved_by_training(prepared, data), moved_by_training(model, data)
    np.testing.assert_allclose(kernel.numpy(), before, atol=1e-6)
    assert np.abs(moved - expected).max() < 0.1 * np.abs(run(model, data)).max()
    frozen = mct.finalize(prepared)
    np.testing.assert_allclose(run(frozen, data), run(prepared, data), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "factors", "folds"),
    [
        ({"kernel_regularizer": "l2"}, (1.0, -1.0, 1.0, -1.0), True),
        ({"kernel_constraint": "max_norm"}, (1.0, -1.0, 1.0, -1.0), True),
        ({"kernel_constraint": "non_neg"}, (1.0, 1.0, 1.0, 1.0), True),
        ({"kernel_constraint": "non_neg"}, (1.0, -1.0, 1.0, 1.0), False),
        ({"kernel_regularizer": Signed()}, (1.0, -1.0, 1.0, 1.0), False),
    ],
    ids=["l2", "max_norm", "positive", "negative", "own"],
)
def test_a_batch_norm_folds_after_training_where_no_sign_meets_a_rule(arguments, factors, folds):
    prepared = mct.prepare_qat(constrained(factors, **arguments), random(64, 5))
    assert mct.plan_of(prepared).batch_norms == ({"norm": "dense"} if folds else {})


def test_quantizing_without_training_folds_whatever_the_constraints():
    quantized = mct.quantize(constrained(kernel_constraint="non_neg"), random(64, 5))
    assert mct.plan_of(quantized).batch_norms == {"norm": "dense"}

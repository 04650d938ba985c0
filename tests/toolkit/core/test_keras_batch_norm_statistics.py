# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Moving statistics of Keras models, estimated anew: plain averages over batches, and nothing else is changed."""

import inspect
import random as python_random

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import built, fresh, random, run, worn

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras.batch_norm import LiveBatchNormalization
from model_compression_toolkit.core.keras.batch_norm_statistics import reestimate_batch_norm_statistics

pytestmark = pytest.mark.keras

BACKEND = keras.config.backend()
STATISTICS = ("moving_mean", "moving_variance")


def network(kind="conv", **arguments):
    """A layer, a batch norm with statistics of long ago, and an activation function."""
    shape, layer = {
        "dense": ((4,), layers.Dense(6, name="layer")),
        "time": ((3, 4), layers.Dense(6, name="layer")),
        "conv": ((5, 6, 4), layers.Conv2D(6, 2, use_bias=False, name="layer")),
        "channels_first": ((4, 5, 6), layers.Conv2D(6, 2, data_format="channels_first", name="layer")),
    }[kind]
    x = keras.Input(shape, name="x")
    norm = layers.BatchNormalization(axis=1 if kind == "channels_first" else -1, name="norm", **arguments)
    return worn(keras.Model(x, layers.ReLU(name="relu")(norm(layer(x))))), random(7, *shape)


def prepared(kind="conv", bits="w4a4", **arguments):
    model, data = network(kind, **arguments)
    return mct.prepare_qat(model, data, mct.QuantizationConfig.from_bits(bits))


def batches_for(model, count=3, size=7):
    """Batches of different spread and mean."""
    shape = model.inputs[0].shape[1:]
    return [random(size, *shape, seed=10 + i) * (1 + i) + i for i in range(count)]


def norms_of(model):
    return {layer.name: layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)}


def statistics(norm):
    return [ops.convert_to_numpy(getattr(norm, name)) for name in STATISTICS]


def state(model):
    """Everything that a model is made of, but the statistics of its batch norms."""
    skipped = {id(getattr(norm, name)) for norm in norms_of(model).values() for name in STATISTICS}
    return {v.path: ops.convert_to_numpy(ops.cast(v, "float32")) for v in model.variables if id(v) not in skipped}


def settings(model):
    return {
        layer.name: (layer.trainable, sorted(vars(layer)), layer.get_config(), [v.trainable for v in layer.variables])
        for layer in model._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def moments(x, axis=-1):
    """Mean and variance of the population, of each channel, in float64."""
    x = np.moveaxis(x.astype(np.float64), axis, -1).reshape(-1, x.shape[axis])
    return x.mean(axis=0), ((x - x.mean(axis=0)) ** 2).mean(axis=0)


def averages(arrays, axis=-1):
    return [np.mean(each, axis=0) for each in zip(*(moments(x, axis) for x in arrays), strict=True)]


def check(norm, expected):
    for received, array in zip(statistics(norm), expected, strict=True):
        # float32 sums of a few hundred numbers; the variance without bias would be a hundredth larger.
        np.testing.assert_allclose(received, array, rtol=1e-4, atol=1e-5)


def outputs_of(model, source, target, data):
    part = keras.Model(source, target)
    return ops.convert_to_numpy(part(data, training=False))


@pytest.mark.parametrize("kind", ["dense", "time", "conv", "channels_first"])
def test_they_are_the_plain_mean_over_the_batches(kind):
    if kind == "channels_first" and BACKEND == "tensorflow":
        pytest.skip("TensorFlow computes convolutions of channels first on accelerators only")
    ready = prepared(kind, momentum=0.3, epsilon=0.05)
    batches = batches_for(ready)
    before, configured = state(ready), settings(ready)
    mct.reestimate_batch_norm_statistics(ready, [batches[0], (batches[1],), [ops.convert_to_tensor(batches[2])]])
    layer, norm = ready.get_layer("layer"), ready.get_layer("norm")
    expected = averages([outputs_of(ready, ready.input, layer.output, x) for x in batches], norm.axis)
    check(norm, expected)
    assert norm.momentum == 0.3
    assert same(state(ready), before)
    assert settings(ready) == configured


def test_batches_may_be_of_different_sizes_and_count_alike():
    ready = prepared("dense")
    batches = [random(size, 4, seed=size) for size in (3, 9)]
    mct.reestimate_batch_norm_statistics(ready, iter(batches))
    check(ready.get_layer("norm"), averages([run_layer(ready, x) for x in batches]))


def run_layer(ready, data):
    return outputs_of(ready, ready.input, ready.get_layer("layer").output, data)


def test_one_batch_gives_its_own_statistics_whatever_there_was_before():
    ready = prepared("dense")
    norm = ready.get_layer("norm")
    norm.moving_mean.assign(np.full(6, 1e30, np.float32))
    norm.moving_variance.assign(np.full(6, np.inf, np.float32))
    data = random(9, 4, seed=3)
    mct.reestimate_batch_norm_statistics(ready, [data])
    check(norm, averages([run_layer(ready, data)]))


def test_twice_is_once():
    ready = prepared()
    batches = batches_for(ready)
    mct.reestimate_batch_norm_statistics(ready, batches)
    first = [value.copy() for value in statistics(ready.get_layer("norm"))]
    mct.reestimate_batch_norm_statistics(ready, batches)
    assert all(np.array_equal(a, b) for a, b in zip(statistics(ready.get_layer("norm")), first, strict=True))


def test_later_batch_norms_see_what_earlier_ones_make_of_the_batch_at_hand():
    """One pass: the second batch norm gets what it would get in training, not in evaluation."""
    model, _ = fresh("residual")
    ready = mct.prepare_qat(model, built("residual")[1])
    batches = [3.0 * random(8, 8, 8, 3, seed=i) + i for i in range(2)]
    mct.reestimate_batch_norm_statistics(ready, batches)
    first, second = ready.get_layer("stem_norm"), ready.get_layer("depthwise_norm")
    before_first = [outputs_of(ready, ready.input, ready.get_layer("stem_conv").output, x) for x in batches]
    check(first, averages(before_first))
    before_second = []
    for x in before_first:
        mean, variance = moments(x)
        gamma, beta = (ops.convert_to_numpy(each).astype(np.float64) for each in (first.gamma, first.beta))
        normalized = (x - mean) / np.sqrt(variance + first.epsilon) * gamma + beta
        data = normalized.astype(np.float32)
        before_second.append(outputs_of(ready, first.output, ready.get_layer("depthwise").output, data))
    for received, expected in zip(statistics(second), averages(before_second), strict=True):
        # The input of the second is on a grid: a value on a tie may have moved by one step.
        np.testing.assert_allclose(received, expected, rtol=2e-3, atol=2e-3)


def test_every_call_of_a_batch_norm_that_is_used_twice_counts():
    x = keras.Input((6,), name="x")
    norm, dense = layers.BatchNormalization(name="norm"), layers.Dense(6, name="dense")
    y = norm(dense(x))
    model = worn(keras.Model(x, layers.Dense(2, name="head")(norm(ops.tanh(y)))))
    ready = mct.prepare_qat(model, random(16, 6))
    data = random(16, 6, seed=5) * 2
    live = ready.get_layer("norm")
    assert isinstance(live, LiveBatchNormalization)
    assert not live.folds
    first = outputs_of(ready, ready.input, ready.get_layer("dense").output, data)
    mct.reestimate_batch_norm_statistics(ready, [data])
    mean, variance = moments(first)
    gamma, beta = (ops.convert_to_numpy(each).astype(np.float64) for each in (live.gamma, live.beta))
    second = np.tanh((first - mean) / np.sqrt(variance + live.epsilon) * gamma + beta)
    for received, expected in zip(statistics(live), averages([first, second]), strict=True):
        # Between the calls the tensor is quantized with 8 bits.
        np.testing.assert_allclose(received, expected, atol=2.0**-7)


def test_masked_samples_do_not_count():
    x = keras.Input((6, 4), name="x")
    y = layers.Dense(5, name="layer")(x)
    y = layers.BatchNormalization(name="norm")(y, mask=ops.any(ops.greater(x, 5.0), axis=-1))
    data = random(8, 6, 4, seed=2)
    data[:, :2, 0] = 9.0
    ready = mct.prepare_qat(worn(keras.Model(x, layers.Dense(2, name="head")(y))), data)
    mct.reestimate_batch_norm_statistics(ready, [data])
    seen = run_layer(ready, data)[:, :2]
    check(ready.get_layer("norm"), averages([seen]))


def test_random_layers_are_off_and_random_numbers_stay_as_they_are():
    x = keras.Input((4,), name="x")
    y = layers.Dropout(0.5, name="drop")(layers.Dense(6, activation="relu", name="first")(x))
    y = layers.BatchNormalization(name="norm", beta_initializer="glorot_uniform")(layers.Dense(6, name="layer")(y))
    ready = mct.prepare_qat(worn(keras.Model(x, layers.ReLU(name="relu")(y))), random(16, 4))
    before, numbers = state(ready), python_random.getstate()
    data = random(16, 4, seed=1)
    mct.reestimate_batch_norm_statistics(ready, [data])
    assert python_random.getstate() == numbers
    check(ready.get_layer("norm"), averages([run_layer(ready, data)]))
    assert same(state(ready), before)


@pytest.mark.parametrize("freeze", ["statistics", "layer"])
def test_frozen_batch_norms_get_new_statistics_and_stay_frozen(freeze):
    ready = prepared()
    norm = ready.get_layer("norm")
    if freeze == "statistics":
        mct.freeze_batch_norm_statistics(ready)
    else:
        norm.trainable = False
    batches = batches_for(ready)
    mct.reestimate_batch_norm_statistics(ready, batches)
    expected = averages([run_layer(ready, x) for x in batches])
    check(norm, expected)
    assert norm.freeze_statistics is (freeze == "statistics")
    assert norm.trainable is (freeze != "layer")
    found = [value.copy() for value in statistics(norm)]
    run(ready, batches[0], training=True)
    assert all(np.array_equal(a, b) for a, b in zip(statistics(norm), found, strict=True))


def test_statistics_that_are_not_frozen_move_on_in_training():
    ready = prepared()
    batches = batches_for(ready)
    mct.reestimate_batch_norm_statistics(ready, batches)
    found = [value.copy() for value in statistics(ready.get_layer("norm"))]
    run(ready, batches[2], training=True)
    mean, variance = moments(run_layer(ready, batches[2]))
    momentum = ready.get_layer("norm").momentum
    expected = [momentum * a + (1 - momentum) * b for a, b in zip(found, (mean, variance), strict=True)]
    check(ready.get_layer("norm"), expected)


def test_a_compiled_model_trains_on_with_its_optimizer():
    ready = prepared("dense")
    data = random(32, 4)
    targets = random(32, 6, seed=1)
    ready.compile(keras.optimizers.Adam(1e-2), "mse")
    ready.fit(data, targets, epochs=1, batch_size=16, verbose=0)
    before = state(ready)
    optimizer = [ops.convert_to_numpy(variable) for variable in ready.optimizer.variables]
    assert len(optimizer) > 2
    mct.reestimate_batch_norm_statistics(ready, [data])
    assert same(state(ready), before)
    for variable, value in zip(ready.optimizer.variables, optimizer, strict=True):
        assert np.array_equal(ops.convert_to_numpy(variable), value)
    expected = averages([run_layer(ready, data)])
    check(ready.get_layer("norm"), expected)
    # Evaluation uses them, also where it is compiled.
    np.testing.assert_allclose(ready.predict(data, verbose=0), ops.convert_to_numpy(ready(data)), rtol=1e-5, atol=1e-5)
    ready.fit(data, targets, epochs=1, batch_size=16, verbose=0)
    assert int(ready.optimizer.iterations) == 4


def test_finalized_models_use_them_and_their_integers_do_not_change():
    ready = prepared("dense", bits="w8a8")
    batches = batches_for(ready)
    integers = ready.get_layer("layer").get_integer_weights()["kernel"]
    former = run(mct.finalize(ready), batches[0])
    mct.reestimate_batch_norm_statistics(ready, batches)
    final = mct.finalize(ready)
    assert np.array_equal(final.get_layer("layer").get_integer_weights()["kernel"], integers)
    expected = run(ready, batches[0])
    assert np.linalg.norm(run(final, batches[0]) - expected) <= 1e-5 * np.linalg.norm(expected)
    assert np.linalg.norm(former - expected) > 0.1 * np.linalg.norm(expected)


def test_a_model_from_a_file_gets_them_too(tmp_path):
    ready = prepared()
    ready.save(tmp_path / "model.keras")
    loaded = mct.keras_load_quantized_model(tmp_path / "model.keras")
    batches = batches_for(ready)
    for model in (ready, loaded):
        mct.reestimate_batch_norm_statistics(model, batches)
    assert np.array_equal(run(loaded, batches[0]), run(ready, batches[0]))


def test_batches_follow_the_names_or_the_order_of_the_inputs():
    right, left = keras.Input((4,), name="right"), keras.Input((6,), name="left")
    y = layers.BatchNormalization(name="norm")(layers.Dense(5, name="layer")(left))
    total = layers.Add(name="add")([layers.Dense(5, name="other")(right), y])
    data = {"right": random(8, 4), "left": random(8, 6, seed=1)}
    for inputs, batch in (({"right": right, "left": left}, data), ([right, left], [data["right"], data["left"]])):
        ready = mct.prepare_qat(worn(keras.Model(inputs, total)), [batch])
        mct.reestimate_batch_norm_statistics(ready, [batch])
        check(ready.get_layer("norm"), averages([run_layer(ready, batch)]))


def test_a_sequential_model_gets_them():
    model, data = fresh("sequential")
    ready = mct.prepare_qat(model, data)
    mct.reestimate_batch_norm_statistics(ready, [2 * data, data])
    part = keras.Model(ready.input, ready.get_layer("conv").output)
    check(ready.get_layer("norm"), averages([ops.convert_to_numpy(part(x)) for x in (2 * data, data)]))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_under_mixed_precision_they_stay_float32(policy):
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        ready = prepared("dense")
    finally:
        keras.config.set_dtype_policy(former)
    batches = [random(64, 4, seed=i) * (1 + i) for i in range(2)]
    mct.reestimate_batch_norm_statistics(ready, batches)
    norm = ready.get_layer("norm")
    assert {norm.moving_mean.dtype, norm.moving_variance.dtype} == {"float32"}
    part = keras.Model(ready.input, ready.get_layer("layer").output)
    check(norm, averages([ops.convert_to_numpy(ops.cast(part(x), "float32")) for x in batches]))


@pytest.mark.parametrize("step", ["float", "quantized", "final"])
def test_models_without_a_live_batch_norm_stay_as_they_are(step):
    model, data = network("dense")
    ours = {
        "float": lambda: model,
        "quantized": lambda: mct.quantize(model, data),
        "final": lambda: mct.finalize(mct.prepare_qat(model, data)),
    }[step]()
    before = [value.copy() for value in ours.get_weights()]
    mct.reestimate_batch_norm_statistics(ours, [5 * data])
    assert all(np.array_equal(a, b) for a, b in zip(ours.get_weights(), before, strict=True))


# What is refused.


def check_untouched(call, error, text, model):
    before, configured = [value.copy() for value in model.get_weights()], settings(model)
    with pytest.raises(error, match=text):
        call()
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    assert settings(model) == configured


def test_no_batches_are_refused_and_change_nothing():
    ready = prepared()
    check_untouched(
        lambda: mct.reestimate_batch_norm_statistics(ready, iter([])), ValueError, "`batches` must hold at least", ready
    )


def test_a_batch_that_the_model_does_not_take_changes_nothing():
    """Also when it comes after good ones."""
    ready = prepared("dense")
    good = random(4, 4)
    check_untouched(
        lambda: mct.reestimate_batch_norm_statistics(ready, [good, (good, good)]), ValueError,
        r"`batches` must hold the inputs of the model: 1 tensors\. Received: 2", ready,
    )  # fmt: skip
    check_untouched(lambda: mct.reestimate_batch_norm_statistics(ready, [good, random(4, 3)]), Exception, None, ready)
    mct.reestimate_batch_norm_statistics(ready, [good])
    check(ready.get_layer("norm"), averages([run_layer(ready, good)]))


def test_an_iterable_that_fails_changes_nothing():
    ready = prepared("dense")

    def batches():
        yield random(4, 4)
        raise OSError("the disk is gone")

    check_untouched(lambda: mct.reestimate_batch_norm_statistics(ready, batches()), OSError, "the disk is gone", ready)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module or a keras\.Model"):
        mct.reestimate_batch_norm_statistics("model", [random(4, 4)])


def test_arguments_are_those_of_the_other_wing():
    pytest.importorskip("torch")
    from model_compression_toolkit.core.pytorch import batch_norm_statistics

    ours, other = (
        list(inspect.signature(function).parameters)
        for function in (reestimate_batch_norm_statistics, batch_norm_statistics.reestimate_batch_norm_statistics)
    )
    assert ours == other == list(inspect.signature(mct.reestimate_batch_norm_statistics).parameters)

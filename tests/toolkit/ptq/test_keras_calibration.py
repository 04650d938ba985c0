# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Ranges of Keras models against what NumPy says of the same values."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import built, random

import model_compression_toolkit as mct

pytestmark = pytest.mark.keras

SYMMETRIC, UNIFORM = mct.QuantizationMethod.SYMMETRIC, mct.QuantizationMethod.UNIFORM
POWER_OF_TWO = mct.QuantizationMethod.POWER_OF_TWO


def config(method=UNIFORM, num_bits=8, **arguments):
    activations = mct.TensorConfig(num_bits, method, **arguments)
    return mct.QuantizationConfig(activations=activations, first_last_bits=None)


def params(data, configuration, name="x.output"):
    """The grid of the input of a small model, or of another tensor of it."""
    x = keras.Input((4,), name="x")
    y = layers.ReLU(name="relu")(layers.Dense(4, kernel_initializer="identity", name="dense")(x))
    model = keras.Model(x, layers.Dense(2, name="head")(y))
    return mct.plan_of(mct.quantize(model, data, configuration))[name].params


DATA = random(300, 4, seed=3) * np.float32([1.0, 2.0, 0.5, 1.5]) + np.float32(0.3)
BATCHES = [DATA[:100], DATA[100:110], DATA[110:]]


def test_min_max_of_a_uniform_grid_spans_what_was_seen():
    found = params(BATCHES, config(range_search="min_max"))
    scale = (float(DATA.max()) - float(DATA.min())) / 255
    np.testing.assert_allclose(found.scale, [scale], rtol=1e-6)
    assert found.zero_point.item() == round(-float(DATA.min()) / scale)
    assert (found.quant_min, found.quant_max) == (0, 255)


@pytest.mark.parametrize("num_bits", [4, 8])
def test_min_max_of_a_symmetric_grid_reaches_the_farther_end(num_bits):
    found = params(BATCHES, config(SYMMETRIC, num_bits, range_search="min_max"))
    quant_max = 2 ** (num_bits - 1) - 1
    scale = max(float(DATA.max()) / quant_max, -float(DATA.min()) / (quant_max + 1))
    np.testing.assert_allclose(found.scale, [scale], rtol=1e-6)
    assert found.signed


def test_min_max_of_a_power_of_two_grid_is_the_next_power():
    found = params(BATCHES, config(POWER_OF_TWO, range_search="min_max"))
    needed = max(float(DATA.max()) / 127, -float(DATA.min()) / 128) * 128
    assert found.scale.item() * 128 == 2.0 ** np.ceil(np.log2(needed))


def test_tensors_without_negative_values_have_unsigned_grids():
    found = params(BATCHES, config(SYMMETRIC, range_search="min_max"), "relu.output")
    assert not found.signed
    np.testing.assert_allclose(found.scale, [float(DATA.max()) / 255], rtol=1e-6)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentiles_are_the_quantiles_of_all_batches(percentile):
    found = params([DATA], config(range_search="percentile", percentile=percentile))
    low, high = np.quantile(DATA.astype(np.float64), [1 - percentile / 100, percentile / 100])
    # A quantile lies between two values of the data; a bin of the histogram is 1/4096 of the range.
    width = (DATA.max() - DATA.min()) / 4096
    ordered = np.sort(DATA.ravel())
    gap = np.diff(ordered)[[int(np.searchsorted(ordered, end)) - 1 for end in (low, high)]].max()
    received = found.scale.item() * (np.array([0, 255]) - found.zero_point.item())
    assert np.abs(received - [low, high]).max() < width + gap + found.scale.item()


def test_mse_has_no_greater_error_than_any_clipping_tried_by_hand():
    num_bits = 4
    data = random(400, 4, seed=5) ** 3
    found = params([data], config(SYMMETRIC, num_bits, range_search="mse"))

    def error(scale):
        return np.square(np.clip(np.round(data / scale), -8, 7) * scale - data).mean()

    best = min(error(np.abs(data).max() * ratio / 8) for ratio in np.linspace(0.02, 1.0, 400))
    # The search sees a histogram, and steps of half a percent of the range.
    assert error(found.scale.item()) < 1.01 * best


def test_several_batches_give_the_same_extremes_as_one():
    one, many = (params(data, config(range_search="min_max")) for data in ([DATA], BATCHES))
    assert one == many


@pytest.mark.parametrize("name", ["u_net", "recurrent", "convolutions_1d"])
def test_every_activation_of_a_model_is_observed_where_it_stands(name):
    """Against a model of Keras's own that returns the same tensors."""
    model, inputs = built(name)
    plan = mct.plan_of(mct.quantize(model, [inputs], config(range_search="min_max")))
    observed = {layer.name: layer.output for layer in model.layers if not isinstance(layer.output, (list, tuple))}
    checked = [tensor for tensor in plan.quantized() if not tensor.is_weight and tensor.site.layer in observed]
    assert len(checked) > 2
    outputs = keras.Model(model.input, [observed[tensor.site.layer] for tensor in checked])(inputs, training=False)
    for tensor, output in zip(checked, outputs, strict=True):
        values = ops.convert_to_numpy(output)
        expected = (max(values.max(), 0.0) - min(values.min(), 0.0)) / 255
        # The zero of the grid is exact, so that an end may move by a part of a step.
        np.testing.assert_allclose(tensor.params.scale, [expected], rtol=1e-4, err_msg=tensor.name)


def test_activations_behind_a_batch_norm_are_observed_behind_it():
    model, images = built("sequential")
    plan = mct.plan_of(mct.quantize(model, images, config(range_search="min_max")))
    after = keras.Model(model.inputs[0], model.get_layer("relu").output)(images, training=False)
    np.testing.assert_allclose(plan["relu.output"].params.scale, [ops.convert_to_numpy(after).max() / 255], rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-44])
def test_constant_data_gives_finite_grids(value):
    found = params(np.full((4, 4), value, np.float32), config())
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("verb", [mct.quantize, mct.prepare_qat])
def test_nan_and_infinity_name_the_tensor(verb, bad):
    model, images = built("residual")
    broken = images.copy()
    broken[3, 1, 2, 2] = bad
    for data in ([images, broken], [broken]):
        with pytest.raises(ValueError, match=r"^Calibration met NaN or infinite values in image\.output\. [^\n]*$"):
            verb(model, data)


def test_nan_in_the_middle_names_the_tensor_and_the_rule_that_leaves_it_in_float():
    # Keras numbers functions over the whole process.
    keras.utils.clear_session(free_memory=False)
    x = keras.Input((4,), name="x")
    y = ops.log(layers.Dense(4, kernel_initializer="identity", name="dense")(x))
    model = keras.Model(x, layers.Dense(2, name="head")(ops.relu(y)))
    data = np.abs(random(16, 4))
    data[2, 1] = 0.0
    with pytest.raises(ValueError, match=r"in log\.output\..*Rule\(name='log', quantize=False\)"):
        mct.quantize(model, data)
    # The advice holds.
    config = mct.QuantizationConfig(rules=(mct.Rule(name="log", quantize=False),))
    assert mct.plan_of(mct.quantize(model, data, config))["log.output"].config is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(bad):
    x = keras.Input((4,), name="x")
    head = layers.Dense(2, name="head")
    model = keras.Model(x, head(layers.Dense(3, name="dense")(x)))
    kernel = ops.convert_to_numpy(head.kernel).copy()
    kernel[0, 0] = bad
    head.kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"head\.kernel must be finite"):
        mct.quantize(model, random(8, 4))


def test_a_range_beyond_the_first_batch_grows():
    batches = [random(4, 4), np.full((4, 4), 3e38, np.float32), np.full((4, 4), -3e38, np.float32)]
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2, name="dense")(layers.ReLU(6.0, name="relu")(x)))
    found = mct.plan_of(mct.quantize(model, batches))["x.output"].params
    # MSE may clip; the grid still spans most of the range.
    assert found.max_range[0] > 1e38
    assert found.min_range[0] < -1e38

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Subclassed Keras models through the whole flow, as graphs and layer by layer."""

import copy
import pickle
import tempfile

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers
from keras_models import images, random, run
from keras_own_models import ALL, TRACEABLE, WithToken, own

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras.layerwise_model import LayerwiseModel

pytestmark = pytest.mark.keras

CASES = [(name, mode) for name in ALL for mode in ("auto", "modules") if mode == "auto" or name in TRACEABLE]


def weights_of(model):
    return [weight.numpy().tobytes() for weight in model.weights]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_models_with_code_of_their_own_quantize_train_save_and_freeze(name, mode, tmp_path):
    model, inputs = own(name)
    outputs, before = run(model, inputs), weights_of(model)
    config = mct.QuantizationConfig(capture=mode)
    quantized = mct.quantize(model, inputs if not isinstance(inputs, dict) else [inputs], config)
    is_layerwise = mode == "modules" or name not in TRACEABLE
    assert isinstance(quantized, LayerwiseModel) is is_layerwise
    # 8 bits: a few steps of the largest value, random weights.
    assert np.abs(run(quantized, inputs) - outputs).max() < 0.05 * np.abs(outputs).max()

    prepared = mct.prepare_qat(model, [inputs], config)
    assert mct.plan_of(prepared).capture == mct.plan_of(quantized).capture == ("modules" if is_layerwise else "graph")
    target = keras.tree.map_structure(lambda item: 0.5 * keras.ops.convert_to_numpy(item), model(inputs))
    prepared.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = prepared.fit(inputs, target, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert weights_of(model) == before
    assert np.array_equal(run(model, inputs), outputs)

    prepared.save(tmp_path / "training.keras")
    loaded = mct.keras_load_quantized_model(tmp_path / "training.keras")
    assert np.array_equal(run(loaded, inputs), run(prepared, inputs))
    frozen = mct.finalize(loaded)
    trained = run(prepared, inputs)
    assert np.abs(run(frozen, inputs) - trained).max() <= 1e-2 * np.abs(trained).max()
    assert all(tensor.params is not None for tensor in mct.plan_of(frozen).quantized())
    mct.export(frozen, tmp_path / "frozen.keras", quiet=True)
    again = mct.keras_load_quantized_model(tmp_path / "frozen.keras")
    assert np.array_equal(run(again, inputs), run(frozen, inputs))
    assert mct.plan_of(again) == mct.plan_of(frozen)


def test_weights_and_inputs_of_each_layer_are_quantized_layer_by_layer():
    model, inputs = own("with a token")
    plan = mct.plan_of(mct.quantize(model, inputs))
    layers_inside = ["stem", "blocks/0/conv", "blocks/1/conv", "tail/1", "heads/classes"]
    assert [tensor.name for tensor in plan.quantized()] == [
        name for layer in layers_inside for name in (f"{layer}.input", f"{layer}.kernel")
    ]
    assert plan.capture == "modules"
    assert "weights of its own: ['token']" in plan.notes[0]


def test_weights_of_layers_are_on_the_grids_of_the_plan():
    model, inputs = own("with a token")
    quantized = mct.quantize(model, inputs, mct.QuantizationConfig.from_bits("w4a8"))
    for tensor in mct.plan_of(quantized).quantized():
        if tensor.is_weight:
            wrapper = quantized.replaced[tensor.site.layer].layer
            assert wrapper.weights_quantizers["kernel"].params == tensor.params
            values = keras.ops.convert_to_numpy(wrapper.get_quantized_weights()["kernel"])
            # The kernels of these layers have their output channels last, as the scales.
            codes = values / np.asarray(tensor.params.scale)
            np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
            assert tensor.params.quant_min <= np.round(codes).min() <= np.round(codes).max() <= tensor.params.quant_max


def test_training_goes_on_from_a_file_as_if_it_had_not_stopped_layer_by_layer(tmp_path):
    model, inputs = own("with a token")
    target = random(16, 3, seed=5)
    prepared = mct.prepare_qat(model, inputs)
    prepared.compile(keras.optimizers.Adam(1e-2), "mse")

    def trained(network):
        return network.fit(inputs, target, epochs=2, batch_size=8, shuffle=False, verbose=0).history["loss"]

    trained(prepared)
    prepared.save(tmp_path / "training.keras")
    expected = trained(prepared)
    assert trained(mct.keras_load_quantized_model(tmp_path / "training.keras")) == expected


@keras.saving.register_keras_serializable("own_models")
class DependsOnValues(keras.Model):
    def __init__(self):
        super().__init__()
        self.positive, self.negative = layers.Dense(3), layers.Dense(3)

    def build(self, input_shape):
        """Which layer a call reaches depends on its values."""

    def call(self, inputs):
        return self.positive(inputs) if float(keras.ops.sum(inputs)) > 0 else self.negative(inputs)


def test_values_may_decide_what_is_computed():
    keras.utils.set_random_seed(0)
    model, data = DependsOnValues(), np.abs(random(16, 4))
    for inputs in (data, -data):
        model(inputs)
    quantized = mct.quantize(model, [data, -data])
    assert [tensor.name for tensor in mct.plan_of(quantized).quantized()] == ["positive.input", "positive.kernel"]
    reasons = {tensor.name: tensor.reason for tensor in mct.plan_of(quantized).skipped()}
    assert reasons["negative.kernel"] == "the layer was not reached by the data"
    for inputs in (data, -data):
        outputs = run(model, inputs)
        assert np.abs(run(quantized, inputs) - outputs).max() < 0.05 * np.abs(outputs).max()


def test_attributes_of_replaced_layers_are_those_of_the_layers():
    model, inputs = own("with a token")
    quantized = mct.quantize(model, inputs)
    assert quantized.model.stem.filters == 4
    assert quantized.model.stem.kernel.shape == (3, 3, 3, 4)
    with pytest.raises(AttributeError, match="nothing"):
        _ = quantized.model.stem.nothing


def test_statistics_freeze_layer_by_layer():
    model, inputs = own("with a token")
    prepared = mct.prepare_qat(model, inputs)
    norm = prepared.model.blocks[0].norm
    mct.freeze_batch_norm_statistics(prepared)
    before = norm.moving_mean.numpy().copy()
    prepared(inputs, training=True)
    assert np.array_equal(norm.moving_mean.numpy(), before)


def test_a_second_preparation_and_a_second_finalize_are_refused_layer_by_layer():
    model, inputs = own("with a token")
    prepared = mct.prepare_qat(model, inputs)
    with pytest.raises(ValueError, match="quantized already"):
        mct.prepare_qat(prepared, inputs)
    with pytest.raises(ValueError, match="still in quantization-aware training"):
        mct.export(prepared, "model.keras")
    frozen = mct.finalize(prepared)
    with pytest.raises(ValueError, match="finalized already"):
        mct.finalize(frozen)


def saved_and_loaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        return keras.saving.load_model(f"{folder}/model.keras")


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved_and_loaded],
    ids=["deepcopy", "pickle", "load_model"],
)
def test_copies_keep_the_plan_and_share_nothing_layer_by_layer(copied):
    model, inputs = own("with a token")
    prepared = mct.prepare_qat(model, inputs)
    again = copied(prepared)
    assert mct.plan_of(again) == mct.plan_of(prepared)
    assert not {id(weight) for weight in again.weights} & {id(weight) for weight in prepared.weights}
    assert np.array_equal(run(mct.finalize(again), inputs), run(mct.finalize(prepared), inputs))


def test_formats_that_need_a_graph_are_refused_with_the_reason(tmp_path):
    model, inputs = own("with a token")
    quantized = mct.quantize(model, inputs)
    with pytest.raises(ValueError, match=r"`path` must end with \.keras .*Received: model\.onnx.*weights of its own"):
        mct.export(quantized, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_traced_model_exports_to_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    model, inputs = own("net")
    report = mct.export(mct.quantize(model, inputs), tmp_path / "model.onnx", verify=inputs, quiet=True)
    assert report.parity.passed


class NoConfig(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.token = layer, self.add_weight(shape=(3,), initializer="ones")

    def call(self, inputs):
        return self.layer(inputs) + self.token


class TwoArguments(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, left, right):
        return self.dense(left) + self.dense(right)


def test_models_that_cannot_be_copied_or_fed_are_refused_with_the_way_out():
    model = NoConfig(layers.Dense(3))
    model(random(8, 4))
    with pytest.raises(
        ValueError, match=r"The model cannot be copied: NoConfig\.from_config .*Give the class a `get_config`"
    ):
        mct.quantize(model, random(8, 4))
    model = TwoArguments()
    model(random(8, 4), random(8, 4))
    with pytest.raises(ValueError, match=r"must take one argument.*Received: also \['right'\]"):
        mct.quantize(model, [(random(8, 4), random(8, 4))])


def test_the_user_learns_why_a_model_is_seen_layer_by_layer(caplog):
    keras.utils.set_random_seed(0)
    model = WithToken()
    model(images())
    mct.quantize(model, images())
    assert "the model is no graph of calls (it has weights of its own: ['token'])" in caplog.text

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training of Keras models: prepare, train, finalize."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from backend_marks import few_on_jax
from keras import layers, ops
from keras_models import ZOO, built, fingerprint, flat, fresh, random, run, worn

import model_compression_toolkit as mct
from mct_quantizers import QuantizationTarget
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from mct_quantizers.keras.quantizers import BaseKerasInferableQuantizer
from model_compression_toolkit import qat
from model_compression_toolkit.core.keras.surgery import names_of, quantizer_in
from model_compression_toolkit.trainable_infrastructure.keras.method_quantizer import KerasMethodQuantizer
from model_compression_toolkit.trainable_infrastructure.keras.quantize_wrapper import KerasTrainableQuantizationWrapper
from model_compression_toolkit.trainable_infrastructure.methods.method import method_class, registered_names

pytestmark = pytest.mark.keras

SYMMETRIC, UNIFORM = mct.QuantizationMethod.SYMMETRIC, mct.QuantizationMethod.UNIFORM
POWER_OF_TWO = mct.QuantizationMethod.POWER_OF_TWO
LSQ, STE = mct.QATConfig("LSQ", "LSQ"), mct.QATConfig("STE", "STE")
# Every model where nothing is compiled; the compilers of the others take seconds for each.
TRAINED = ZOO if keras.config.backend() == "torch" else ("residual", "nested", "dictionaries", "functions", "words")
IS_SLOW_TO_TRACE = keras.config.backend() == "tensorflow"
METHOD_CONFIGS = {"LSQ": LSQ, "STE": STE, "mixed": mct.QATConfig("LSQ", "STE")}


def prepare(name="residual", bits="w4a4", method="LSQ", **arguments):
    model, inputs = built(name)
    config = mct.QuantizationConfig.from_bits(bits, **arguments)
    return mct.prepare_qat(model, [inputs], config, METHOD_CONFIGS[method]), model, inputs


def quantizers_of(model):
    """Every quantizer of a quantized model, by its name in the plan."""
    names = names_of(model)
    return {
        tensor.name: quantizer_in(model.get_layer(names[tensor.name]), tensor)
        for tensor in mct.plan_of(model).quantized()
    }


def targets_like(outputs):
    return keras.tree.map_structure(lambda tensor: np.full(tuple(tensor.shape), 0.5, np.float32), outputs)


def train(model, inputs, steps=5, optimizer=None):
    """Losses of whole-batch steps with `fit`."""
    targets = targets_like(model(inputs))
    losses = keras.tree.map_structure(lambda _: "mse", targets)
    # Tracing takes longer than these few steps; test_keras_contracts.py trains compiled.
    model.compile(optimizer or keras.optimizers.Adam(1e-2), losses, run_eagerly=IS_SLOW_TO_TRACE)
    history = model.fit(inputs, targets, epochs=steps, batch_size=1024, shuffle=False, verbose=0)
    return np.array(history.history["loss"])


def state(model):
    return [value.copy() for value in model.get_weights()]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def codes(model):
    """Integers of each quantized weight."""
    names, found = names_of(model), {}
    for tensor in mct.plan_of(model).quantized():
        if tensor.is_weight:
            wrapper = model.get_layer(names[tensor.name])
            weight = wrapper.layer
            for part in tensor.site.tensor.split("."):
                weight = getattr(weight, part)
            quantizer = quantizer_in(wrapper, tensor)
            found[tensor.name] = ops.convert_to_numpy(quantizer.quantize(ops.convert_to_tensor(weight)))
    return found


@pytest.mark.parametrize("name", TRAINED)
def test_prepared_models_train_and_finalize(name):
    prepared, _, inputs = prepare(name)
    losses = train(prepared, inputs, steps=8)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    trained, integers = state(prepared), codes(prepared)
    final = mct.finalize(prepared)
    assert not any(isinstance(quantizer, KerasMethodQuantizer) for quantizer in quantizers_of(final).values())
    # The trained model is left as it was.
    assert same(state(prepared), trained)
    assert all(isinstance(quantizer, KerasMethodQuantizer) for quantizer in quantizers_of(prepared).values())
    for tensor_name, expected in integers.items():
        assert np.array_equal(codes(final)[tensor_name], expected), tensor_name
    expected, received = run(prepared, inputs), run(final, inputs)
    if not mct.plan_of(prepared).live_batch_norms:
        assert np.array_equal(received, expected)
    # Folding multiplies in another order; a value on a tie may then move by a step of some activation.
    assert np.linalg.norm(received - expected) <= 0.02 * np.linalg.norm(expected)


def test_every_variable_of_a_prepared_model_learns():
    prepared, _, inputs = prepare("residual")
    before = {variable.path: variable.numpy().copy() for variable in prepared.trainable_variables}
    train(prepared, inputs, steps=6)
    for variable in prepared.trainable_variables:
        assert not np.array_equal(variable.numpy(), before[variable.path]), variable.path


@pytest.mark.parametrize("method", few_on_jax(METHOD_CONFIGS, ["LSQ"]))
@pytest.mark.parametrize("granularity", mct.Granularity)
@pytest.mark.parametrize("grid", ["POWER_OF_TWO", "SYMMETRIC", "UNIFORM"])
def test_finalize_computes_what_was_trained_bit_for_bit(method, grid, granularity):
    grid = mct.QuantizationMethod[grid]
    prepared, _, inputs = prepare(
        "shared",
        method=method,
        weights=mct.TensorConfig(method=grid, granularity=granularity),
        activations=mct.TensorConfig(method=grid),
    )
    train(prepared, inputs, steps=3)
    final = mct.finalize(prepared)
    assert np.array_equal(run(final, inputs), run(prepared, inputs))
    plan = mct.plan_of(final)
    for name, quantizer in quantizers_of(final).items():
        assert isinstance(quantizer, BaseKerasInferableQuantizer)
        assert quantizer.quantization_method == [grid]
        assert quantizer.quantization_target is plan[name].site.target
        assert quantizer.params == plan[name].params


@pytest.mark.parametrize("name", ["residual", "shared", "words", "dictionaries"])
def test_before_training_a_prepared_model_computes_what_the_quantized_one_does(name):
    prepared, model, inputs = prepare(name, method="STE", batch_norm="fold")
    quantized = mct.quantize(model, [inputs], mct.QuantizationConfig.from_bits("w4a4"))
    assert np.array_equal(run(prepared, inputs), run(quantized, inputs))
    assert np.array_equal(run(mct.finalize(prepared), inputs), run(quantized, inputs))
    assert codes(prepared).keys() == codes(quantized).keys()


@pytest.mark.parametrize("name", ["residual", "shared"])
def test_zero_learning_rate_changes_nothing(name):
    prepared, _, inputs = prepare(name, batch_norm="fold")
    expected, before = run(prepared, inputs), state(prepared)
    train(prepared, inputs, steps=3, optimizer=keras.optimizers.SGD(0.0))
    assert same(state(prepared), before)
    assert np.array_equal(run(prepared, inputs), expected)


def test_lsq_is_the_default_of_prepare_and_ste_that_of_the_interface():
    model, inputs = built("shared")
    prepared = mct.prepare_qat(model, inputs)
    assert {quantizer.method.name for quantizer in quantizers_of(prepared).values()} == {"LSQ"}
    prepared, *_ = qat.keras_quantization_aware_training_init_experimental(model, lambda: iter([[inputs]]))
    assert {quantizer.method.name for quantizer in quantizers_of(prepared).values()} == {"STE"}


def test_weights_and_activations_can_have_different_methods():
    prepared, _, _ = prepare(method="mixed")
    plan = mct.plan_of(prepared)
    for name, quantizer in quantizers_of(prepared).items():
        assert quantizer.method.name == ("LSQ" if plan[name].is_weight else "STE")


# Every built-in method.


def built_in(target):
    """Each method of the toolkit's own with one of its grids; on JAX, which compiles each for seconds, a third."""
    found = []
    for name in registered_names()[:: 3 if keras.config.backend() == "jax" else 1]:
        method = method_class(name)
        if method.__module__.startswith("model_compression_toolkit.") and target in method.targets:
            grids = [grid for grid in (SYMMETRIC, UNIFORM, POWER_OF_TWO) if grid in method.supports]
            found.append(pytest.param(name, grids[0], id=name))
    return found


def small():
    x = keras.Input((6,), name="x")
    y = layers.ReLU(name="relu")(layers.Dense(8, name="first")(x))
    return worn(keras.Model(x, layers.Dense(3, name="second")(y))), random(32, 6)


def check_method(qat_config, config):
    model, data = small()
    prepared = mct.prepare_qat(model, data, config, qat_config)
    losses = train(prepared, data, steps=3)
    assert np.isfinite(losses).all()
    trained = run(prepared, data)
    final = mct.finalize(prepared)
    assert np.array_equal(run(final, data), trained)
    assert not any(isinstance(quantizer, KerasMethodQuantizer) for quantizer in quantizers_of(final).values())
    return prepared, final


@pytest.mark.parametrize("name, grid", built_in(QuantizationTarget.Weights))
def test_every_method_trains_weights_and_finalizes_to_what_was_trained(name, grid):
    weights = mct.TensorConfig(4, grid, granularity="per_channel")
    config = mct.QuantizationConfig(weights=weights, first_last_bits=None)
    prepared, _ = check_method(mct.QATConfig(name, "STE"), config)
    assert quantizers_of(prepared)["first.kernel"].method.name == name


@pytest.mark.parametrize("name, grid", built_in(QuantizationTarget.Activation))
def test_every_method_trains_activations_and_finalizes_to_what_was_trained(name, grid):
    config = mct.QuantizationConfig(activations=mct.TensorConfig(4, grid), first_last_bits=None)
    prepared, _ = check_method(mct.QATConfig("STE", name), config)
    assert quantizers_of(prepared)["relu.output"].method.name == name


def test_settings_of_the_methods_reach_their_quantizers():
    model, data = small()
    config = mct.QATConfig("GRADUAL", "STE", weight_quantizer_params_override={"end": 7})
    prepared = mct.prepare_qat(model, data, None, config)
    assert quantizers_of(prepared)["first.kernel"].method.end == 7
    with pytest.raises(TypeError):
        mct.prepare_qat(model, data, None, mct.QATConfig("LSQ", weight_quantizer_params_override={"no": 1}))


@pytest.mark.parametrize("qat_config", ["LSQ", {"weight_training_method": "LSQ"}, 1])
def test_training_methods_of_another_type_are_refused(qat_config):
    model, inputs = built("shared")
    with pytest.raises(TypeError, match="`qat_config` must be a QATConfig"):
        mct.prepare_qat(model, inputs, None, qat_config)


# What the caller set stays.


def test_layers_that_the_caller_froze_stay_frozen():
    model, inputs = fresh("shared")
    model.get_layer("middle").trainable = False
    prepared = mct.prepare_qat(model, inputs)
    wrapper = prepared.get_layer("middle")
    assert not wrapper.trainable_weights
    before = [value.copy() for value in wrapper.layer.get_weights()]
    first = prepared.get_layer("first").layer.kernel.numpy().copy()
    train(prepared, inputs)
    assert same(wrapper.layer.get_weights(), before)
    assert not np.array_equal(prepared.get_layer("first").layer.kernel.numpy(), first)


def test_layers_of_a_frozen_inner_model_stay_frozen():
    model, inputs = fresh("nested")
    model.get_layer("block").trainable = False
    prepared = mct.prepare_qat(model, inputs)
    assert not prepared.get_layer("block_conv").trainable_weights


def test_regularizers_and_constraints_of_the_layers_still_count():
    x = keras.Input((4,), name="x")
    dense = layers.Dense(
        3, kernel_regularizer=keras.regularizers.L2(0.1), kernel_constraint=keras.constraints.MaxNorm(0.5), name="dense"
    )
    model = worn(keras.Model(x, dense(x)))
    data = random(16, 4)
    prepared = mct.prepare_qat(model, data)
    np.testing.assert_allclose(
        sum(float(ops.convert_to_numpy(loss)) for loss in prepared.losses),
        0.1 * np.square(dense.kernel.numpy()).sum(),
        rtol=1e-5,
    )
    train(prepared, data, steps=2)
    assert np.linalg.norm(prepared.get_layer("dense").layer.kernel.numpy(), axis=0).max() <= 0.5 + 1e-6


def test_the_trained_model_of_the_caller_is_untouched():
    model, inputs = fresh("residual")
    before = fingerprint(model)
    prepared = mct.prepare_qat(model, inputs)
    train(prepared, inputs)
    mct.finalize(prepared)
    assert fingerprint(model) == before


def test_finalizing_leaves_the_trained_model_trainable():
    prepared, _, inputs = prepare("residual")
    train(prepared, inputs, steps=2)
    before = fingerprint(prepared)
    first = mct.finalize(prepared)
    assert fingerprint(prepared) == before
    losses = train(prepared, inputs, steps=4)
    assert losses[-1] < losses[0]
    second = mct.finalize(prepared)
    assert not np.array_equal(run(first, inputs), run(second, inputs))


def test_no_state_of_training_is_left_behind():
    prepared, model, inputs = prepare("shared")
    train(prepared, inputs, steps=2)
    final = mct.finalize(prepared)
    assert len(final.weights) == len(model.weights)
    assert {tuple(weight.shape) for weight in final.weights} == {tuple(weight.shape) for weight in model.weights}
    assert final.trainable_weights == []
    assert not any(isinstance(layer, KerasTrainableQuantizationWrapper) for layer in final.layers)
    assert any(isinstance(layer, KerasQuantizationWrapper) for layer in final.layers)


def test_the_plan_of_a_finalized_model_holds_what_was_learned():
    prepared, _, inputs = prepare("residual")
    train(prepared, inputs, steps=4)
    before, final = mct.plan_of(prepared), mct.finalize(prepared)
    after = mct.plan_of(final)
    assert [tensor.site for tensor in after.tensors] == [tensor.site for tensor in before.tensors]
    assert after.live_batch_norms == ()
    assert before.live_batch_norms == ("stem_norm", "depthwise_norm")
    for name, quantizer in quantizers_of(final).items():
        assert after[name].params == quantizer.params
        assert after[name].params != before[name].params


# Twice is refused.


def test_finalizing_what_is_not_in_training_is_refused():
    prepared, model, inputs = prepare("shared")
    final = mct.finalize(prepared)
    for call in (mct.finalize, qat.keras_quantization_aware_training_finalize_experimental):
        with pytest.raises(ValueError, match="finalized already"):
            call(final)
        with pytest.raises(ValueError, match="finalized already"):
            call(mct.quantize(model, inputs))
        with pytest.raises(ValueError, match="`model` must be a model that"):
            call(model)
    assert np.array_equal(run(final, inputs), run(mct.finalize(prepared), inputs))


def test_a_finalized_model_cannot_be_prepared_again():
    prepared, _, inputs = prepare("shared")
    with pytest.raises(ValueError, match="quantized already"):
        mct.prepare_qat(mct.finalize(prepared), inputs)


# The names of the interface.


def test_the_interface_prepares_and_finalizes():
    model, inputs = built("residual")
    prepared, information, objects = qat.keras_quantization_aware_training_init_experimental(
        model,
        lambda: iter([[inputs]]),
        core_config=mct.QuantizationConfig.from_bits("w4a8", first_last_bits=8),
        qat_config=mct.QATConfig(weight_training_method=qat.TrainingMethod.LSQ),
    )
    assert objects == {}
    assert information.mixed_precision_cfg == [8, 4, 8]
    assert information.quantization_plan == mct.plan_of(prepared)
    methods = {(t.site.target.value, t.training_method) for t in information.quantization_plan.quantized()}
    assert methods == {("Weights", "LSQ"), ("Activation", "STE")}
    train(prepared, inputs, steps=2)
    result = qat.keras_quantization_aware_training_finalize_experimental(prepared)
    assert np.array_equal(run(result, inputs), run(mct.finalize(prepared), inputs))


INIT = qat.keras_quantization_aware_training_init_experimental


@pytest.mark.parametrize(
    ("entrance", "qat_config", "expected"),
    [
        (mct.prepare_qat, mct.QATConfig(weight_training_method="LSQ"), {"LSQ"}),
        (INIT, mct.QATConfig(), {"STE"}),
    ],
)
def test_each_entrance_has_one_default_and_the_plan_names_the_methods(entrance, qat_config, expected, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)])
    prepared = entrance(model, lambda: [random(16, 4)], qat_config=qat_config)
    prepared = prepared[0] if isinstance(prepared, tuple) else prepared
    prepared.save(tmp_path / "prepared.keras")
    loaded = mct.keras_load_quantized_model(tmp_path / "prepared.keras")
    for candidate in (prepared, loaded, mct.finalize(prepared)):
        assert {tensor.training_method for tensor in mct.plan_of(candidate).quantized()} == expected
    assert {quantizer.method.name for quantizer in quantizers_of(loaded).values()} == expected


@pytest.mark.parametrize("name", ["target_resource_utilization", "target_platform_capabilities"])
def test_the_interface_refuses_what_is_not_supported(name):
    model, inputs = built("shared")
    with pytest.raises(NotImplementedError, match=f"`{name}` is not supported yet"):
        qat.keras_quantization_aware_training_init_experimental(model, lambda: iter([[inputs]]), **{name: {}})


def test_outputs_of_fit_and_of_a_call_are_of_one_model():
    prepared, _, inputs = prepare("dictionaries")
    np.testing.assert_allclose(flat(prepared.predict(inputs, verbose=0)), run(prepared, inputs), rtol=1e-5, atol=1e-5)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization of Keras models: what it takes, what it refuses, what it leaves alone."""

import functools
import itertools

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import ZOO, built, fingerprint, flat, fresh, images, random, run, worn

import model_compression_toolkit as mct
from mct_quantizers.keras.quantizers import BaseKerasInferableQuantizer
from model_compression_toolkit import ptq
from model_compression_toolkit.core.keras.surgery import names_of, quantizer_in
from model_compression_toolkit.ptq.keras.quantization_facade import inferable_quantizer

pytestmark = pytest.mark.keras


def network():
    return fresh("residual")[0]


@functools.cache
def quantized(name):
    model, inputs = built(name)
    return mct.quantize(model, [inputs])


@pytest.fixture(params=["quantize", "prepare_qat"])
def verb(request):
    return getattr(mct, request.param)


# How close it is.


@pytest.mark.parametrize("name", ZOO)
def test_at_8_bits_a_model_computes_nearly_the_same(name):
    """Each tensor loses at most 40 dB or so; the random weights of these models add up to a few of them."""
    model, inputs = built(name)
    expected = run(model, inputs)
    error = np.linalg.norm(run(quantized(name), inputs) - expected)
    assert 0 < error < 0.025 * np.linalg.norm(expected)


def test_the_error_of_dense_layers_is_below_what_half_a_step_of_each_tensor_makes():
    x = keras.Input((12,), name="x")
    first, second = layers.Dense(16, name="first"), layers.Dense(5, name="second")
    model = worn(keras.Model(x, second(layers.ReLU(name="relu")(first(x)))))
    data = random(64, 12)
    no_clipping = {"range_search": "min_max"}
    config = mct.QuantizationConfig(
        weights=mct.TensorConfig(granularity="per_channel", **no_clipping),
        activations=mct.TensorConfig(method=mct.QuantizationMethod.UNIFORM, **no_clipping),
    )
    ours = mct.quantize(model, data, config)
    plan = mct.plan_of(ours)

    def half_step(name):
        return plan[name].params.scale / 2 * (1 + 1e-5)

    def through(layer, values, error):
        """Bound of |W x - V y| where |x - y| <= error and |W - V| <= half a step."""
        kernel = np.abs(ops.convert_to_numpy(layer.kernel).astype(np.float64))
        kernel_error = half_step(f"{layer.name}.kernel")
        return error @ kernel + (np.abs(values) + error).sum(axis=1, keepdims=True) * kernel_error

    error = np.full(data.shape, half_step("x.output"))
    hidden = ops.convert_to_numpy(ops.relu(first(data)))
    # Clipping to the range of the float model's values moves a value no farther from them.
    error = through(first, data, error) + half_step("relu.output")
    bound = through(second, hidden, error) + 1e-4
    found = np.abs(ops.convert_to_numpy(ours(data)) - ops.convert_to_numpy(model(data)))
    assert (found <= bound).all()
    # A bound that is worth something.
    assert bound.max() < 0.3 * np.abs(ops.convert_to_numpy(model(data))).max()


def test_more_bits_are_closer():
    model, inputs = built("u_net")
    expected = run(model, inputs)
    errors = []
    for bits in (2, 4, 8, 16):
        config = mct.QuantizationConfig.from_bits(f"w{bits}a{bits}", first_last_bits=None)
        errors.append(np.linalg.norm(run(mct.quantize(model, inputs, config), inputs) - expected))
    assert all(few > 3 * many for few, many in itertools.pairwise(errors))
    assert errors[-1] < 1e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("granularity", mct.Granularity)
@pytest.mark.parametrize("method", ["POWER_OF_TWO", "SYMMETRIC", "UNIFORM"])
def test_the_three_methods_work_on_every_granularity(method, granularity):
    model, inputs = built("residual")
    grid = mct.QuantizationMethod[method]
    config = mct.QuantizationConfig(
        weights=mct.TensorConfig(method=grid, granularity=granularity), activations=mct.TensorConfig(method=grid)
    )
    ours = mct.quantize(model, inputs, config)
    for tensor in mct.plan_of(ours).quantized():
        quantizer = quantizer_in(ours.get_layer(names_of(ours)[tensor.name]), tensor)
        assert isinstance(quantizer, BaseKerasInferableQuantizer)
        assert quantizer.quantization_method == [grid]
    expected = run(model, inputs)
    # Powers of two waste up to a bit of each tensor.
    assert np.linalg.norm(run(ours, inputs) - expected) < 0.08 * np.linalg.norm(expected)


# What it leaves alone.


@pytest.mark.parametrize("name", ["residual", "nested", "shared", "dictionaries", "sequential", "dropout"])
def test_the_callers_model_is_untouched(name, verb):
    model, inputs = fresh(name)
    expected = run(model, inputs)
    before = fingerprint(model)
    ours = verb(model, [inputs])
    run(ours, inputs)
    assert fingerprint(model) == before
    assert np.array_equal(run(model, inputs), expected)
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in ours.weights}
    assert not {id(layer) for layer in model._flatten_layers()} & {id(layer) for layer in ours._flatten_layers()}


def test_a_compiled_model_stays_compiled_and_trainable(verb):
    model, inputs = fresh("shared")
    model.compile("sgd", "mse")
    model.get_layer("middle").trainable = False
    before = fingerprint(model)
    ours = verb(model, [inputs])
    assert fingerprint(model) == before
    assert not ours.compiled
    assert not ours.get_layer("middle").trainable


FAILING = {
    "shape": lambda: random(4, 2, 8, 8),
    "nan": lambda: np.full((4, 8, 8, 3), np.nan, np.float32),
    "later": lambda: [images(), np.full((4, 8, 8, 3), np.inf, np.float32)],
    "empty": lambda: [],
    "no samples": lambda: np.zeros((0, 8, 8, 3), np.float32),
    "type": lambda: ["images"],
    "scalar": lambda: np.float32(1.0) * np.ones(()),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("data", FAILING)
def test_the_callers_model_is_untouched_after_a_failed_call(verb, data):
    model = network()
    before = fingerprint(model)
    with pytest.raises((ValueError, TypeError), match=r"`data`|Calibration"):
        verb(model, FAILING[data]())
    assert fingerprint(model) == before


def test_two_calls_give_the_same_model_bit_for_bit(verb):
    model, inputs = built("residual")
    first, second = verb(model, inputs), verb(model, inputs)
    assert mct.plan_of(first) == mct.plan_of(second)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


def test_the_random_state_is_untouched(verb):
    model, inputs = built("dropout")
    keras.utils.set_random_seed(7)
    expected = ops.convert_to_numpy(keras.random.normal((3,)))
    keras.utils.set_random_seed(7)
    verb(model, inputs)
    assert np.array_equal(ops.convert_to_numpy(keras.random.normal((3,))), expected)


# Data.


def test_every_form_of_data_gives_the_same_model(verb):
    model = network()
    array = images(64)
    expected = mct.plan_of(verb(model, array))
    forms = [
        array.astype(np.float64), ops.convert_to_tensor(array), [array], [[array]], [(array,)], [{"image": array}],
        lambda: iter([[array]]), (batch for batch in [array]),
    ]  # fmt: skip
    for data in forms:
        assert mct.plan_of(verb(model, data)) == expected


def test_a_data_set_of_the_backend_is_data():
    model, array = network(), images(64)
    expected = mct.plan_of(mct.quantize(model, array))
    if keras.config.backend() == "torch":
        from torch.utils.data import DataLoader, TensorDataset

        data = DataLoader(TensorDataset(ops.convert_to_tensor(array)), batch_size=64)
    else:
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices(array).batch(64)
    if keras.config.backend() == "jax":
        # Tensors of another framework are no arrays of this one.
        data = data.as_numpy_iterator()
    assert mct.plan_of(mct.quantize(model, data)) == expected


def test_dictionaries_and_lists_of_inputs_have_the_order_of_the_model():
    model, inputs = built("dictionaries")
    expected = mct.plan_of(quantized("dictionaries"))
    backwards = dict(reversed(inputs.items()))
    for data in ([backwards], lambda: iter([inputs])):
        assert mct.plan_of(mct.quantize(model, data)) == expected
    model, inputs = built("lists")
    assert mct.plan_of(mct.quantize(model, [tuple(inputs)])) == mct.plan_of(quantized("lists"))


def test_labels_in_the_data_are_refused_by_name(verb):
    batch = (images(8), np.zeros(8, np.int64))
    with pytest.raises(
        ValueError, match=r"`data` must yield the inputs.*no labels.*1 inputs.*\(8, 8, 8, 3\).*\(8,\) int64"
    ):
        verb(network(), [batch])


def test_data_of_another_shape_is_refused_with_it(verb):
    with pytest.raises(ValueError, match=r"`data` must yield the inputs.*\(4, 2, 8, 8\) float32"):
        verb(network(), random(4, 2, 8, 8))


def test_data_with_too_few_inputs_is_refused(verb):
    model, inputs = built("dictionaries")
    with pytest.raises(ValueError, match=r"The model has 2 inputs\. Received: a batch of \(32, 4\) float32"):
        verb(model, [{"right": inputs["right"]}])


# Models.


class TheirModel:
    """Stands for a model of Keras 2."""


TheirModel.__module__ = "tf_keras.src.engine.training"


def not_built():
    return keras.Sequential([layers.Dense(2)])


@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat])
def test_models_of_keras_2_are_refused_with_the_way_out(call):
    from model_compression_toolkit.ptq.keras.quantization_facade import quantize
    from model_compression_toolkit.qat.keras.quantization_facade import prepare_qat

    inside = {mct.quantize: quantize, mct.prepare_qat: prepare_qat}[call]
    for each in (call, inside):
        with pytest.raises(TypeError, match=r"keras\.Model of Keras 3\. Received: TheirModel \(Keras 2: build it"):
            each(TheirModel(), images())
        with pytest.raises(TypeError, match="Received: str"):
            each("model.keras", images())


def test_models_that_are_not_built_are_refused(verb):
    with pytest.raises(ValueError, match=r"`model` must be built: call it on data once"):
        verb(not_built(), random(4, 4))


def test_a_sequential_model_that_was_built_by_a_call_is_quantized(verb):
    model = not_built()
    data = random(16, 4)
    model(data)
    assert mct.plan_of(verb(model, data)).quantized()


def test_a_quantized_model_is_refused(verb):
    model, inputs = built("shared")
    for made in (quantized("shared"), mct.prepare_qat(model, inputs)):
        with pytest.raises(ValueError, match="`model` is quantized already"):
            verb(made, inputs)
    x = keras.Input((4,))
    around = keras.Model(x, layers.ReLU()(quantized("shared")(x)))
    with pytest.raises(ValueError, match="`model` is quantized already"):
        verb(around, inputs)


def test_a_lambda_layer_is_kept_and_computes_the_same(verb):
    x = keras.Input((4,), name="x")
    y = layers.Lambda(lambda tensor: tensor * 2.0 + 1.0, output_shape=(6,), name="code")(layers.Dense(6)(x))
    model = keras.Model(x, layers.Dense(2)(y))
    data = random(16, 4)
    ours = verb(model, data)
    expected = run(model, data)
    assert np.linalg.norm(run(ours, data) - expected) < 0.03 * np.linalg.norm(expected)


class NoConfig(layers.Layer):
    """Its argument is a function, of which Keras makes no configuration."""

    def __init__(self, function, **arguments):
        super().__init__(**arguments)
        self.function = function

    def call(self, x):
        return self.function(x)


class HalfAConfig(layers.Layer):
    def __init__(self, factor=1.0, **arguments):
        super().__init__(**arguments)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return {"name": self.name, "trainable": self.trainable}


class WithConfig(HalfAConfig):
    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def custom(layer):
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, name="head")(layer(layers.Dense(6, name="first")(x))))


@pytest.mark.filterwarnings("ignore:.*must override `get_config:UserWarning")
def test_layers_that_cannot_be_copied_are_named(verb):
    with pytest.raises(ValueError, match=r"(?s)The layer 'own' cannot be copied.*NoConfig\.from_config.*`get_config`"):
        verb(custom(NoConfig(lambda x: 3.0 * x, name="own")), random(8, 4))


def test_layers_whose_copies_compute_something_else_are_refused(verb):
    with pytest.raises(ValueError, match=r"cannot be copied.*computes something else.*`get_config` leaves out"):
        verb(custom(HalfAConfig(3.0, name="own")), random(8, 4))


def test_layers_of_the_users_own_with_a_configuration_work(verb):
    model, data = custom(WithConfig(3.0, name="own")), random(16, 4)
    ours = verb(model, data)
    assert mct.plan_of(ours)["own.output"].config is not None
    expected = run(model, data)
    assert np.linalg.norm(run(ours, data) - expected) < 0.03 * np.linalg.norm(expected)


def test_masks_of_an_embedding_reach_the_layers_that_use_them(verb):
    x = keras.Input((6,), dtype="int32", name="x")
    y = layers.Embedding(10, 4, mask_zero=True, name="words")(x)
    y = layers.GlobalAveragePooling1D(name="mean")(layers.LSTM(5, return_sequences=True, name="lstm")(y))
    model = worn(keras.Model(x, layers.Dense(2, name="head")(y)))
    data = np.random.default_rng(0).integers(0, 10, (32, 6)).astype(np.int32)
    data[:, 3:] = 0
    expected = run(model, data)
    assert np.linalg.norm(run(verb(model, data), data) - expected) < 0.03 * np.linalg.norm(expected)
    unmasked = data.copy()
    unmasked[:, 3:] = 1
    assert np.linalg.norm(run(model, unmasked) - expected) > 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_bfloat16"])
def test_models_of_other_dtypes_keep_theirs(verb, dtype):
    former = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(dtype)
    try:
        x = keras.Input((4,), name="x")
        y = layers.ReLU(name="relu")(layers.Dense(8, name="first")(x))
        model = keras.Model(x, layers.Dense(2, name="second")(y))
    finally:
        keras.mixed_precision.set_dtype_policy(former)
    data = random(32, 4)
    ours = verb(model, data)
    assert [tensor.dtype for tensor in ours.outputs] == [tensor.dtype for tensor in model.outputs]
    assert ours(data).dtype == model(data).dtype
    assert ours.get_layer("first").layer.kernel.dtype == model.get_layer("first").kernel.dtype
    expected = run(model, data)
    assert np.linalg.norm(run(ours, data) - expected) < 0.04 * np.linalg.norm(expected)


@pytest.mark.parametrize("config", [{"weights": 4}, "w8a8", 8])
def test_a_configuration_of_another_type_is_refused(verb, config):
    with pytest.raises(TypeError, match="`config` must be a QuantizationConfig"):
        verb(network(), images(), config)


# What comes out.


def test_the_plan_holds_the_grids_that_run():
    for name in ("residual", "nested", "recurrent"):
        ours = quantized(name)
        plan, names = mct.plan_of(ours), names_of(ours)
        assert mct.QuantizationPlan.from_dict(plan.to_dict()) == plan
        for tensor in plan.quantized():
            assert quantizer_in(ours.get_layer(names[tensor.name]), tensor).params == tensor.params


def test_a_float_model_has_no_plan():
    with pytest.raises(ValueError, match="`model` must be a model that `quantize` or `prepare_qat` returned"):
        mct.plan_of(network())


def test_a_quantized_model_is_not_trainable():
    ours = quantized("residual")
    assert not ours.trainable
    assert ours.trainable_weights == []


def test_a_tensor_without_parameters_has_no_quantizer():
    tensor = mct.plan_of(quantized("residual"))["add.output"]
    with pytest.raises(ValueError, match=r"add\.output has no parameters"):
        inferable_quantizer(tensor)


@pytest.mark.parametrize("name", ["residual", "nested", "words", "recurrent", "dictionaries", "functions"])
def test_a_quantized_model_survives_its_file_bit_for_bit(name, tmp_path):
    ours = quantized(name)
    _, inputs = built(name)
    path = tmp_path / "model.keras"
    ours.save(path)
    loaded = mct.keras_load_quantized_model(path)
    assert np.array_equal(run(loaded, inputs), run(ours, inputs))
    assert mct.plan_of(loaded) == mct.plan_of(ours)
    assert names_of(loaded) == names_of(ours)
    keras.tree.assert_same_structure(loaded(inputs), ours(inputs))


@pytest.mark.parametrize("name", ["residual", "dictionaries"])
def test_predict_computes_what_a_call_does(name):
    _, inputs = built(name)
    np.testing.assert_allclose(
        flat(quantized(name).predict(inputs, verbose=0)), run(quantized(name), inputs), rtol=1e-5, atol=1e-5
    )


def test_nan_in_later_inputs_is_not_hidden_and_infinity_saturates():
    ours = quantized("residual")
    data = images()
    data[0, 0, 0, 0] = np.nan
    output = ops.convert_to_numpy(ours(data))
    assert np.isnan(output[0]).all()
    assert np.isfinite(output[1:]).all()
    data[0, 0, 0, 0] = np.inf
    assert np.isfinite(ops.convert_to_numpy(ours(data))).all()


def test_a_model_that_takes_any_size_and_any_batch_does_so_quantized():
    x = keras.Input((None, None, 3), name="x")
    y = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3, activation="relu", name="conv")(x))
    model = worn(keras.Model(x, layers.Dense(2, name="head")(y)))
    batches = [random(3, 12, 9, 3, seed=2), random(1, 3, 3, 3, seed=3)]
    ours = mct.quantize(model, batches)
    for data in batches:
        assert ops.convert_to_numpy(ours(data)).shape == (len(data), 2)
        expected = run(model, data)
        assert np.abs(run(ours, data) - expected).max() < 0.1


# The name and arguments of the interface.


def test_the_facade_of_the_interface_returns_model_and_information():
    model, inputs = built("residual")
    ours, information = ptq.keras_post_training_quantization(model, lambda: iter([[inputs]]))
    assert np.array_equal(run(ours, inputs), run(quantized("residual"), inputs))
    assert information.quantization_plan == mct.plan_of(ours)
    assert information.mixed_precision_cfg == [8, 8, 8]
    low = mct.QuantizationConfig.from_bits("w4a8", first_last_bits=8)
    _, information = mct.keras_post_training_quantization(model, lambda: iter([[inputs]]), core_config=low)
    assert information.mixed_precision_cfg == [8, 4, 8]


@pytest.mark.parametrize("name", ["target_resource_utilization", "target_platform_capabilities"])
def test_the_facade_refuses_what_is_not_supported(name):
    with pytest.raises(NotImplementedError, match=f"`{name}` is not supported yet"):
        ptq.keras_post_training_quantization(network(), lambda: iter([[images()]]), **{name: "x"})

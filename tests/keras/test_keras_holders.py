# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import json
import os
import pickle
import random as python_random
import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

from mct_quantizers import (
    BaseInferableQuantizer,
    KerasActivationQuantizationHolder,
    KerasFLNActivationQuantizationHolder,
    KerasPreservingActivationQuantizationHolder,
)
from mct_quantizers._version import __version__
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.keras.load_model import keras_load_quantized_model
from mct_quantizers.keras.quantizers import (
    ActivationLutPOTInferableQuantizer,
    ActivationPOTInferableQuantizer,
    ActivationSymmetricInferableQuantizer,
    ActivationUniformInferableQuantizer,
    BaseKerasInferableQuantizer,
)

pytestmark = pytest.mark.keras
BACKEND = keras.config.backend()
layers, to_numpy, to_tensor = keras.layers, keras.ops.convert_to_numpy, keras.ops.convert_to_tensor
HOLDERS = [
    KerasActivationQuantizationHolder,
    KerasFLNActivationQuantizationHolder,
    KerasPreservingActivationQuantizationHolder,
]
BYPASSABLE = HOLDERS[1:]
every_holder = pytest.mark.parametrize("holder_class", HOLDERS, ids=lambda cls: cls.__name__)
every_bypassable = pytest.mark.parametrize("holder_class", BYPASSABLE, ids=lambda cls: cls.__name__)
QUANTIZERS = {
    "symmetric": lambda: ActivationSymmetricInferableQuantizer(4, [1.3], signed=True),
    "pot": lambda: ActivationPOTInferableQuantizer(8, [2.0], signed=False),
    "uniform": lambda: ActivationUniformInferableQuantizer(4, [-1.0], [2.5]),
    "table": lambda: ActivationLutPOTInferableQuantizer(2, [-100, 3, 90], [2.0], signed=True),
}
every_quantizer = pytest.mark.parametrize("make", QUANTIZERS.values(), ids=QUANTIZERS)
X = (np.random.default_rng(0).normal(0, 2, (4, 5))).astype(np.float32)


@pytest.fixture(autouse=True)
def seeded():
    # Keras starts its initializers from here; its own function imports TensorFlow on every backend.
    python_random.seed(0)


def quantized(x: np.ndarray, quantizer) -> np.ndarray:
    formula = arithmetic.lut_quantize if isinstance(quantizer.params, LookupTable) else arithmetic.fake_quantize
    return formula(x, quantizer.params, numpy_ops)


def dtype_of(x) -> str:
    return keras.backend.standardize_dtype(x.dtype)


# Quantizers of a user.


@keras.saving.register_keras_serializable("test_keras_holders")
class LearnedStep(BaseInferableQuantizer):
    """Trainable: learns `step` on the holder, rounds straight through."""

    def __init__(self, step: float = 0.25) -> None:
        self.initial_step, self.calls = step, 0

    def initialize_quantization(self, tensor_shape, name, layer):
        self.tensor_shape, self.name, self.layer_type, self.calls = tensor_shape, name, type(layer), self.calls + 1
        start = keras.initializers.Constant(self.initial_step)
        self.step = layer.add_weight(name=f"{name}_step", shape=(1,), initializer=start, trainable=True)
        return {"step": self.step}

    def __call__(self, inputs):
        step = keras.ops.convert_to_tensor(self.step)
        self.dtype = dtype_of(step)
        ratio = keras.ops.cast(inputs, "float32") / step
        rounded = ratio + keras.ops.stop_gradient(keras.ops.round(ratio) - ratio)
        return keras.ops.cast(rounded * step, dtype_of(inputs))

    def get_config(self):
        return {"step": self.initial_step}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def convert2inferable(self):
        return ActivationSymmetricInferableQuantizer(8, float(to_numpy(self.step)[0]) * 2**7, signed=True)


class Flagged(BaseInferableQuantizer):
    """Notes the flag it was called with."""

    def __init__(self) -> None:
        self.flags = []

    def __call__(self, inputs, training):
        self.flags.append(training)
        return inputs * 2 if training else inputs


class Tripling(BaseKerasInferableQuantizer):
    """Inferable; found in a file by its name."""

    def __call__(self, inputs):
        return inputs * 3

    def get_config(self):
        return {}


# Calls.


@every_holder
@every_quantizer
def test_holder_quantizes_its_input(holder_class, make):
    quantizer = make()
    held = holder_class(activation_holder_quantizer=quantizer)
    outputs = to_numpy(held(X))
    np.testing.assert_array_equal(outputs, quantized(X, quantizer))
    assert (outputs != X).any()
    assert held.activation_holder_quantizer is quantizer
    assert held.variables == []


@every_holder
def test_compiled_holder_computes_alike(holder_class, compiled):
    held = holder_class(QUANTIZERS["uniform"]())
    function = compiled(held, is_whole=False)
    np.testing.assert_array_equal(to_numpy(function(to_tensor(X))), quantized(X, held.activation_holder_quantizer))


@every_holder
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_input_is_never_cast(holder_class, dtype, policy, as_numpy):
    quantizer = QUANTIZERS["symmetric"]()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        held = holder_class(quantizer)
        x = keras.ops.cast(to_tensor(X), dtype)
        outputs = held(x)
    finally:
        keras.config.set_dtype_policy(before)
    assert dtype_of(outputs) == dtype
    np.testing.assert_array_equal(as_numpy(outputs), as_numpy(quantizer(x)))


@every_holder
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_symbolic_output_has_the_dtype_of_the_input(holder_class, dtype):
    for held in (holder_class(QUANTIZERS["symmetric"]()), holder_class(LearnedStep())):
        outputs = held(keras.KerasTensor((None, 5), dtype))
        assert (outputs.dtype, outputs.shape) == (dtype, (None, 5))
        assert held.compute_output_shape((None, 5)) == (None, 5)


@every_holder
def test_integer_input_is_refused(holder_class):
    with pytest.raises(TypeError, match=r"floating-point.*int32"):
        holder_class(QUANTIZERS["symmetric"]())(np.ones((2, 3), np.int32))


@every_holder
def test_no_gradient_flows_through_an_inferable_quantizer(holder_class, gradients):
    held = holder_class(QUANTIZERS["uniform"]())
    assert not gradients(held, X)[0].any()


@every_holder
def test_quantizer_is_initialized_once_with_the_promised_name(holder_class):
    quantizer = LearnedStep(0.25)
    held = holder_class(quantizer)
    held(X)
    held(X)
    assert (quantizer.calls, quantizer.tensor_shape) == (1, (4, 5))
    assert quantizer.name == "activation_holder_quantizer_out"
    assert quantizer.layer_type is holder_class
    assert [variable.name for variable in held.trainable_variables] == ["activation_holder_quantizer_out_step"]


@every_holder
def test_gradient_flows_through_a_trainable_quantizer(holder_class, gradients):
    held = holder_class(LearnedStep(0.25))
    held.build((None, 5))

    def outputs(step, x):
        return held.stateless_call([step], [], x, training=True)[0]

    to_step, to_x = gradients(outputs, np.float32([0.25]), X)
    # (1 · s) / s with s = 1/4: exact.
    assert (to_x == 1).all()
    residue = np.round(X / 0.25) - X / 0.25
    # Two float32 sums of 20 terms up to 32 that cancel to residues.
    assert abs(to_step.item() - residue.sum()) <= 20 * 32 * 2.0**-24


@every_holder
def test_training_flag_is_passed_to_a_quantizer_that_asks_for_it(holder_class):
    quantizer = Flagged()
    held = holder_class(quantizer)
    for given, passed in ((None, False), (False, False), (True, True)):
        np.testing.assert_array_equal(to_numpy(held(X, training=given)), X * (2 if passed else 1))
        assert quantizer.flags.pop() is passed


class LayerQuantizer(keras.layers.Layer, BaseInferableQuantizer):
    """A quantizer that is a layer, with a variable of its own."""

    def __init__(self):
        super().__init__()
        self.gain = self.add_weight(name="gain", shape=(1,), initializer=keras.initializers.Constant(3.0))

    def call(self, inputs, training=None):
        return inputs * keras.ops.convert_to_tensor(self.gain) if training else inputs


@every_holder
def test_quantizer_may_be_a_layer_with_variables_of_its_own(holder_class):
    quantizer = LayerQuantizer()
    held = holder_class(quantizer)
    np.testing.assert_array_equal(to_numpy(held(X)), X)
    np.testing.assert_array_equal(to_numpy(held(X, training=True)), X * 3)
    assert any(variable is quantizer.gain for variable in held.trainable_variables)
    fit(model_of(held, layers.Dense(3)), epochs=1, jit_compile=BACKEND != "torch")
    assert float(to_numpy(quantizer.gain)[0]) != 3.0


@every_holder
def test_whether_a_quantizer_takes_the_flag_is_decided_once(holder_class, monkeypatch):
    from mct_quantizers.keras import activation_quantization_holder

    held, asked = holder_class(Flagged()), []
    monkeypatch.setattr(activation_quantization_holder, "takes_training", asked.append)
    held(X, training=True)
    held(X)
    assert asked == []


@every_holder
@pytest.mark.parametrize("training", [2, "yes", 0.0])
def test_training_flag_that_is_no_bool_is_refused(holder_class, training):
    held = holder_class(QUANTIZERS["pot"]())
    with pytest.raises(TypeError, match=f"`training` must be True or False. Received: training={training!r}"):
        held.call(to_tensor(X), training=training)


@every_holder
def test_mask_passes(holder_class):
    inputs = keras.Input((3,), dtype="int32")
    hidden = layers.Embedding(6, 4, mask_zero=True, embeddings_initializer="normal")(inputs)
    held = holder_class(QUANTIZERS["uniform"]())(hidden)
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(held))
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    rows = quantized(to_numpy(model.layers[1].embeddings), QUANTIZERS["uniform"]())
    np.testing.assert_allclose(to_numpy(model(tokens)), np.stack([rows[[1, 2]].mean(0), rows[3]]), rtol=0, atol=1e-6)


def test_nothing_leaks_out_of_the_construction_of_a_model():
    model = model_of(KerasActivationQuantizationHolder(QUANTIZERS["uniform"]()))
    expected = quantized(X, QUANTIZERS["uniform"]())
    np.testing.assert_array_equal(to_numpy(model(X)), expected)
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected)
    np.testing.assert_array_equal(to_numpy(model(X)), expected)


# Training.


def model_of(*parts) -> keras.Model:
    return keras.Sequential([keras.Input((5,)), *parts])


def fit(model: keras.Model, epochs: int = 4, **how) -> list[float]:
    generator = np.random.default_rng(3)
    x = generator.normal(0, 1, (64, 5)).astype(np.float32)
    y = x @ generator.normal(0, 1, (5, 3)).astype(np.float32)
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse", **how)
    return model.fit(x, y, epochs=epochs, batch_size=16, verbose=0, shuffle=False).history["loss"]


# torch's compiler takes ten seconds; the tests of the wrapper have it among the slow ones.
HOWS = [{"jit_compile": False}, {"run_eagerly": True}] + ([{"jit_compile": True}] if BACKEND != "torch" else [])


@every_holder
@pytest.mark.parametrize("how", HOWS, ids=str)
def test_learned_step_trains(holder_class, how):
    held = holder_class(LearnedStep(0.4))
    model = model_of(held, layers.Dense(3))
    assert len(model.trainable_variables) == 3
    losses = fit(model, **how)
    assert losses[-1] < losses[0] / 2
    assert abs(float(to_numpy(held.activation_holder_quantizer.step)[0]) - 0.4) > 1e-4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("place", ["alone", "model"])
def test_learned_step_is_float32_under_mixed_precision(policy, place):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        held = KerasActivationQuantizationHolder(LearnedStep(0.3))
        outputs = (held if place == "alone" else model_of(held))(keras.ops.cast(to_tensor(X), "bfloat16"))
    finally:
        keras.config.set_dtype_policy(before)
    assert held.activation_holder_quantizer.dtype == "float32"
    assert dtype_of(held.variables[0]) == "float32"
    assert place == "model" or dtype_of(outputs) == "bfloat16"


# Replacing and freezing.


@every_holder
def test_quantizer_may_be_replaced(holder_class):
    held = holder_class(QUANTIZERS["symmetric"]())
    held(X)
    held.set_quantizer(QUANTIZERS["table"]())
    np.testing.assert_array_equal(to_numpy(held(X)), quantized(X, QUANTIZERS["table"]()))


@every_holder
@pytest.mark.parametrize(
    "quantizer", [None, "8 bits", keras.ops.relu, LearnedStep()], ids=["none", "text", "function", "trainable"]
)
def test_quantizer_that_cannot_take_over_leaves_the_former_in_place(holder_class, quantizer):
    former = QUANTIZERS["symmetric"]()
    held = holder_class(former)
    held(X)
    with pytest.raises((TypeError, ValueError)):
        held.set_quantizer(quantizer)
    assert held.activation_holder_quantizer is former
    np.testing.assert_array_equal(to_numpy(held(X)), quantized(X, former))
    assert held.variables == []


@every_holder
def test_conversion_puts_the_frozen_quantizer_in_place_and_returns_a_clean_holder(holder_class, tmp_path):
    held = holder_class(LearnedStep(0.25), name="out")
    before = to_numpy(held(X))
    clean = held.convert_to_inferable_quantizers()
    assert type(clean) is holder_class
    assert clean.name == "out"
    for each in (held, clean):
        assert isinstance(each.activation_holder_quantizer, ActivationSymmetricInferableQuantizer)
        np.testing.assert_array_equal(to_numpy(each(X)), before)
        assert each.convert_to_inferable_quantizers() is None
    assert clean.variables == []
    model = model_of(clean)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(keras.saving.load_model(tmp_path / "model.keras")(X)), before)


@every_bypassable
def test_conversion_keeps_the_bypass(holder_class):
    held = holder_class(LearnedStep(), quantization_bypass=True)
    held(X)
    assert held.convert_to_inferable_quantizers().quantization_bypass is True


@every_quantizer
def test_conversion_leaves_inferable_quantizers_as_they_are(make):
    quantizer = make()
    held = KerasActivationQuantizationHolder(quantizer)
    assert held.convert_to_inferable_quantizers() is None
    assert held.activation_holder_quantizer is quantizer


# The bypass.


@every_bypassable
def test_a_bypassed_holder_returns_its_input(holder_class, compiled):
    x = np.float32([-3.0, 0.3, 0.9])
    quantizer = ActivationSymmetricInferableQuantizer(2, [1.0], True)
    bypassed = holder_class(quantizer, quantization_bypass=True)
    given = to_tensor(x)
    assert bypassed.call(given) is given
    np.testing.assert_array_equal(to_numpy(bypassed(given)), x)
    np.testing.assert_array_equal(to_numpy(compiled(bypassed, is_whole=False)(given)), x)
    # Two bits and a threshold of one: steps of a half, from -1 to 0.5.
    assert to_numpy(holder_class(quantizer)(x)).tolist() == [-1.0, 0.5, 0.5]
    bypassed.quantization_bypass = False
    assert to_numpy(bypassed(x)).tolist() == [-1.0, 0.5, 0.5]


@every_bypassable
def test_gradient_passes_a_bypass(holder_class, gradients):
    held = holder_class(QUANTIZERS["pot"](), True)
    assert (gradients(held, X)[0] == 1).all()


@every_bypassable
def test_bypass_may_take_integers(holder_class):
    held = holder_class(QUANTIZERS["pot"](), quantization_bypass=True)
    assert to_numpy(held(np.int32([1, 2]))).tolist() == [1, 2]


def test_the_plain_holder_has_no_bypass():
    with pytest.raises((TypeError, ValueError), match="quantization_bypass"):
        KerasActivationQuantizationHolder(QUANTIZERS["pot"](), quantization_bypass=True)
    assert not issubclass(KerasPreservingActivationQuantizationHolder, KerasFLNActivationQuantizationHolder)
    assert all(issubclass(cls, KerasActivationQuantizationHolder) for cls in BYPASSABLE)


# Files.


@every_holder
@every_quantizer
def test_config_round_trip_makes_the_same_holder(holder_class, make):
    held = holder_class(make(), name="out")
    config = json.loads(json.dumps(held.get_config()))
    assert config["activation_holder_quantizer"]["config"] == make().get_config()
    assert (config["name"], config["mctq_version"]) == ("out", __version__)
    again = holder_class.from_config(config)
    assert again.get_config() == held.get_config()
    np.testing.assert_array_equal(to_numpy(again(X)), to_numpy(held(X)))
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(held)))
    assert saved["registered_name"] == f"mct_quantizers>{holder_class.__name__}"
    restored = keras.saving.deserialize_keras_object(saved, safe_mode=True)
    np.testing.assert_array_equal(to_numpy(restored(X)), to_numpy(held(X)))


def test_version_of_the_file_is_kept():
    config = {**KerasActivationQuantizationHolder(QUANTIZERS["pot"]()).get_config(), "mctq_version": "1.5.0"}
    assert KerasActivationQuantizationHolder.from_config(config).mctq_version == "1.5.0"
    del config["mctq_version"]
    assert KerasActivationQuantizationHolder.from_config(config).mctq_version == __version__


LOADS = """
    import pathlib, sys
    import keras, numpy
    import mct_quantizers.keras

    x = numpy.load(sys.argv[1] + "/x.npy")
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
        model = keras.saving.load_model(path, safe_mode=True)
        numpy.save(path.with_suffix(".npy"), keras.ops.convert_to_numpy(model(x)))
"""


def test_models_load_bit_equal_in_a_new_process(tmp_path):
    models = {name: model_of(KerasActivationQuantizationHolder(make())) for name, make in QUANTIZERS.items()}
    for bypass in (False, True):
        for cls in BYPASSABLE:
            held = cls(QUANTIZERS["table"](), quantization_bypass=bypass)
            models[f"{cls.__name__}_{bypass}"] = model_of(layers.Dense(4), held, layers.ReLU())
    frozen = KerasActivationQuantizationHolder(LearnedStep(0.3))
    model_of(frozen)
    models["frozen"] = model_of(frozen.convert_to_inferable_quantizers())
    np.save(tmp_path / "x.npy", X)
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOADS), tmp_path],
        # One thread, as here: sums are taken in another order by two.
        env={**os.environ, "KERAS_BACKEND": BACKEND, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for name, model in models.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), to_numpy(model(X)), err_msg=name)


@every_holder
def test_trained_holder_comes_back_with_its_learned_step(holder_class, tmp_path):
    model = model_of(holder_class(LearnedStep(0.4)), layers.Dense(3))
    fit(model, epochs=1, jit_compile=BACKEND != "torch")
    model.save(tmp_path / "model.keras")
    for load in (keras.saving.load_model, keras_load_quantized_model):
        loaded = load(tmp_path / "model.keras")
        assert type(loaded.layers[0]) is holder_class
        np.testing.assert_array_equal(to_numpy(loaded(X)), to_numpy(model(X)))
        step = to_numpy(loaded.layers[0].activation_holder_quantizer.step)
        assert step == to_numpy(model.layers[0].activation_holder_quantizer.step) != np.float32(0.4)


def test_quantizers_of_the_users_own_are_found_by_name(tmp_path):
    model = model_of(KerasActivationQuantizationHolder(Tripling()))
    model.save(tmp_path / "model.keras")
    for load in (keras.saving.load_model, keras_load_quantized_model):
        loaded = load(tmp_path / "model.keras")
        assert type(loaded.layers[0].activation_holder_quantizer) is Tripling
        np.testing.assert_array_equal(to_numpy(loaded(X)), X * 3)


@every_holder
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_compute_alike_and_share_nothing(holder_class, copied):
    held = holder_class(LearnedStep(0.25))
    model = model_of(held)
    for clone in (copied(model), copied(held)):
        expected = to_numpy(model(X)).copy()
        np.testing.assert_array_equal(to_numpy(clone(X)), expected)
        clone.variables[0].assign([0.5])
        np.testing.assert_array_equal(to_numpy(clone(X)), np.round(X / 0.5) * np.float32(0.5))
        np.testing.assert_array_equal(to_numpy(model(X)), expected)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the format belongs to TensorFlow")
@every_holder
def test_exported_model_computes_alike(holder_class, tmp_path):
    import tensorflow as tf

    model = model_of(holder_class(QUANTIZERS["table"]()), holder_class(QUANTIZERS["uniform"]()))
    model.export(tmp_path / "exported", format="tf_saved_model", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_array_equal(exported.serve(tf.constant(X)).numpy(), to_numpy(model(X)))


def test_clone_of_a_model_inserts_holders():
    model = model_of(layers.Dense(3, name="first"), layers.Dense(2))
    inserted = []

    def with_holder(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if layer.name == "first":
            inserted.append(KerasActivationQuantizationHolder(QUANTIZERS["uniform"]()))
            return inserted[-1](outputs)
        return outputs

    functional = keras.Model(model.inputs[0], model.outputs[0])
    cloned = keras.models.clone_model(functional, call_function=with_holder, clone_function=lambda layer: layer)
    hidden = to_numpy(model.layers[0](X))
    expected = to_numpy(model.layers[1](quantized(hidden, QUANTIZERS["uniform"]())))
    np.testing.assert_array_equal(to_numpy(cloned(X)), expected)
    assert len(inserted) == 1


# Arguments.


@every_holder
@pytest.mark.parametrize(
    "quantizer", [None, 8, "8 bits", keras.ops.relu, layers.ReLU], ids=["none", "number", "text", "function", "layer"]
)
def test_wrong_quantizer_is_refused(holder_class, quantizer):
    text = "`activation_holder_quantizer` must be a quantizer. Received: "
    with pytest.raises(TypeError, match=re.escape(text) + ".+"):
        holder_class(quantizer)


@every_bypassable
@pytest.mark.parametrize("bypass", [2, None, "yes"])
def test_bypass_that_is_no_bool_is_refused(holder_class, bypass):
    text = f"`quantization_bypass` must be True or False. Received: quantization_bypass={bypass!r}"
    with pytest.raises(TypeError, match=re.escape(text)):
        holder_class(QUANTIZERS["pot"](), bypass)


@every_holder
def test_unknown_argument_is_refused(holder_class):
    with pytest.raises((TypeError, ValueError), match="num_bits"):
        holder_class(QUANTIZERS["pot"](), num_bits=4)


@every_holder
def test_quantizer_that_fails_to_initialize_says_so(holder_class):
    class Broken(LearnedStep):
        def initialize_quantization(self, tensor_shape, name, layer):
            raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="broken on purpose"):
        holder_class(Broken())(X)


def test_default_name_is_that_of_the_class():
    assert KerasActivationQuantizationHolder(QUANTIZERS["pot"]()).name.startswith(
        "keras_activation_quantization_holder"
    )

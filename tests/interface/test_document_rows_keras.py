# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the interface's documents that are about Keras, the examples of 001 and 002 as printed; ids in the names."""

import enum
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from document_examples import examples_forgotten, filled, printed, run_example, run_in_new_process

pytest.importorskip("keras.layers")

keras = pytest.importorskip("keras")
from keras import layers, ops  # noqa: E402

import mct_quantizers as mctq  # noqa: E402
import model_compression_toolkit as mct  # noqa: E402
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget  # noqa: E402
from mct_quantizers.common.quant_params import from_threshold  # noqa: E402
from model_compression_toolkit import quantizers_infrastructure as qi  # noqa: E402
from model_compression_toolkit.core.common.quantization_plan import TensorPlan, TensorSite  # noqa: E402
from model_compression_toolkit.qat.keras import quantization_builder as builder  # noqa: E402
from model_compression_toolkit.trainable_infrastructure import (  # noqa: E402
    BaseKerasQATWeightTrainableQuantizer,
    BaseKerasTrainableQuantizer,
    KerasTrainableQuantizationWrapper,
    TrainingMethod,
    VariableGroup,
)
from model_compression_toolkit.trainable_infrastructure.common import training_method  # noqa: E402

BACKEND = keras.config.backend()
pytestmark = pytest.mark.keras
POT, SYMMETRIC, UNIFORM = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
WEIGHTS, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
NEW_PARAM = "new_param_name"
CLASSES = {"weights": "MyWeightsTrainingQuantizer", "activations": "MyActivationsTrainingQuantizer"}
kinds = pytest.mark.parametrize("kind", CLASSES)
# On TensorFlow rounding has no gradient, on the others the gradient 0.
unmoved = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
START = {"weights": (0.5, 0.75), "activations": (1.0, 1.5)}


def custom_quantize(inputs, thresholds):
    """Four bits, signed; gradients to the inputs and to the thresholds, of which the last axis has one each."""
    scale = ops.convert_to_tensor(thresholds) / 8
    ratio = inputs / scale
    codes = ratio + ops.stop_gradient(ops.round(ratio) - ratio)
    return ops.clip(codes, -8, 7) * scale


def custom_quantize_per_tensor(inputs, thresholds):
    """The same with the mean of the thresholds."""
    return custom_quantize(inputs, ops.mean(thresholds))


LEARNED = "keras.ops.convert_to_numpy(self.quantizer_parameters[NEW_PARAM])"
ARGUMENTS = {
    "weights": f"4, (-{LEARNED}).tolist(), ({LEARNED} * 0.875).tolist(), per_channel=True, channel_axis=-1",
    "activations": f"4, [-float({LEARNED}.mean())], [0.875 * float({LEARNED}.mean())]",
}
QUANTIZE = {"weights": custom_quantize, "activations": custom_quantize_per_tensor}
MENTIONED = {
    name: getattr(qi, name)
    for name in ("BaseKerasTrainableQuantizer", "NodeWeightsQuantizationConfig", "NodeActivationQuantizationConfig")
}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """Training methods and quantizer classes of a test are of no concern to the others."""
    monkeypatch.setattr(training_method, "_OWN_NAMES", set())
    with examples_forgotten(BaseKerasTrainableQuantizer):
        yield


def run_with_tensorflow(text, names):
    """Run an example whose `tf` is TensorFlow on its backend, and on the others what has Keras under that name."""
    with pytest.MonkeyPatch.context() as patch:
        if BACKEND != "tensorflow":
            patch.setitem(sys.modules, "tensorflow", SimpleNamespace(keras=keras))
        return run_example(text, names)


def example(kind, start=None, prologue="", names=MENTIONED):
    """The quantizer class of document 001, in which `...` is the start of its parameter and the last arguments."""
    value = f"np.array({list(START[kind] if start is None else start)}, 'float32')"
    text = filled(printed(f"keras_trainable_{kind}.py"), value, ARGUMENTS[kind])
    names = {**names, "custom_quantize": QUANTIZE[kind], "np": np, "keras": keras}
    return run_with_tensorflow(prologue + text, names)[CLASSES[kind]]


def rounding(kind, is_printed=BACKEND != "tensorflow"):
    """The quantizer class of document 002; tensors of TensorFlow have no `round`."""
    text = printed(f"rounding_{kind}.py")
    if not is_printed:
        assert text.count("inputs.round()") == 1
        text = text.replace("inputs.round()", "keras.ops.round(inputs)")
    names = {
        **MENTIONED,
        "keras": keras,
        "MyWeightsInferableQuantizer": Rounds,
        "MyActivationsInferableQuantizer": Rounds,
    }
    return run_example(text, names)[CLASSES[kind]]


class Rounds(qi.BaseKerasInferableQuantizer):
    """A quantizer of the user's own for inference."""

    def __call__(self, inputs):
        return ops.round(inputs)

    def get_config(self):
        return {}


def configured(kind, grid=SYMMETRIC):
    if kind == "weights":
        return qi.NodeWeightsQuantizationConfig(grid, 4, {"threshold": np.ones(1)})
    return qi.NodeActivationQuantizationConfig(grid, 4, {"threshold": 1.0, "is_signed": True})


def carrier(kind, quantizer, layer=None):
    """The wrapper or holder of a quantizer, built for two features."""
    if kind == "weights":
        keras.utils.set_random_seed(0)
        return KerasTrainableQuantizationWrapper(layer or layers.Dense(2), {"kernel": quantizer})
    return mctq.KerasActivationQuantizationHolder(quantizer)


def held(kind, layer):
    return layer.weights_quantizers["kernel"] if kind == "weights" else layer.activation_holder_quantizer


def model_of(*parts, features=2):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((features,)), *parts])


def network(kind, quantizer):
    keras.utils.set_random_seed(2)
    return model_of(carrier(kind, quantizer), layers.Dense(1))


def samples():
    x = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    return x, x[:, :1] - 1


def fit(model, epochs=1, optimizer=None):
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse")
    return model.fit(*samples(), epochs=epochs, batch_size=32, verbose=0, shuffle=False).history["loss"]


def outputs(model, training=None):
    return ops.convert_to_numpy(model(samples()[0], training=training))


def variable_of(layer):
    (found,) = (variable for variable in layer.variables if variable.name == NEW_PARAM)
    return found


def value_of(layer):
    return ops.convert_to_numpy(variable_of(layer)).copy()


# Document 000.


def test_row_000_1_the_base_class_is_one_object_on_every_path():
    paths = ("quantizers_infrastructure", "quantizers_infrastructure.keras.base_keras_quantizer")
    for path in (*paths, "trainable_infrastructure", "trainable_infrastructure.keras.base_keras_quantizer"):
        names: dict = {}
        exec(f"from model_compression_toolkit.{path} import BaseKerasTrainableQuantizer", names)
        assert names["BaseKerasTrainableQuantizer"] is BaseKerasTrainableQuantizer


@kinds
def test_row_000_2_one_base_class_serves_both_targets_in_training_and_inference(kind):
    """In the form of that document: marked, with a single argument to the base class."""

    def define(config_class, target):
        @qi.mark_quantizer(quantization_target=target, quantization_method=[SYMMETRIC], quantizer_type="Mine")
        class Quantizer(qi.BaseKerasTrainableQuantizer):
            def __init__(self, quantization_config: config_class):
                super().__init__(quantization_config)

            def initialize_quantization(self, tensor_shape, name, layer):
                threshold = layer.add_weight(name=f"{name}_threshold", shape=(1,), initializer="ones")
                self.add_quantizer_variable("threshold", threshold, VariableGroup.QPARAMS)
                return self.quantizer_parameters

            def __call__(self, inputs, training):
                assert training in (False, True)
                return custom_quantize(inputs, self.get_quantizer_variable("threshold"))

            def convert2inferable(self):
                threshold = ops.convert_to_numpy(self.get_quantizer_variable("threshold")).tolist()
                if self.weights_quantization():
                    return mctq.keras_quantizers.WeightsSymmetricInferableQuantizer(4, threshold, per_channel=False)
                return mctq.keras_quantizers.ActivationSymmetricInferableQuantizer(4, threshold, signed=True)

        Quantizer.__module__ = "document_example_000"
        return Quantizer

    target = WEIGHTS if kind == "weights" else ACTIVATION
    quantizer = define(type(configured(kind)), target)(configured(kind))
    assert (quantizer.weights_quantization(), quantizer.activation_quantization()) == (
        kind == "weights",
        kind == "activations",
    )
    model = network(kind, quantizer)
    before = ops.convert_to_numpy(quantizer.get_quantizer_variable("threshold")).copy()
    losses = fit(model, epochs=5)
    assert losses[-1] < losses[0]
    assert (ops.convert_to_numpy(quantizer.get_quantizer_variable("threshold")) != before).all()
    expected = outputs(model.layers[0], training=True)
    np.testing.assert_allclose(outputs(converted(model.layers[0])), expected, rtol=0, atol=1e-6)


def test_row_000_3_the_older_base_of_training_is_a_base_of_todays():
    from model_compression_toolkit.qat.keras.quantizer.base_keras_qat_quantizer import BaseKerasQATTrainableQuantizer

    assert issubclass(BaseKerasQATTrainableQuantizer, BaseKerasTrainableQuantizer)
    assert issubclass(BaseKerasQATWeightTrainableQuantizer, BaseKerasQATTrainableQuantizer)
    # Quantizers of the older base are found by today's flow.
    mark = qi.mark_quantizer(WEIGHTS, [SYMMETRIC], quantizer_type=TrainingMethod.register("Mine"))
    names = {**MENTIONED, "BaseKerasTrainableQuantizer": BaseKerasQATTrainableQuantizer}
    cls = mark(example("weights", names=names))
    quantizers, _ = builder.quantization_builder(plan(WEIGHTS), mct.QATConfig(weight_training_method="Mine"))
    assert type(quantizers["kernel"]) is cls


@pytest.mark.parametrize("grid", [SYMMETRIC, UNIFORM])
@kinds
def test_row_000_8_the_reference_quantizers_train_and_export(kind, grid, tmp_path):
    from model_compression_toolkit.qat.keras.quantizer import ste_rounding
    from model_compression_toolkit.trainable_infrastructure.keras.activation_quantizers import ste

    word = "Uniform" if grid is UNIFORM else "" if kind == "weights" else "Symmetric"
    name = f"STE{word}{'WeightQAT' if kind == 'weights' else 'ActivationTrainable'}Quantizer"
    cls = getattr(ste_rounding if kind == "weights" else ste, name)
    low, high = (-1.5, 2.0) if grid is UNIFORM else (-2.0, 2.0)
    if kind == "weights":
        ends = {"range_min": low, "range_max": high} if grid is UNIFORM else {"threshold": high}
        config = qi.TrainableQuantizerWeightsConfig(grid, 4, ends)
    else:
        ends = {"range_min": low, "range_max": high} if grid is UNIFORM else {"threshold": high, "is_signed": True}
        config = qi.TrainableQuantizerActivationConfig(grid, 4, ends)
    model = network(kind, cls(config))
    losses = fit(model, epochs=8)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    expected = outputs(model)
    final = model_of(converted(model.layers[0]), layers.Dense(1))
    final.layers[1].set_weights(model.layers[1].get_weights())
    np.testing.assert_allclose(outputs(final), expected, rtol=0, atol=1e-6)
    target = "Weights" if kind == "weights" else "Activation"
    inferable = f"{target}{'Uniform' if grid is UNIFORM else 'Symmetric'}InferableQuantizer"
    assert type(held(kind, final.layers[0])) is getattr(mctq.keras_quantizers, inferable)
    final.save(tmp_path / "final.keras")
    # The runtime alone reads it.
    np.testing.assert_array_equal(outputs(mctq.keras_load_quantized_model(tmp_path / "final.keras")), outputs(final))


def converted(layer):
    """The layer for inference that a wrapper or holder in training becomes."""
    result = layer.convert_to_inferable_quantizers()
    assert result is not None
    assert not isinstance(result, KerasTrainableQuantizationWrapper)
    return result


# Document 001.


@kinds
def test_row_001_1_the_recipe_of_four_methods_runs(kind):
    cls = example(kind)
    recipe = {"__init__", "initialize_quantization", "__call__", "convert2inferable"}
    assert recipe <= set(vars(cls))
    layer = carrier(kind, cls(configured(kind)))
    x = samples()[0]
    result = outputs(layer)
    if kind == "weights":
        kernel = ops.convert_to_numpy(custom_quantize(layer.layer.kernel, np.float32(START[kind])))
        np.testing.assert_allclose(result, x @ kernel, rtol=1e-5, atol=1e-6)
        assert not np.array_equal(kernel, ops.convert_to_numpy(layer.layer.kernel))
    else:
        expected = ops.convert_to_numpy(custom_quantize(ops.convert_to_tensor(x), np.float32(1.25)))
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    inferable = held(kind, converted(layer))
    assert inferable.num_bits == 4


@kinds
def test_row_001_2_configurations_are_accepted_under_their_older_names(kind):
    module = importlib.import_module("model_compression_toolkit.core.common.quantization.node_quantization_config")
    word = "Weights" if kind == "weights" else "Activation"
    name = f"Node{word}QuantizationConfig"
    older, newer = getattr(module, name), getattr(qi, f"TrainableQuantizer{word}Config")
    assert older is getattr(qi, name) is newer
    quantizer = example(kind)(configured(kind))
    assert type(quantizer.quantization_config) is newer
    other = "activations" if kind == "weights" else "weights"
    with pytest.raises(TypeError, match=f"{CLASSES[kind]} quantizes .*Received: {type(configured(other)).__name__}"):
        example(kind)(configured(other))


@pytest.mark.parametrize("is_known", [True, False])
@kinds
def test_row_001_2_string_annotations_are_understood(kind, is_known):
    """Also of a name that only a type checker imports."""
    names = MENTIONED if is_known else {"BaseKerasTrainableQuantizer": BaseKerasTrainableQuantizer}
    cls = example(kind, prologue="from __future__ import annotations\n", names=names)
    assert isinstance(cls.__init__.__annotations__["quantization_config"], str)
    model = network(kind, cls(configured(kind)))
    fit(model)
    assert (value_of(model.layers[0]) != START[kind]).all()


@kinds
def test_row_001_3_three_arguments_say_target_and_grids_without_a_decorator(kind):
    cls = example(kind)
    assert cls.quantization_target is cls.quantization_method is None
    quantizer = cls(configured(kind))
    assert quantizer.quantization_target is (WEIGHTS if kind == "weights" else ACTIVATION)
    assert quantizer.quantization_method == [SYMMETRIC]
    assert quantizer.freeze_quant_params is False
    with pytest.raises(ValueError, match=rf"{CLASSES[kind]} serves \['SYMMETRIC'\]. Received: .*POWER_OF_TWO"):
        cls(configured(kind, POT))


@pytest.mark.parametrize(("rank", "kind"), [(2, "weights"), (4, "weights"), (2, "activations"), (4, "activations")])
def test_row_001_4_add_weight_takes_the_words_of_keras_2(kind, rank):
    start = np.linspace(0.5, 1.0, rank)
    wrapped = layers.Dense(2) if rank == 2 else layers.Conv2D(4, 3)
    layer = carrier(kind, example(kind, start)(configured(kind)), wrapped)
    x = np.ones((2, 2) if rank == 2 else (2, 5, 5, 3), np.float32)
    layer(x)
    variable = variable_of(layer)
    # The length of a shape is its rank.
    assert tuple(variable.shape) == (rank,)
    assert variable.trainable
    assert keras.backend.standardize_dtype(variable.dtype) == "float32"
    with pytest.raises(TypeError, match=r"each argument once. Received: \['name'\] twice"):
        layer.add_weight("other", name="another", shape=1)


@kinds
def test_row_001_5_an_assigned_array_is_the_value_after_build(kind):
    layer = carrier(kind, example(kind)(configured(kind)))
    assert not layer.variables
    outputs(layer)
    np.testing.assert_array_equal(value_of(layer), np.float32(START[kind]))


def test_row_001_5_an_assigned_number_is_the_value_after_build():
    """A number is the value of a variable that is one; the document's, of length 2, takes an array."""
    text = filled(printed("keras_trainable_weights.py"), "0.75", "4, [-0.75], [0.65625], per_channel=False")
    assert text.count("shape=len(tensor_shape)") == 1
    names = {**MENTIONED, "custom_quantize": custom_quantize}
    cls = run_with_tensorflow(text.replace("shape=len(tensor_shape)", "shape=()"), names)[CLASSES["weights"]]
    layer = carrier("weights", cls(configured("weights")))
    expected = outputs(layer)
    assert value_of(layer) == np.float32(0.75)
    np.testing.assert_allclose(outputs(converted(layer)), expected, rtol=0, atol=1e-6)


@kinds
def test_row_001_6_the_plain_dictionary_is_kept(kind):
    layer = carrier(kind, example(kind)(configured(kind)))
    outputs(layer)
    quantizer = held(kind, layer)
    assert list(quantizer.quantizer_parameters) == [NEW_PARAM]
    assert quantizer.quantizer_parameters[NEW_PARAM] is variable_of(layer)
    assert quantizer.get_quantizer_variable(NEW_PARAM) is variable_of(layer)
    (trainable,) = quantizer.get_trainable_variables(VariableGroup.QPARAMS)
    assert trainable is variable_of(layer)
    assert quantizer.get_trainable_variables(VariableGroup.WEIGHTS) == []
    variable_of(layer).trainable = False
    assert quantizer.get_trainable_variables(VariableGroup.QPARAMS) == []


@kinds
def test_row_001_7_a_call_without_training_is_called_either_way(kind):
    model = network(kind, example(kind)(configured(kind)))
    expected = outputs(model)
    for training in (None, False, True):
        np.testing.assert_array_equal(outputs(model, training), expected)
        outputs(model.layers[0], training)


@kinds
def test_row_001_8_the_new_variable_trains(kind):
    model = network(kind, example(kind)(configured(kind)))
    layer = model.layers[0]
    assert any(variable is variable_of(layer) for variable in model.trainable_variables)
    before = value_of(layer)
    fit(model, optimizer=keras.optimizers.SGD(1.0))
    gradient = before - value_of(layer)
    assert np.isfinite(gradient).all()
    assert (gradient != 0).all()
    losses = fit(network(kind, example(kind)(configured(kind))), epochs=10)
    assert losses[-1] < 0.5 * losses[0]


@kinds
def test_row_001_9_what_was_learned_is_carried_over(kind):
    model = network(kind, example(kind)(configured(kind)))
    fit(model, epochs=3)
    layer = model.layers[0]
    learned, expected = value_of(layer), outputs(layer, training=True)
    assert (learned != START[kind]).all()
    inferable = converted(layer)
    quantizer = held(kind, inferable)
    name = "WeightsUniformInferableQuantizer" if kind == "weights" else "ActivationUniformInferableQuantizer"
    assert type(quantizer) is getattr(qi, name) is getattr(mctq.keras_quantizers, name)
    threshold = learned if kind == "weights" else learned.mean(keepdims=True)
    np.testing.assert_allclose(quantizer.get_config()["min_range"], -threshold, rtol=1e-6)
    np.testing.assert_allclose(outputs(inferable), expected, rtol=0, atol=1e-6)
    # Nothing of training is left.
    assert not [variable.name for variable in inferable.variables if variable.name == NEW_PARAM]


@kinds
def test_row_001_10_the_missing_names_come_with_a_star_import(kind):
    prologue = "from model_compression_toolkit.quantizers_infrastructure import *\n"
    cls = example(kind, prologue=prologue, names={})
    model = network(kind, cls(configured(kind)))
    fit(model)
    assert (value_of(model.layers[0]) != START[kind]).all()


LOADER = """
import numpy as np, keras
from test_document_rows_keras import example, held, model_of, outputs, value_of
from model_compression_toolkit import keras_load_quantized_model
kind, folder = sys.argv[1:]
# Other starting values: what was learned comes from the file.
cls = example(kind, (7.0, 9.0))
model = keras_load_quantized_model(folder + "/model.keras")
assert type(held(kind, model.layers[0])) is cls
np.savez(folder + "/loaded.npz", output=outputs(model), value=value_of(model.layers[0]))
"""


@kinds
def test_row_001_11_a_saved_model_is_the_same_in_a_new_process(kind, tmp_path):
    model = network(kind, example(kind)(configured(kind)))
    fit(model, epochs=3)
    model.save(tmp_path / "model.keras")
    run_in_new_process(LOADER, kind, tmp_path)
    with np.load(tmp_path / "loaded.npz") as loaded:
        np.testing.assert_array_equal(loaded["value"], value_of(model.layers[0]))
        np.testing.assert_array_equal(loaded["output"], outputs(model))


@kinds
def test_row_001_11_training_resumes_exactly(kind, tmp_path):
    def fresh():
        model = network(kind, cls(configured(kind)))
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return model

    def train(model, steps=4):
        return [float(np.asarray(model.train_on_batch(*samples()))) for _ in range(steps)]

    cls = example(kind)
    whole = fresh()
    losses = train(whole, 8)
    first = fresh()
    head = train(first)
    first.save(tmp_path / "model.keras")
    second = mct.keras_load_quantized_model(tmp_path / "model.keras")
    assert [*head, *train(second)] == losses
    for a, b in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_row_001_11_a_class_that_nobody_defined_is_named(tmp_path):
    network("weights", example("weights")(configured("weights"))).save(tmp_path / "model.keras")
    code = """
from model_compression_toolkit import keras_load_quantized_model
try:
    keras_load_quantized_model(sys.argv[1])
except ValueError as error:
    print("MyWeightsTrainingQuantizer" in str(error))
"""
    assert run_in_new_process(code, tmp_path / "model.keras").splitlines()[-1] == "True"


@kinds
def test_row_001_12_a_symmetric_quantizer_may_become_a_uniform_one(kind):
    layer = carrier(kind, example(kind)(configured(kind)))
    expected = outputs(layer)
    quantizer = held(kind, layer)
    assert quantizer.quantization_method == [SYMMETRIC]
    final = converted(layer)
    assert held(kind, final).quantization_method == [UNIFORM]
    np.testing.assert_allclose(outputs(final), expected, rtol=0, atol=1e-6)


# Document 002.


@kinds
def test_row_002_1_a_single_argument_constructs_the_quantizer(kind):
    quantizer = rounding(kind)(configured(kind))
    assert quantizer.quantization_target is (WEIGHTS if kind == "weights" else ACTIVATION)
    assert quantizer.quantization_method == [SYMMETRIC]
    for wrong in ({}, None, "config"):
        with pytest.raises(TypeError, match="`quantization_config` must be a Trainable"):
            rounding(kind)(wrong)


def test_row_002_2_the_base_class_is_abstract():
    for config in (configured("weights"), configured("activations")):
        with pytest.raises(TypeError, match=r"abstract class BaseKerasTrainableQuantizer .*__call__"):
            BaseKerasTrainableQuantizer(config)


def test_row_002_3_a_missing_method_is_named():
    def define(*methods):
        body = {name: vars(rounding("weights"))[name] for name in methods}
        body["__module__"] = "document_example_002"

        def __init__(self, quantization_config: qi.NodeWeightsQuantizationConfig):
            BaseKerasTrainableQuantizer.__init__(self, quantization_config, WEIGHTS, [SYMMETRIC])

        return type("Incomplete", (BaseKerasTrainableQuantizer,), {**body, "__init__": __init__})

    with pytest.raises(TypeError, match=r"abstract class Incomplete .*__call__"):
        define("convert2inferable")(configured("weights"))
    layer = carrier("weights", define("__call__")(configured("weights")))
    expected = outputs(layer)
    with pytest.raises(NotImplementedError, match="Incomplete must define `convert2inferable`"):
        layer.convert_to_inferable_quantizers()
    # Refused before anything changed.
    np.testing.assert_array_equal(outputs(layer), expected)
    assert converted(carrier("weights", define("__call__", "convert2inferable")(configured("weights"))))


@unmoved
@kinds
def test_row_002_3_initialize_quantization_is_optional(kind):
    cls = rounding(kind)
    assert "initialize_quantization" not in vars(cls)
    model = network(kind, cls(configured(kind)))
    losses = fit(model, epochs=5)
    # Behind what rounds, the model trains.
    assert losses[-1] < losses[0]
    assert held(kind, model.layers[0]).quantizer_parameters == {}


@pytest.mark.skipif(BACKEND == "tensorflow", reason="without TensorFlow Keras runs on JAX or torch")
def test_row_002_4_without_tensorflow_the_examples_run():
    code = """
sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_model_optimization")))
from test_document_rows_keras import carrier, configured, outputs, rounding
for kind in ("weights", "activations"):
    print(outputs(carrier(kind, rounding(kind)(configured(kind)))).shape)
"""
    assert run_in_new_process(code).splitlines() == ["(32, 2)"] * 2


@pytest.fixture
def dictionaries():
    """The module of the dictionaries, which are afterwards what they were before."""
    module = importlib.import_module("model_compression_toolkit.qat.keras.quantizer.quantization_dispatcher_builder")
    tables = module.METHOD2WEIGHTQUANTIZER, module.METHOD2ACTQUANTIZER
    kept = [{method: dict(classes) for method, classes in table.items()} for table in tables]
    yield module
    for table, former in zip(tables, kept, strict=True):
        table.clear()
        table.update(former)


def plan(target):
    """The calibrated plan of a tensor on a symmetric grid."""
    is_weight = target is WEIGHTS
    site = TensorSite("dense", "kernel" if is_weight else "output", target, "Dense", (2, 2))
    return TensorPlan(site, mct.TensorConfig(4, SYMMETRIC, "per_tensor"), from_threshold(np.ones(1), 4, True))


@pytest.mark.parametrize("is_enumeration", [False, True])
@kinds
def test_row_002_7_the_dictionaries_are_honoured(dictionaries, kind, is_enumeration):
    if is_enumeration:
        method = run_example(printed("training_method.txt"), {"Enum": enum.Enum})["TrainingMethod"]
    else:
        method = TrainingMethod
        TrainingMethod.register("MyTrainingMethod")
    target = WEIGHTS if kind == "weights" else ACTIVATION
    methods = mct.QATConfig(method.MyTrainingMethod, method.MyTrainingMethod)
    with pytest.raises(ValueError, match="Expected one trainable quantizer"):
        builder.quantization_builder(plan(target), methods)
    cls = rounding(kind)
    name, file = ("METHOD2WEIGHTQUANTIZER", "weight") if kind == "weights" else ("METHOD2ACTQUANTIZER", "activation")
    table = getattr(dictionaries, name)
    text = filled(printed(f"{file}_dispatch.txt"), f"**{name}")
    table.update(run_example(text, {"qi": qi, "TrainingMethod": method, name: table, cls.__name__: cls})[name])
    assert table[TrainingMethod.STE]
    weights, activations = builder.quantization_builder(plan(target), methods)
    (quantizer,) = weights.values() if kind == "weights" else activations
    assert type(quantizer) is cls
    assert quantizer.quantization_config.__dict__[f"{file}{'s' if file == 'weight' else ''}_n_bits"] == 4
    assert outputs(network(kind, quantizer)).shape == (32, 1)
    if kind == "activations":
        holder = builder.get_activation_quantizer_holder(plan(target), methods)
        assert type(holder.activation_holder_quantizer) is cls


def test_row_002_7_the_dictionaries_are_the_same_on_every_path_and_come_before_the_built_in_classes(dictionaries):
    later = importlib.import_module("model_compression_toolkit.qat.keras.quantizer.quantization_builder")
    assert builder.METHOD2WEIGHTQUANTIZER is later.METHOD2WEIGHTQUANTIZER is dictionaries.METHOD2WEIGHTQUANTIZER
    assert builder.METHOD2ACTQUANTIZER is later.METHOD2ACTQUANTIZER is dictionaries.METHOD2ACTQUANTIZER
    assert dictionaries.METHOD2ACTQUANTIZER["LSQ"][UNIFORM].__name__ == "LSQUniformActivationTrainableQuantizer"
    cls = rounding("weights")
    dictionaries.METHOD2WEIGHTQUANTIZER[TrainingMethod.STE][SYMMETRIC] = cls
    weights, _ = builder.quantization_builder(plan(WEIGHTS), mct.QATConfig())
    assert type(weights["kernel"]) is cls


@pytest.mark.skipif(BACKEND == "tensorflow", reason="tensors of TensorFlow have no `round`")
@kinds
def test_row_002_8_the_example_rounds_as_printed(kind):
    layer = carrier(kind, rounding(kind, is_printed=True)(configured(kind)))
    check_rounding(kind, layer)


@kinds
def test_row_002_8_the_example_rounds_with_ops_on_every_backend(kind):
    layer = carrier(kind, rounding(kind, is_printed=False)(configured(kind)))
    check_rounding(kind, layer)


def check_rounding(kind, layer):
    x = 3 * samples()[0]
    layer(x)
    if kind == "activations":
        np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), np.round(x))
        return
    layer.layer.kernel.assign(4 * layer.layer.kernel)
    kernel = np.round(ops.convert_to_numpy(layer.layer.kernel))
    assert kernel.any()
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.get_quantized_weights()["kernel"]), kernel)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), x @ kernel, rtol=1e-5, atol=1e-5)


def own_inferables():
    """A model of which the weights and the activations have the user's own inferable quantizers."""
    parts = [carrier(kind, rounding(kind)(configured(kind))) for kind in ("activations", "weights")]
    model = model_of(*parts)
    parts[1].layer.kernel.assign(4 * parts[1].layer.kernel)
    expected = outputs(model)
    final = model_of(*map(converted, parts))
    np.testing.assert_array_equal(outputs(final), expected)
    assert isinstance(held("activations", final.layers[0]), Rounds)
    assert isinstance(held("weights", final.layers[1]), Rounds)
    return final


def test_row_002_9_the_users_own_inferable_quantizers_survive_saving(tmp_path):
    final = own_inferables()
    final.save(tmp_path / "final.keras")
    for load in (mctq.keras_load_quantized_model, mct.keras_load_quantized_model):
        loaded = load(tmp_path / "final.keras")
        np.testing.assert_array_equal(outputs(loaded), outputs(final))
        assert isinstance(held("weights", loaded.layers[1]), Rounds)
    code = """
from test_document_rows_keras import mctq, np, outputs
np.save(sys.argv[1] + "/loaded.npy", outputs(mctq.keras_load_quantized_model(sys.argv[1] + "/final.keras")))
"""
    run_in_new_process(code, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "loaded.npy"), outputs(final))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="what Keras exports without more packages needs TensorFlow")
def test_row_002_9_the_users_own_inferable_quantizers_export(tmp_path):
    import tensorflow as tf

    final = own_inferables()
    final.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "exported")
    served = loaded.serve(samples()[0])
    np.testing.assert_allclose(served.numpy(), outputs(final), rtol=1e-6, atol=1e-6)


@unmoved
def test_row_002_10_the_library_offers_rounding_with_a_gradient():
    older = importlib.import_module("model_compression_toolkit.qat.keras.quantizer.quant_utils")
    newer = importlib.import_module("model_compression_toolkit.trainable_infrastructure.keras.quantizer_utils")
    ste_round = newer.ste_round
    assert older.ste_round is ste_round
    np.testing.assert_array_equal(ops.convert_to_numpy(ste_round(samples()[0])), np.round(samples()[0]))

    def trained(function):
        """The change of a kernel that a quantizer with that function gets from one step."""
        text = printed("rounding_weights.py").replace("inputs.round()", "function(inputs)")
        names = {**MENTIONED, "function": function, "MyWeightsInferableQuantizer": Rounds}
        model = network("weights", run_example(text, names)[CLASSES["weights"]](configured("weights")))
        kernel = model.layers[0].layer.kernel
        kernel.assign(4 * kernel)
        before = ops.convert_to_numpy(kernel).copy()
        fit(model)
        return ops.convert_to_numpy(kernel) - before

    # Rounding has gradient 0, and the weight does not move.
    assert not trained(ops.round).any()
    assert np.isfinite(trained(ste_round)).all()
    assert trained(ste_round).any()

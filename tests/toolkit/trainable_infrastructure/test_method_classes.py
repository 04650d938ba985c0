# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The quantizer classes that are made of training methods, in both wings: names, marks, arguments, saving."""

import copy
import importlib
import importlib.util
import inspect
import pickle

import numpy as np
import pytest

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import VariableGroup
from model_compression_toolkit.trainable_infrastructure.common.get_quantizers import get_trainable_quantizer_class
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.methods import method
from model_compression_toolkit.trainable_infrastructure.methods.lsq import LSQ
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    GRIDS,
    Learned,
    checked_number,
    method_class,
    registered_names,
)
from model_compression_toolkit.trainable_infrastructure.methods.ste import STE

PACKAGE = "model_compression_toolkit.trainable_infrastructure"
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_KERAS = getattr(importlib.util.find_spec("keras"), "origin", None) is not None
WEIGHT, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
POT, SYMMETRIC, UNIFORM = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
SYMMETRIC_GRIDS = [POT, SYMMETRIC]
FORMS = {
    (WEIGHT, SYMMETRIC): "{}WeightQATQuantizer",
    (WEIGHT, UNIFORM): "{}UniformWeightQATQuantizer",
    (ACTIVATION, SYMMETRIC): "{}SymmetricActivationTrainableQuantizer",
    (ACTIVATION, UNIFORM): "{}UniformActivationTrainableQuantizer",
}


@pytest.fixture(
    params=[
        pytest.param("pytorch", marks=pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")),
        pytest.param("keras", marks=[pytest.mark.keras, pytest.mark.skipif(not HAS_KERAS, reason="no Keras")]),
    ]
)
def wing(request):
    return request.param


@pytest.fixture
def module(wing):
    """The module of the wing's classes, which forgets what a test adds."""
    found = importlib.import_module(f"{PACKAGE}.{wing}.method_quantizers")
    names, made, methods = set(vars(found)), dict(found.CLASSES._made), dict(method._METHODS)
    yield found
    for name in set(vars(found)) - names:
        delattr(found, name)
    found.CLASSES._made = made
    method._METHODS.clear()
    method._METHODS.update(methods)


def base_of(wing, kind):
    bases = importlib.import_module(f"{PACKAGE}.{wing}.base_{wing}_quantizer")
    return getattr(bases, f"Base{wing.title()}{kind}TrainableQuantizer")


def config_for(target, grid):
    if target is WEIGHT:
        params = {"range_min": -1.0, "range_max": 2.0} if grid is UNIFORM else {"threshold": 2.0}
        return TrainableQuantizerWeightsConfig(grid, 4, params)
    params = {"range_min": -1.0, "range_max": 2.0} if grid is UNIFORM else {"threshold": 2.0, "is_signed": True}
    return TrainableQuantizerActivationConfig(grid, 4, params)


def served_by(name):
    """Target, grids and class name of each class that a method gives."""
    of_method = method_class(name)
    for (target, grid), form in FORMS.items():
        grids = [each for each in ([UNIFORM] if grid is UNIFORM else SYMMETRIC_GRIDS) if each in of_method.supports]
        if grids and target in of_method.targets:
            yield target, grids, form.format(name)


METHODS = pytest.mark.parametrize("name", registered_names())


# What is made.


@METHODS
def test_every_method_has_its_classes_under_their_names(wing, module, name):
    made = {cls.__name__: cls for cls in module.CLASSES.made() if cls.identifier == name}
    assert set(made) == {class_name for *_, class_name in served_by(name)}
    for target, grids, class_name in served_by(name):
        cls = getattr(module, class_name)
        assert cls is made[class_name] is module.CLASSES.find(class_name)
        assert all(module.CLASSES.of(name, target, grid) is cls for grid in grids)
        assert (cls.__name__, cls.__qualname__, cls.__module__) == (class_name, class_name, module.__name__)
        assert cls.__doc__ == method_class(name).__doc__
        assert cls.training_method is method_class(name)
        assert issubclass(cls, base_of(wing, ""))
        assert issubclass(cls, base_of(wing, "QATWeight")) == (target is WEIGHT)
        assert issubclass(cls, base_of(wing, "Activation")) == (target is ACTIVATION)


@METHODS
def test_classes_are_marked_with_target_grids_and_method(module, name):
    for target, grids, class_name in served_by(name):
        cls = getattr(module, class_name)
        assert cls.quantization_target is target
        assert cls.quantization_method == grids
        assert cls.identifier == cls.quantizer_type == TrainingMethod(name)
        assert isinstance(cls.identifier, TrainingMethod)


@METHODS
def test_signature_names_the_configuration_freezing_and_the_settings(module, name):
    settings = {
        item.name: item.default
        for parent in method_class(name).__mro__
        for item in inspect.signature(vars(parent).get("__init__", lambda self: None)).parameters.values()
        if item.kind is item.KEYWORD_ONLY
    }
    for target, _, class_name in served_by(name):
        cls = getattr(module, class_name)
        parameters = list(inspect.signature(cls).parameters.values())
        assert cls.get_sig() == inspect.signature(cls)
        assert [item.name for item in parameters[:2]] == ["quantization_config", "freeze_quant_params"]
        expected = TrainableQuantizerWeightsConfig if target is WEIGHT else TrainableQuantizerActivationConfig
        assert parameters[0].annotation is expected
        assert parameters[0].default is inspect.Parameter.empty
        assert parameters[1].default is False
        assert {item.name: item.default for item in parameters[2:]} == settings
        assert all(item.kind is item.KEYWORD_ONLY for item in parameters[2:])


@METHODS
def test_every_class_can_be_constructed_with_the_configuration_alone(module, name):
    for target, grids, class_name in served_by(name):
        for grid in grids:
            config = config_for(target, grid)
            quantizer = getattr(module, class_name)(config)
            assert quantizer.quantization_config is config
            assert quantizer.freeze_quant_params is False
            assert (quantizer.num_bits, quantizer.power_of_two, quantizer.sign) == (4, grid is POT, grid is not UNIFORM)


def test_both_wings_have_the_same_classes():
    if not HAS_TORCH or not HAS_KERAS:
        pytest.skip("needs both frameworks")
    names = {}
    for wing in ("pytorch", "keras"):
        classes = importlib.import_module(f"{PACKAGE}.{wing}.method_quantizers").CLASSES
        names[wing] = {cls.__name__: cls.get_sig() for cls in classes.made()}
    assert names["pytorch"] == names["keras"]


def test_the_name_of_the_interface_for_dqa_is_an_alias(module):
    assert module.DQAUniformWeightQuantizer is module.DQAUniformWeightQATQuantizer


def test_a_class_is_made_once(module):
    first = module.CLASSES.made()
    module.CLASSES.make_all()
    second = module.CLASSES.made()
    assert len(first) == len(second) == len({id(cls) for cls in first})
    assert all(ours is theirs for ours, theirs in zip(first, second, strict=True))


# What is refused.


@pytest.mark.parametrize("name", ["NoSuchQuantizer", "STEQuantizer", "lsqWeightQATQuantizer", "_hidden", "__path__"])
def test_an_unknown_name_is_the_usual_error(module, name):
    with pytest.raises(AttributeError, match=rf"module '{module.__name__}' has no attribute '{name}'"):
        getattr(module, name)
    with pytest.raises(ImportError, match=f"cannot import name '{name}'"):
        exec(f"from {module.__name__} import {name}")


def test_what_no_method_trains_is_refused(module):
    with pytest.raises(ValueError, match=r"must be one of .*'LSQ'.*Received: 'NOPE'"):
        module.CLASSES.of("NOPE", WEIGHT, SYMMETRIC)
    with pytest.raises(ValueError, match=r"STE trains \['POWER_OF_TWO', 'SYMMETRIC', 'UNIFORM'\]. Received: LUT"):
        module.CLASSES.of("STE", WEIGHT, QuantizationMethod.LUT_POT_QUANTIZER)


@METHODS
def test_settings_that_a_method_lacks_are_refused(module, name):
    for target, grids, class_name in served_by(name):
        with pytest.raises(TypeError, match="no_such_setting"):
            getattr(module, class_name)(config_for(target, grids[0]), no_such_setting=1)


@METHODS
def test_the_configuration_of_the_other_target_is_refused(module, name):
    for target, grids, class_name in served_by(name):
        other = ACTIVATION if target is WEIGHT else WEIGHT
        with pytest.raises(TypeError, match=f"{class_name} quantizes {target.value}"):
            getattr(module, class_name)(config_for(other, grids[0]))


@METHODS
def test_a_grid_that_the_class_does_not_serve_is_refused(module, name):
    for target, grids, class_name in served_by(name):
        for grid in {POT, SYMMETRIC, UNIFORM} - set(grids):
            with pytest.raises(ValueError, match=f"{class_name} serves .*{grid.name}"):
                getattr(module, class_name)(config_for(target, grid))


# Variables.


def ones(wing):
    if wing == "pytorch":
        import torch

        return torch.ones(3)
    return np.ones(3, np.float32)


def layer_of(wing):
    if wing == "pytorch":
        return None
    import keras

    return keras.layers.Layer()


@METHODS
@pytest.mark.parametrize("frozen", [False, True])
def test_variables_are_parameters_of_the_quantization_and_stay_when_frozen(wing, module, name, frozen):
    for target, grids, class_name in served_by(name):
        quantizer = getattr(module, class_name)(config_for(target, grids[-1]), frozen)
        assert quantizer.quantizer_parameters == {}
        variables = quantizer.initialize_quantization((3, 4) if target is WEIGHT else None, "kernel", layer_of(wing))
        assert variables == quantizer.quantizer_parameters
        assert set(variables) == set(quantizer.method.parameters(quantizer.initial_params, (3, 4)))
        assert all(entry["group"] is VariableGroup.QPARAMS for entry in variables.values())
        assert quantizer.get_trainable_variables(VariableGroup.WEIGHTS) == []
        learned = quantizer.method.parameters(quantizer.initial_params, (3, 4)).values()
        expected = 0 if frozen else sum(each.trainable for each in learned)
        assert len(quantizer.get_trainable_variables(VariableGroup.QPARAMS)) == expected


def test_a_quantizer_without_its_state_says_what_to_do(wing, module):
    quantizer = module.LSQWeightQATQuantizer(config_for(WEIGHT, SYMMETRIC))
    for use in (lambda: quantizer(ones(wing)), lambda: quantizer.params, quantizer.convert2inferable):
        with pytest.raises(ValueError, match="LSQWeightQATQuantizer has no state yet: put it into a wrapper"):
            use()


# Saving.


@METHODS
def test_classes_pickle_by_their_name(module, name):
    for *_, class_name in served_by(name):
        cls = getattr(module, class_name)
        assert pickle.loads(pickle.dumps(cls)) is cls
        assert copy.deepcopy(cls) is cls


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
@METHODS
def test_pytorch_quantizers_pickle_with_their_state(name):
    import torch

    module = importlib.import_module(f"{PACKAGE}.pytorch.method_quantizers")
    for target, grids, class_name in served_by(name):
        quantizer = getattr(module, class_name)(config_for(target, grids[-1]))
        quantizer.initialize_quantization((3, 4) if target is WEIGHT else None, "weight", None)
        quantizer.eval()
        x = torch.linspace(-3, 3, 12).reshape(3, 4)
        for twin in (pickle.loads(pickle.dumps(quantizer)), copy.deepcopy(quantizer)):
            assert type(twin) is type(quantizer)
            assert set(twin.state_dict()) == set(quantizer.state_dict())
            assert torch.equal(twin(x), quantizer(x))
            for key in twin.quantizer_parameters:
                # What is trained, by the name under which it is registered.
                tensors = {**dict(twin.named_buffers()), **dict(twin.named_parameters())}
                assert twin.get_quantizer_variable(key) is tensors.get(f"relative_{key}", tensors.get(key))
                assert twin.get_quantizer_variable(key) is not getattr(quantizer, key)


@pytest.mark.keras
@pytest.mark.skipif(not HAS_KERAS, reason="Keras is not installed")
@METHODS
def test_keras_quantizers_are_registered_and_come_back_from_their_configuration(name):
    import keras

    module = importlib.import_module(f"{PACKAGE}.keras.method_quantizers")
    for target, grids, class_name in served_by(name):
        cls = getattr(module, class_name)
        registered = f"model_compression_toolkit>{class_name}"
        assert keras.saving.get_registered_name(cls) == registered
        assert keras.saving.get_registered_object(registered) is cls
        quantizer = cls(config_for(target, grids[0]), True)
        restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
        assert type(restored) is cls
        assert restored.get_config() == quantizer.get_config()
        assert restored.freeze_quant_params is True
        assert restored.initial_params == quantizer.initial_params


# A method of the tests' own.


def define_method(name="DRIFT", supports=GRIDS, **kwargs):
    class Drift(STE, name=name, supports=supports, **kwargs):
        """Drifts."""

        def __init__(self, quantization_method, quantization_target=WEIGHT, *, speed=0.5):
            super().__init__(quantization_method, quantization_target)
            self.speed = checked_number("speed", speed, low=0.0, high=1.0)

        def parameters(self, params, x_shape):
            return {**super().parameters(params, x_shape), "speed": Learned(np.array([self.speed], np.float32))}

    return Drift


def test_a_new_method_has_its_classes_when_they_are_asked_for(wing, module):
    with pytest.raises(AttributeError):
        _ = module.DRIFTWeightQATQuantizer
    drift = define_method()
    assert "DRIFTWeightQATQuantizer" not in vars(module)
    cls = module.DRIFTWeightQATQuantizer
    assert "DRIFTWeightQATQuantizer" in vars(module)
    assert cls.training_method is drift
    assert cls.identifier == "DRIFT"
    assert cls.__doc__ == "Drifts."
    assert pickle.loads(pickle.dumps(cls)) is cls
    names = {each.__name__ for each in module.CLASSES.made() if each.identifier == "DRIFT"}
    assert names == {form.format("DRIFT") for form in FORMS.values()}
    found = get_trainable_quantizer_class(ACTIVATION, "DRIFT", UNIFORM, base_of(wing, "Activation"))
    assert found is module.CLASSES.of("DRIFT", ACTIVATION, UNIFORM)


def test_settings_of_a_method_are_keyword_arguments(wing, module):
    define_method()
    cls = module.CLASSES.of("DRIFT", WEIGHT, SYMMETRIC)
    assert str(inspect.signature(cls).parameters["speed"]) == "speed=0.5"
    quantizer = cls(config_for(WEIGHT, SYMMETRIC), speed=0.25)
    assert quantizer.method_arguments == {"speed": 0.25}
    assert quantizer.method.speed == 0.25
    state = quantizer.initialize_quantization((2, 3), "weight", layer_of(wing))
    assert set(state) == {"scale", "speed"}
    with pytest.raises(ValueError, match=r"`speed` must be from 0.0 to 1.0.*speed=2"):
        cls(config_for(WEIGHT, SYMMETRIC), speed=2)
    with pytest.raises(TypeError, match="`speed`"):
        cls(config_for(WEIGHT, SYMMETRIC), speed="fast")


def test_a_method_has_no_classes_for_what_it_does_not_train(module):
    define_method(supports={SYMMETRIC}, targets={WEIGHT})
    names = {each.__name__ for each in module.CLASSES.made() if each.identifier == "DRIFT"}
    assert names == {"DRIFTWeightQATQuantizer"}
    assert module.DRIFTWeightQATQuantizer.quantization_method == [SYMMETRIC]
    for grid in (POT, UNIFORM):
        with pytest.raises(ValueError, match=rf"DRIFT trains \['SYMMETRIC'\]. Received: {grid.name}"):
            module.CLASSES.of("DRIFT", WEIGHT, grid)
    with pytest.raises(ValueError, match=r"DRIFT trains \['Weights'\]. Received: Activation"):
        module.CLASSES.of("DRIFT", ACTIVATION, SYMMETRIC)
    with pytest.raises(AttributeError):
        _ = module.DRIFTUniformWeightQATQuantizer


def test_a_method_that_is_defined_again_has_new_classes(module):
    define_method()
    former = module.DRIFTWeightQATQuantizer
    latter_method = define_method()
    latter = module.CLASSES.of("DRIFT", WEIGHT, SYMMETRIC)
    assert latter is not former
    assert latter.training_method is latter_method
    assert module.DRIFTWeightQATQuantizer is latter
    assert pickle.loads(pickle.dumps(latter)) is latter


def test_a_method_without_settings_has_none(module):
    assert method_class("LSQ") is LSQ
    assert list(inspect.signature(module.LSQWeightQATQuantizer).parameters) == [
        "quantization_config",
        "freeze_quant_params",
    ]


@pytest.mark.keras
@pytest.mark.skipif(not HAS_KERAS, reason="Keras is not installed")
@pytest.mark.parametrize("wing", ["keras"])
def test_settings_of_a_new_method_are_saved_by_keras(module):
    import keras

    define_method(name="SAVED_DRIFT")
    cls = module.SAVED_DRIFTWeightQATQuantizer
    assert keras.saving.get_registered_name(cls) == "model_compression_toolkit>SAVED_DRIFTWeightQATQuantizer"
    quantizer = cls(config_for(WEIGHT, POT), speed=0.125)
    assert quantizer.get_config()["speed"] == 0.125
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert type(restored) is cls
    assert restored.method.speed == 0.125

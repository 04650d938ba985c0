# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The rules of the base of all quantizers in training, in every form of the interface, and of the wings' bases."""

import copy
import importlib
import importlib.util
import inspect
import pickle
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mct_quantizers import BaseInferableQuantizer, mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from model_compression_toolkit.trainable_infrastructure.common import trainable_quantizer_config as configs
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import (
    GROUP,
    VAR,
    BaseTrainableQuantizer,
    VariableGroup,
)
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    NodeActivationQuantizationConfig,
    NodeWeightsQuantizationConfig,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)

if TYPE_CHECKING:
    # Not there when the program runs.
    from somewhere import NoSuchConfig

PACKAGE = "model_compression_toolkit.trainable_infrastructure"
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_KERAS = getattr(importlib.util.find_spec("keras"), "origin", None) is not None
WEIGHT, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
POT, SYMMETRIC, UNIFORM = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
needs_keras = [pytest.mark.keras, pytest.mark.skipif(not HAS_KERAS, reason="Keras is not installed")]


class Common(BaseTrainableQuantizer):
    """The base itself, for variables that are named tuples of a value and whether it trains."""

    def _is_trainable(self, variable):
        return variable[1]


def wing_base(wing):
    if wing == "common":
        return Common
    module = importlib.import_module(f"{PACKAGE}.{wing}.base_{wing}_quantizer")
    return getattr(module, f"Base{wing.title()}TrainableQuantizer")


def variable(wing, value=1.0, trainable=True):
    """A variable of the wing."""
    if wing == "common":
        return (value, trainable)
    if wing == "pytorch":
        return torch.nn.Parameter(torch.tensor([value]), requires_grad=trainable)
    import keras

    return keras.Variable(np.array([value], np.float32), trainable=trainable)


@pytest.fixture(params=["common", pytest.param("pytorch", marks=needs_torch), pytest.param("keras", marks=needs_keras)])
def wing(request):
    return request.param


@pytest.fixture
def base(wing):
    return wing_base(wing)


def weights_config(method=SYMMETRIC):
    return TrainableQuantizerWeightsConfig(method, 4, {"threshold": 2.0})


def activation_config(method=SYMMETRIC):
    return TrainableQuantizerActivationConfig(method, 4, {"threshold": 2.0, "is_signed": True})


def marked(cls, target=WEIGHT, methods=(SYMMETRIC, POT), identifier="mine"):
    return mark_quantizer(target, list(methods), identifier)(cls)


def define(base, constructor=None, target=WEIGHT, methods=(SYMMETRIC, POT), is_marked=True, **body):
    """A quantizer class; `constructor` is its `__init__`."""

    class Mine(base):
        def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, freeze_quant_params=False):
            super().__init__(quantization_config, freeze_quant_params)

        def __call__(self, inputs):
            return inputs

        if constructor is not None:
            __init__ = constructor

    for name, value in body.items():
        setattr(Mine, name, value)
    return marked(Mine, target, methods) if is_marked else Mine


# What can be constructed.


def test_a_marked_class_takes_its_configuration(base):
    config = weights_config()
    quantizer = define(base)(config)
    assert isinstance(quantizer, BaseTrainableQuantizer)
    assert isinstance(quantizer, BaseInferableQuantizer)
    assert quantizer.quantization_config is config
    assert quantizer.freeze_quant_params is False
    assert quantizer.quantizer_parameters == {}
    assert (quantizer.quantization_target, quantizer.quantization_method) == (WEIGHT, [SYMMETRIC, POT])
    assert quantizer(5) == 5


@pytest.mark.parametrize("method", [SYMMETRIC, POT])
def test_every_grid_of_the_marks_is_served(base, method):
    config = weights_config(method)
    assert define(base)(config).quantization_config is config


def test_the_name_of_the_first_argument_is_free(base):
    def constructor(self, whatever: TrainableQuantizerWeightsConfig, *, extra: int = 3, more=None):
        super(type(self), self).__init__(whatever)
        self.extra = extra

    quantizer = define(base, constructor)(weights_config(), extra=7)
    assert quantizer.extra == 7
    assert define(base, constructor)(whatever=weights_config()).extra == 3


def test_the_annotation_is_not_held_against_the_target(base):
    def constructor(self, config: TrainableQuantizerActivationConfig):
        super(type(self), self).__init__(config)

    assert define(base, constructor)(weights_config()).weights_quantization()


def test_a_constructor_that_is_inherited_counts(base):
    parent = define(base)
    child = marked(type("Child", (parent,), {"__call__": lambda self, inputs: inputs}))
    assert child(weights_config()).weights_quantization()


def test_without_a_constructor_the_one_of_the_base_lacks_defaults_nowhere(base):
    class Bare(base):
        def __call__(self, inputs):
            return inputs

    # Its annotation names both classes, of which neither is the one of the quantizer.
    with pytest.raises(TypeError, match="Bare must annotate the first argument"):
        marked(Bare)(weights_config())


# Annotations.


def annotated(annotation):
    def constructor(self, config, freeze_quant_params=False):
        super(type(self), self).__init__(config, freeze_quant_params)

    if annotation is not None:
        constructor.__annotations__ = {"config": annotation}
    return constructor


@pytest.mark.parametrize(
    "annotation",
    [
        TrainableQuantizerWeightsConfig,
        NodeWeightsQuantizationConfig,
        TrainableQuantizerActivationConfig,
        NodeActivationQuantizationConfig,
        "TrainableQuantizerWeightsConfig",
        "NodeWeightsQuantizationConfig",
        "NodeActivationQuantizationConfig",
        "configs.NodeWeightsQuantizationConfig",
        "configs.TrainableQuantizerActivationConfig",
    ],
)
def test_both_names_of_a_configuration_are_annotations_as_objects_and_as_text(base, annotation):
    assert configs.NodeWeightsQuantizationConfig is TrainableQuantizerWeightsConfig
    assert define(base, annotated(annotation))(weights_config()).weights_quantization()


@pytest.mark.parametrize(
    "text",
    [
        "nowhere.TrainableQuantizerWeightsConfig",
        "nowhere.to.be.found.NodeWeightsQuantizationConfig",
        "'nowhere.TrainableQuantizerActivationConfig'",
        "qi.NodeActivationQuantizationConfig",
    ],
)
def test_a_text_that_cannot_be_resolved_counts_by_its_last_word(base, text):
    assert define(base, annotated(text))(weights_config()).weights_quantization()


@pytest.mark.parametrize(
    "annotation",
    [
        None,
        int,
        dict,
        Any,
        5,
        "NoSuchConfig",
        "nowhere.SomethingElse",
        "int",
        "not python at all ~",
        "",
        "SomeTrainableQuantizerWeightsConfig",
        "QuantizationConfig",
        "Config",
        TrainableQuantizerWeightsConfig | TrainableQuantizerActivationConfig,
        TrainableQuantizerWeightsConfig | None,
    ],
    ids=str,
)
def test_every_other_annotation_is_refused(base, annotation):
    cls = define(base, annotated(annotation))
    with pytest.raises(TypeError, match=r"Mine must annotate the first argument of its constructor.*Received"):
        cls(weights_config())


def test_other_annotations_that_cannot_be_resolved_do_no_harm(base):
    def constructor(self, config: "TrainableQuantizerWeightsConfig", other: "NoSuchConfig | None" = None):
        super(type(self), self).__init__(config)

    assert define(base, constructor)(weights_config()).weights_quantization()


def test_annotations_are_texts_in_a_file_that_asks_for_it(base):
    code = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from somewhere import TrainableQuantizerWeightsConfig
def constructor(self, config: TrainableQuantizerWeightsConfig, freeze: bool = False):
    super(type(self), self).__init__(config, freeze)
"""
    names: dict = {}
    exec(code, names)
    assert names["constructor"].__annotations__["config"] == "TrainableQuantizerWeightsConfig"
    assert define(base, names["constructor"])(weights_config(), True).freeze_quant_params is True


# Signatures.


def test_a_constructor_without_arguments_is_refused(base):
    def constructor(self):
        super(type(self), self).__init__(weights_config())

    with pytest.raises(TypeError, match=r"Mine must annotate the first argument.*Received: \[\]"):
        define(base, constructor)()


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        ("other", ["other"]),
        ("*args", ["args"]),
        ("**kwargs", ["kwargs"]),
        ("*, a, b=2, c=3", ["a"]),
        ("a=1, *args, b, **kwargs", ["args", "b", "kwargs"]),
    ],
)
def test_further_arguments_need_defaults(base, arguments, lacking):
    names = {"Config": TrainableQuantizerWeightsConfig, "base": base}
    exec(f"def constructor(self, config: Config, {arguments}):\n    base.__init__(self, config)", names)
    cls = define(base, names["constructor"])
    values = {name: 1 for name in lacking if name not in ("args", "kwargs")}
    with pytest.raises(TypeError, match=r"Mine must give every argument.*default") as caught:
        cls(weights_config(), **values)
    assert f"no default for {lacking}" in str(caught.value)


def test_signature_is_that_of_the_class(base):
    cls = define(base)
    assert cls.get_sig() == inspect.signature(cls)
    assert list(cls.get_sig().parameters) == ["quantization_config", "freeze_quant_params"]


# Marks.


def test_a_class_without_marks_is_refused_and_told_which(base):
    cls = define(base, is_marked=False)
    with pytest.raises(TypeError, match=r"Mine must be decorated with @mark_quantizer.*super\(\)\.__init__"):
        cls(weights_config())


@pytest.mark.parametrize(("target", "methods"), [(None, [SYMMETRIC]), (WEIGHT, None), (None, None)])
def test_marks_of_none_are_none(base, target, methods):
    cls = mark_quantizer(target, methods, "mine")(define(base, is_marked=False))
    with pytest.raises(TypeError, match="Mine must be decorated with @mark_quantizer"):
        cls(weights_config())


@pytest.mark.parametrize("target", ["Weights", 1, [WEIGHT], SYMMETRIC])
def test_a_target_of_another_kind_is_refused(base, target):
    with pytest.raises(TypeError, match=r"Mine must have a QuantizationTarget.*Received: "):
        define(base, target=target)(weights_config())


@pytest.mark.parametrize("methods", [SYMMETRIC, "SYMMETRIC", ["SYMMETRIC"], [SYMMETRIC, 3], {SYMMETRIC: 1}])
def test_methods_of_another_kind_are_refused(base, methods):
    cls = mark_quantizer(WEIGHT, methods, "mine")(define(base, is_marked=False))
    with pytest.raises(TypeError, match=r"Mine must have a list of QuantizationMethod.*Received: "):
        cls(weights_config())


def test_no_identifier_is_needed(base):
    cls = mark_quantizer(WEIGHT, [SYMMETRIC])(define(base, is_marked=False))
    assert cls(weights_config()).identifier is None


@pytest.mark.parametrize("identifier", ["mine", Enum("OwnTraining", ["MINE"]).MINE, 7])
def test_identifier_and_its_older_word_are_any_value(base, identifier):
    for arguments in ({"identifier": identifier}, {"quantizer_type": identifier}):
        cls = mark_quantizer(quantization_target=WEIGHT, quantization_method=[SYMMETRIC], **arguments)(
            define(base, is_marked=False)
        )
        quantizer = cls(weights_config())
        assert quantizer.identifier is quantizer.quantizer_type is identifier


def test_the_signature_is_checked_before_the_marks(base):
    with pytest.raises(TypeError, match="must annotate"):
        define(base, annotated(int), is_marked=False)(weights_config())


# The configuration against the marks.


@pytest.mark.parametrize(
    ("target", "config", "expected"),
    [
        (WEIGHT, activation_config(), "Weights.*TrainableQuantizerWeightsConfig.*Received: TrainableQuantizerAct"),
        (ACTIVATION, weights_config(), "Activation.*TrainableQuantizerActivationConfig.*Received: TrainableQuantizerW"),
        (WEIGHT, None, "Weights.*TrainableQuantizerWeightsConfig.*Received: NoneType"),
        (ACTIVATION, {"threshold": 1}, "Activation.*TrainableQuantizerActivationConfig.*Received: dict"),
    ],
)
def test_a_configuration_of_the_other_target_is_refused(base, target, config, expected):
    with pytest.raises(TypeError, match=f"Mine quantizes {expected}"):
        define(base, target=target)(config)


@pytest.mark.parametrize(("target", "make"), [(WEIGHT, weights_config), (ACTIVATION, activation_config)])
def test_a_grid_that_is_not_served_is_refused(base, target, make):
    with pytest.raises(ValueError, match=r"Mine serves \['SYMMETRIC', 'POWER_OF_TWO'\].*UNIFORM"):
        define(base, target=target)(make(UNIFORM))


def test_a_grid_that_is_no_grid_is_refused(base):
    with pytest.raises(ValueError, match=r"Mine serves .*symmetric"):
        define(base)(weights_config("symmetric"))


def test_the_quantizer_knows_whose_configuration_it_has(base):
    weights = define(base)(weights_config())
    assert (weights.weights_quantization(), weights.activation_quantization()) == (True, False)
    assert weights.validate_weights() is None
    with pytest.raises(TypeError, match="Mine"):
        weights.validate_activation()
    activation = define(base, target=ACTIVATION)(activation_config())
    assert (activation.weights_quantization(), activation.activation_quantization()) == (False, True)
    assert activation.validate_activation() is None
    with pytest.raises(TypeError, match="Mine"):
        activation.validate_weights()


# The form with three arguments.


def three(target, methods):
    def constructor(self, quantization_config: NodeWeightsQuantizationConfig):
        super(type(self), self).__init__(quantization_config, target, methods)

    return constructor


@pytest.mark.parametrize("methods", [[SYMMETRIC], (SYMMETRIC, UNIFORM)])
def test_three_arguments_take_the_place_of_the_marks(base, methods):
    cls = define(base, three(WEIGHT, methods), is_marked=False)
    quantizer = cls(weights_config())
    assert (quantizer.quantization_target, quantizer.quantization_method) == (WEIGHT, list(methods))
    assert quantizer.freeze_quant_params is False
    # The class stays without marks.
    assert cls.quantization_target is cls.quantization_method is None


def test_three_arguments_count_before_the_marks(base):
    cls = define(base, three(ACTIVATION, [UNIFORM]))
    assert cls(activation_config(UNIFORM)).quantization_target is ACTIVATION
    assert cls.quantization_target is WEIGHT


def test_three_arguments_by_their_names(base):
    def constructor(self, config: TrainableQuantizerWeightsConfig):
        super(type(self), self).__init__(config, freeze_quant_params=WEIGHT, quantization_method=[SYMMETRIC])

    assert define(base, constructor, is_marked=False)(weights_config()).quantization_target is WEIGHT


@pytest.mark.parametrize(
    ("target", "methods", "make", "error", "text"),
    [
        (ACTIVATION, [SYMMETRIC], weights_config, TypeError, "Mine quantizes Activation"),
        (WEIGHT, [SYMMETRIC], activation_config, TypeError, "Mine quantizes Weights"),
        (WEIGHT, [UNIFORM], weights_config, ValueError, r"Mine serves \['UNIFORM'\]"),
        (WEIGHT, [], weights_config, ValueError, r"Mine serves \[\]"),
        (WEIGHT, None, weights_config, TypeError, "Mine must be decorated"),
        (WEIGHT, ["SYMMETRIC"], weights_config, TypeError, "Mine must have a list of QuantizationMethod"),
        (False, [SYMMETRIC], weights_config, TypeError, "Mine: after `quantization_config`"),
        ("Weights", [SYMMETRIC], weights_config, TypeError, "Mine: after `quantization_config`.*'Weights'"),
    ],
)
def test_three_arguments_are_checked_as_the_marks_are(base, target, methods, make, error, text):
    with pytest.raises(error, match=text):
        define(base, three(target, methods), is_marked=False)(make())


# Parameters that are frozen.


def test_parameters_are_frozen_as_told(base):
    cls = define(base)
    for frozen in (True, False):
        assert cls(weights_config(), frozen).freeze_quant_params is frozen
        assert cls(weights_config(), freeze_quant_params=frozen).freeze_quant_params is frozen


@pytest.mark.parametrize("value", [1, 0, None, "yes", SYMMETRIC, [WEIGHT]])
def test_freezing_is_true_or_false(base, value):
    with pytest.raises(TypeError, match="Mine: after `quantization_config` comes True or False"):
        define(base)(weights_config(), value)


# Variables.


def test_variables_are_kept_by_name_and_group(wing, base):
    quantizer = define(base)(weights_config())
    first, second, third = (variable(wing, value) for value in (1.0, 2.0, 3.0))
    quantizer.add_quantizer_variable("a", first)
    quantizer.add_quantizer_variable("b", second, VariableGroup.QPARAMS)
    assert quantizer.get_quantizer_variable("a") is first
    assert quantizer.get_quantizer_variable("b") is second
    assert set(quantizer.quantizer_parameters) == {"a", "b"}
    assert quantizer.quantizer_parameters["a"][VAR] is first
    assert quantizer.quantizer_parameters["a"][GROUP] is VariableGroup.WEIGHTS
    assert quantizer.quantizer_parameters["b"][GROUP] is VariableGroup.QPARAMS
    quantizer.add_quantizer_variable("a", third, group=VariableGroup.QPARAMS)
    assert quantizer.get_quantizer_variable("a") is third
    assert quantizer.quantizer_parameters["a"][GROUP] is VariableGroup.QPARAMS


@pytest.mark.parametrize("name", ["c", "", None, 5])
def test_an_unknown_variable_is_refused_and_the_known_are_listed(wing, base, name):
    quantizer = define(base)(weights_config())
    quantizer.add_quantizer_variable("b", variable(wing))
    quantizer.add_quantizer_variable("a", variable(wing))
    with pytest.raises(ValueError, match=r"one of \['a', 'b'\], the variables of Mine. Received: name="):
        quantizer.get_quantizer_variable(name)


def test_trainable_variables_are_those_of_the_group_that_train(wing, base):
    quantizer = define(base)(weights_config())
    kept = {name: variable(wing, trainable=name[1] == "t") for name in ("wt", "wf", "qt", "qf")}
    for name, each in kept.items():
        group = VariableGroup.WEIGHTS if name[0] == "w" else VariableGroup.QPARAMS
        quantizer.add_quantizer_variable(name, each, group)
    for group, name in ((VariableGroup.WEIGHTS, "wt"), (VariableGroup.QPARAMS, "qt")):
        found = quantizer.get_trainable_variables(group)
        assert len(found) == 1
        assert found[0] is kept[name]


def test_variables_that_stand_alone_are_parameters_of_the_quantization(wing, base):
    quantizer = define(base)(weights_config())
    alone, frozen, grouped = variable(wing), variable(wing, trainable=False), variable(wing)
    quantizer.quantizer_parameters = {
        "alone": alone,
        "frozen": frozen,
        "grouped": {VAR: grouped, GROUP: VariableGroup.WEIGHTS},
    }
    assert quantizer.get_quantizer_variable("alone") is alone
    assert quantizer.quantizer_parameters["alone"] is alone
    assert quantizer.get_quantizer_variable("grouped") is grouped
    (found,) = quantizer.get_trainable_variables(VariableGroup.QPARAMS)
    assert found is alone
    (found,) = quantizer.get_trainable_variables(VariableGroup.WEIGHTS)
    assert found is grouped


def test_no_variables_are_none_of_either_group(base):
    quantizer = define(base)(weights_config(), True)
    assert quantizer.get_trainable_variables(VariableGroup.QPARAMS) == []
    assert quantizer.get_trainable_variables(VariableGroup.WEIGHTS) == []


@pytest.mark.parametrize("stands_alone", [True, False])
def test_frozen_quantizers_must_not_train_parameters_of_the_quantization(wing, base, stands_alone):
    quantizer = define(base)(weights_config(), True)
    rounding = variable(wing)
    quantizer.add_quantizer_variable("rounding", rounding, VariableGroup.WEIGHTS)
    quantizer.add_quantizer_variable("fixed", variable(wing, trainable=False), VariableGroup.QPARAMS)
    assert quantizer.get_trainable_variables(VariableGroup.QPARAMS) == []
    if stands_alone:
        quantizer.quantizer_parameters["scale"] = variable(wing)
    else:
        quantizer.add_quantizer_variable("scale", variable(wing), VariableGroup.QPARAMS)
    with pytest.raises(ValueError, match=r"`freeze_quant_params` is set, but Mine has.*'scale'"):
        quantizer.get_trainable_variables(VariableGroup.QPARAMS)
    (found,) = quantizer.get_trainable_variables(VariableGroup.WEIGHTS)
    assert found is rounding


# Methods that a class may leave out.


def test_without_a_call_nothing_is_constructed(base):
    class Mute(base):
        def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
            super().__init__(quantization_config)

    with pytest.raises(TypeError, match=r"Mute.*__call__"):
        marked(Mute)(weights_config())
    with pytest.raises(TypeError, match="__call__"):
        base(weights_config())


def test_a_conversion_that_is_not_defined_says_so(base):
    with pytest.raises(NotImplementedError, match="Mine must define `convert2inferable`"):
        define(base)(weights_config()).convert2inferable()


def test_a_quantizer_without_variables_needs_no_initialization(wing, base):
    quantizer = define(base)(weights_config())
    assert quantizer.initialize_quantization((3, 2), "kernel", None) == {}
    kept = variable(wing)
    quantizer.quantizer_parameters = {"a": kept}
    assert quantizer.initialize_quantization(None, None, None)["a"] is kept


# Keras.


@pytest.mark.keras
@pytest.mark.skipif(not HAS_KERAS, reason="Keras is not installed")
class TestKeras:
    @staticmethod
    def quantizer_class(**body):
        return define(wing_base("keras"), **body)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_the_configuration_restores_the_quantizer(self, frozen):
        cls = self.quantizer_class()
        quantizer = cls(weights_config(), frozen)
        config = quantizer.get_config()
        assert config["quantization_config"]["weights_n_bits"] == 4
        assert config["quantization_config"]["is_weights"] is True
        restored = cls.from_config(copy.deepcopy(config))
        assert type(restored) is cls
        assert restored.freeze_quant_params is frozen
        assert restored.get_config() == config
        assert restored.quantization_config is not quantizer.quantization_config

    def test_a_class_without_the_argument_is_saved_while_nothing_is_frozen(self):
        def constructor(self, quantization_config: TrainableQuantizerWeightsConfig):
            super(type(self), self).__init__(quantization_config)

        cls = self.quantizer_class(constructor=constructor)
        assert set(cls(weights_config()).get_config()) == {"quantization_config"}
        assert cls.from_config(cls(weights_config()).get_config()).weights_quantization()

    def test_the_configuration_that_is_read_is_not_changed(self):
        cls = self.quantizer_class()
        config = cls(weights_config(), True).get_config()
        before = copy.deepcopy(config)
        cls.from_config(config)
        assert config == before

    @pytest.mark.parametrize("name", ["whatever", "config"])
    def test_the_first_argument_may_have_any_name_when_read(self, name):
        names: dict = {"TrainableQuantizerWeightsConfig": TrainableQuantizerWeightsConfig}
        exec(
            f"def constructor(self, {name}: TrainableQuantizerWeightsConfig):\n"
            f"    super(type(self), self).__init__({name})",
            names,
        )
        cls = self.quantizer_class(constructor=names["constructor"])
        assert cls.from_config(cls(weights_config()).get_config()).weights_quantization()


# PyTorch: parameters are found where they stand.

if HAS_TORCH:
    import torch
    from torch import nn

    from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper
    from model_compression_toolkit.trainable_infrastructure.pytorch.base_pytorch_quantizer import (
        BasePytorchTrainableQuantizer,
    )

    class _Factor(BasePytorchTrainableQuantizer):
        """Multiplies by a learned factor, whose parameter stands on the layer: told with a group."""

        def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
            super().__init__(quantization_config)

        def initialize_quantization(self, tensor_shape, name, layer):
            layer.register_parameter(f"{name}_factor", nn.Parameter(torch.tensor([2.0])))
            parameter = layer.get_parameter(f"{name}_factor")
            self.add_quantizer_variable("factor", parameter, VariableGroup.QPARAMS)

        def __call__(self, inputs):
            return inputs * self.get_quantizer_variable("factor")

    class _Alone(_Factor):
        """The same, the parameter by itself, as the documents write it."""

        def initialize_quantization(self, tensor_shape, name, layer):
            layer.register_parameter(f"{name}_factor", nn.Parameter(torch.tensor([2.0])))
            self.quantizer_parameters = {"factor": layer.get_parameter(f"{name}_factor")}
            return self.quantizer_parameters

        def __call__(self, inputs):
            return inputs * self.quantizer_parameters["factor"]

    class _Own(_Factor):
        """The same, the parameter on the quantizer itself."""

        def initialize_quantization(self, tensor_shape, name, layer):
            self.factor = nn.Parameter(torch.tensor([2.0]))
            self.add_quantizer_variable("factor", self.factor, VariableGroup.QPARAMS)

    class _Buffer(_Factor):
        """The same, a buffer of the layer."""

        def initialize_quantization(self, tensor_shape, name, layer):
            layer.register_buffer(f"{name}_factor", torch.tensor([2.0]))
            self.add_quantizer_variable("factor", getattr(layer, f"{name}_factor"), VariableGroup.QPARAMS)

    PLACES = {
        _Factor: "{}_factor",
        _Alone: "{}_factor",
        _Own: "{}_quantizer.factor",
        _Buffer: "{}_factor",
    }
    for _cls in PLACES:
        marked(_cls, identifier=_cls.__name__)
    every_place = pytest.mark.parametrize("cls", PLACES, ids=lambda cls: cls.__name__.strip("_"))

    def wrapped(cls):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2, bias=False)
        return PytorchQuantizationWrapper(layer, {"weight": cls(weights_config())})

    def state_name(cls):
        return PLACES[cls].format("weight")

    X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)

    @every_place
    def test_the_variable_of_the_quantizer_is_the_one_of_the_layer(cls):
        wrapper = wrapped(cls)
        quantizer = wrapper.weights_quantizers["weight"]
        state = {**dict(wrapper.named_parameters()), **dict(wrapper.named_buffers())}
        assert quantizer.get_quantizer_variable("factor") is state[state_name(cls)]
        assert state_name(cls) in wrapper.state_dict()
        x = torch.tensor(X)
        torch.testing.assert_close(wrapper(x), x @ (2 * wrapper.weight).T)
        assert len(quantizer.get_trainable_variables(VariableGroup.QPARAMS)) == (cls is not _Buffer)

    @every_place
    def test_functional_calls_reach_the_quantizer(cls):
        wrapper, x = wrapped(cls), torch.tensor(X)
        factor = torch.tensor([5.0], requires_grad=True)
        output = torch.func.functional_call(wrapper, {state_name(cls): factor}, (x,))
        torch.testing.assert_close(output, x @ (5 * wrapper.weight).T)
        (gradient,) = torch.autograd.grad(output.sum(), factor)
        torch.testing.assert_close(gradient, (x @ wrapper.weight.T).sum().reshape(1).detach())
        # Afterwards everything is as before.
        torch.testing.assert_close(wrapper(x), x @ (2 * wrapper.weight).T)
        assert wrapper.weights_quantizers["weight"].get_quantizer_variable("factor").item() == 2

    @every_place
    def test_gradients_of_functional_transforms_reach_the_quantizer(cls):
        wrapper, x = wrapped(cls), torch.tensor(X)

        def loss(factor):
            return torch.func.functional_call(wrapper, {state_name(cls): factor}, (x,)).sum()

        gradient = torch.func.grad(loss)(torch.tensor([3.0]))
        torch.testing.assert_close(gradient, (x @ wrapper.weight.T).sum().reshape(1).detach())

    @every_place
    @pytest.mark.parametrize("way", ["deepcopy", "pickle"])
    def test_copies_have_parameters_of_their_own(cls, way):
        wrapper, x = wrapped(cls), torch.tensor(X)
        wrapper(x)
        twin = copy.deepcopy(wrapper) if way == "deepcopy" else pickle.loads(pickle.dumps(wrapper))
        state = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
        with torch.no_grad():
            state[state_name(cls)].fill_(7.0)
        quantizer = twin.weights_quantizers["weight"]
        assert quantizer.get_quantizer_variable("factor") is state[state_name(cls)]
        torch.testing.assert_close(twin(x), x @ (7 * twin.weight).T)
        torch.testing.assert_close(wrapper(x), x @ (2 * wrapper.weight).T)

    @every_place
    def test_a_parameter_that_is_replaced_is_found(cls):
        wrapper, x = wrapped(cls), torch.tensor(X)
        path, _, attribute = state_name(cls).rpartition(".")
        owner, quantizer = wrapper.get_submodule(path), wrapper.weights_quantizers["weight"]
        # Sharding replaces parameters this way; so does `.to` in some modes.
        if cls is _Buffer:
            setattr(owner, attribute, torch.tensor([4.0]))
        else:
            owner.register_parameter(attribute, nn.Parameter(torch.tensor([4.0])))
        assert quantizer.get_quantizer_variable("factor") is getattr(owner, attribute)
        torch.testing.assert_close(wrapper(x), x @ (4 * wrapper.weight).T)
        if cls is not _Buffer:
            (found,) = quantizer.get_trainable_variables(VariableGroup.QPARAMS)
            assert found is getattr(owner, attribute)
        entry = quantizer.quantizer_parameters["factor"]
        assert (entry if cls is _Alone else entry[VAR]) is getattr(owner, attribute)
        assert cls is _Alone or entry[GROUP] is VariableGroup.QPARAMS

    @every_place
    def test_moving_and_loading_reach_the_quantizer(cls):
        wrapper = wrapped(cls)
        state = {
            name: value if name.endswith("quantization_grid") else torch.full_like(value, 3.0)
            for name, value in wrapper.state_dict().items()
        }
        wrapper.load_state_dict(state)
        assert wrapper.weights_quantizers["weight"].get_quantizer_variable("factor").item() == 3
        wrapper.load_state_dict(
            {name: value if name.endswith("quantization_grid") else value + 1 for name, value in state.items()},
            assign=True,
        )
        assert wrapper.weights_quantizers["weight"].get_quantizer_variable("factor").item() == 4
        wrapper.to("meta")
        assert wrapper.weights_quantizers["weight"].get_quantizer_variable("factor").device.type == "meta"

    @needs_torch
    def test_parameters_of_a_quantizer_stay_float32():
        wrapper = wrapped(_Own).half()
        assert wrapper.weight.dtype is torch.float16
        assert wrapper.weights_quantizers["weight"].get_quantizer_variable("factor").dtype is torch.float32

    def test_two_quantizers_of_one_layer_have_variables_of_their_own():
        layer = nn.Linear(3, 2)
        wrapper = PytorchQuantizationWrapper(
            layer, {"weight": _Factor(weights_config()), "bias": _Alone(weights_config())}
        )
        with torch.no_grad():
            wrapper.weight_factor.fill_(3.0)
        values = {key: item.get_quantizer_variable("factor").item() for key, item in wrapper.weights_quantizers.items()}
        assert values == {"weight": 3, "bias": 2}

    def test_holders_give_the_parameter_too():
        cls = define(
            BasePytorchTrainableQuantizer,
            target=ACTIVATION,
            initialize_quantization=_Factor.initialize_quantization,
            __call__=_Factor.__call__,
        )
        holder = PytorchActivationQuantizationHolder(cls(activation_config()))
        (name,) = dict(holder.named_parameters())
        output = torch.func.functional_call(holder, {name: torch.tensor([3.0])}, (torch.ones(2),))
        assert output.tolist() == [3, 3]
        assert holder(torch.ones(2)).tolist() == [2, 2]

    def test_a_subclass_that_calls_its_parent_keeps_both_variables():
        class Both(_Factor):
            def initialize_quantization(self, tensor_shape, name, layer):
                super().initialize_quantization(tensor_shape, name, layer)
                layer.register_parameter(f"{name}_offset", nn.Parameter(torch.tensor([1.0])))
                self.add_quantizer_variable("offset", layer.get_parameter(f"{name}_offset"))

            def __call__(self, inputs):
                return super().__call__(inputs) + self.get_quantizer_variable("offset")

        wrapper, x = wrapped(marked(Both)), torch.tensor(X)
        replaced = {"weight_factor": torch.tensor([5.0]), "weight_offset": torch.tensor([-3.0])}
        output = torch.func.functional_call(wrapper, replaced, (x,))
        torch.testing.assert_close(output, x @ (5 * wrapper.weight - 3).T)

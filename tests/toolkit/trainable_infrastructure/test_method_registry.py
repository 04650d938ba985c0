# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The open set of training methods: found by name, refused when taken, added by one file."""

import copy
import enum
import importlib.util
import pickle
import re
import sys
import textwrap

import numpy as np
import pytest

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from model_compression_toolkit.qat.common.qat_config import QATConfig
from model_compression_toolkit.trainable_infrastructure.common import training_method
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.methods import method
from model_compression_toolkit.trainable_infrastructure.methods.lsq import LSQ
from model_compression_toolkit.trainable_infrastructure.methods.method import Method, method_class, registered_names
from model_compression_toolkit.trainable_infrastructure.methods.ste import STE

SYMMETRIC = QuantizationMethod.SYMMETRIC
WEIGHTS, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
NAMES = [
    "APOT",
    "DOREFA",
    "DQA",
    "DSQ",
    "EWGS",
    "GRADUAL",
    "LQ_NETS",
    "LSQ",
    "LSQ_PLUS",
    "LUT",
    "PACT",
    "SOFT_ROUNDING",
    "STE",
    "STOCHASTIC",
]
LISTED = re.escape(str(NAMES))


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    monkeypatch.setattr(method, "_METHODS", dict(method._METHODS))
    monkeypatch.setattr(training_method, "_OWN_NAMES", set())


def define(name="TOY", supports=frozenset({SYMMETRIC}), base=STE):
    class Toy(base, name=name, supports=supports):
        pass

    return Toy


def test_built_in_methods_are_found_by_being_there():
    assert registered_names() == NAMES
    assert method_class("LSQ") is LSQ
    assert method_class("STE") is STE


@pytest.mark.parametrize("name", ["NOPE", "lsq", "", None, 5, []])
def test_an_unknown_name_lists_what_exists(name):
    # None in a configuration leaves the choice to the entrance.
    configured = [] if name is None else [lambda n: QATConfig(weight_training_method=n)]
    for ask in (method_class, TrainingMethod, *configured):
        with pytest.raises(ValueError, match=rf"one of {LISTED}\. Received: "):
            ask(name)


def test_a_taken_name_is_refused_and_the_first_class_stays():
    with pytest.raises(ValueError, match=rf"'LSQ' is taken by .*lsq\.LSQ.*{LISTED}"):
        define(name="LSQ")
    assert method_class("LSQ") is LSQ


def test_the_same_class_defined_again_replaces_itself():
    first, second = define(), define()
    assert first is not second
    assert method_class("TOY") is second


def test_a_method_without_grids_is_refused():
    for supports in (None, frozenset()):
        with pytest.raises(ValueError, match=r"`supports`.*'TOY'"):
            define(supports=supports)
    assert "TOY" not in registered_names()


def test_a_class_without_a_name_is_not_registered():
    class Helper(Method):
        pass

    assert registered_names() == NAMES
    assert issubclass(Helper, Method)


def test_a_grid_that_the_method_does_not_train_is_refused():
    toy = define()
    with pytest.raises(ValueError, match=r"TOY trains \['SYMMETRIC'\]. Received: UNIFORM"):
        toy(QuantizationMethod.UNIFORM)
    assert toy(SYMMETRIC).quantization_method is SYMMETRIC


def test_training_method_is_an_open_set_of_names():
    assert TrainingMethod.LSQ == "LSQ" == TrainingMethod("LSQ").value
    assert isinstance(TrainingMethod.STE, TrainingMethod)
    assert list(TrainingMethod) == NAMES
    assert "LSQ" in TrainingMethod
    assert TrainingMethod.LSQ in TrainingMethod
    assert "NOPE" not in TrainingMethod
    define()
    assert TrainingMethod.TOY == "TOY"
    assert list(TrainingMethod) == [*NAMES, "TOY"]


def test_an_unknown_attribute_lists_what_exists():
    with pytest.raises(AttributeError, match=rf"{LISTED}. Received: 'NOPE'"):
        _ = TrainingMethod.NOPE
    assert not hasattr(TrainingMethod, "_private")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_cites_its_source_and_says_what_it_trains(name):
    cls = method_class(name)
    assert cls.supports
    assert cls.targets
    assert cls.supports <= method.GRIDS
    # The one method that no paper defines says so.
    assert re.search(r"arXiv:\d{4}\.\d{5}", cls.__doc__)
    assert name == "DQA" or "(" in cls.__doc__


def test_targets_that_a_method_does_not_train_are_refused():
    for name in ("SOFT_ROUNDING", "STOCHASTIC"):
        with pytest.raises(ValueError, match=rf"{name} trains \['Weights'\]. Received: Activation"):
            method_class(name)(SYMMETRIC, ACTIVATION)


def test_a_name_of_ones_own_is_registered_once_and_for_all():
    assert "OWN" not in TrainingMethod
    own = TrainingMethod.register("OWN")
    assert own == "OWN" == own.value
    assert isinstance(own, TrainingMethod)
    assert TrainingMethod.OWN == TrainingMethod("OWN") == TrainingMethod.register("OWN") == own
    assert "OWN" in TrainingMethod
    assert list(TrainingMethod) == sorted([*NAMES, "OWN"])
    assert QATConfig("OWN").weight_training_method == own
    # It is no method: nothing is trained with it alone.
    assert registered_names() == NAMES


def test_the_name_of_a_method_may_be_registered_and_stays_what_it_is():
    assert TrainingMethod.register("LSQ") == TrainingMethod.LSQ
    assert list(TrainingMethod) == NAMES
    define("LATER")
    assert TrainingMethod.register("LATER") == "LATER"
    assert list(TrainingMethod).count("LATER") == 1


@pytest.mark.parametrize("name", [None, 3, b"OWN", ["OWN"], QuantizationMethod.UNIFORM])
def test_a_name_that_is_no_string_is_refused(name):
    with pytest.raises(TypeError, match=r"`name` must be a string\. Received: name="):
        TrainingMethod.register(name)


@pytest.mark.parametrize("name", ["", "two words", "1ST", "_OWN", "a-b", "upper", "format", "register", "value"])
def test_a_name_that_could_not_be_an_attribute_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"Received: name={name!r}")):
        TrainingMethod.register(name)
    assert list(TrainingMethod) == NAMES


def test_training_method_survives_pickle_and_deepcopy():
    for twin in (pickle.loads(pickle.dumps(TrainingMethod.LSQ)), copy.deepcopy(TrainingMethod.LSQ)):
        assert twin == TrainingMethod.LSQ
        assert isinstance(twin, TrainingMethod)


TOY_FILE = '''
"""A scale that drifts towards the largest magnitude of what it quantizes."""
from mct_quantizers.common.quant_info import QuantizationMethod
from model_compression_toolkit.trainable_infrastructure import Learned, Method


class Toy(Method, name="TOY", supports={QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM}):
    """Learns the ratio to the calibrated scale, on a scale of its own."""

    def parameters(self, params, x_shape):
        return {**self.grid(params, trainable=False), "ratio": Learned(0 * params.scale.astype("float32") + 1)}

    def quantize(self, x, learned, params, ops):
        scale = self.effective_scale(learned["scale"] * learned["ratio"], ops)
        zero_point = learned.get("zero_point")
        return ops.fake_quantize_learned(x, scale, zero_point, params.quant_min, params.quant_max, gradient_factor=0.1)

    def freeze(self, learned, params):
        return super().freeze({"scale": learned["scale"] * learned["ratio"]}, params)
'''


@pytest.fixture
def toy_file(tmp_path, monkeypatch):
    """A method in one file of the user's."""
    path = tmp_path / "toy_method.py"
    path.write_text(textwrap.dedent(TOY_FILE), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("toy_method", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy_method", module)
    spec.loader.exec_module(module)
    return module


def test_a_method_in_one_file_is_found_trains_and_finalizes(toy_file):
    torch = pytest.importorskip("torch")
    import model_compression_toolkit as mct

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    data = torch.randn(64, 4)
    target = torch.stack([data.sum(dim=1), data[:, 0] * data[:, 1]], dim=1)
    config = QATConfig(weight_training_method="TOY", activation_training_method=TrainingMethod.TOY)
    prepared = mct.prepare_qat(model, data, mct.QuantizationConfig.from_bits("w4a4"), config)
    ratios = [parameter for name, parameter in prepared.named_parameters() if name.endswith("ratio")]
    assert len(ratios) == 4
    optimizer = torch.optim.Adam(prepared.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (prepared(data) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(not torch.equal(ratio, torch.ones_like(ratio)) for ratio in ratios)
    final = mct.finalize(prepared)
    assert torch.equal(final(data), prepared.eval()(data))


def test_a_method_in_one_file_says_what_it_cannot_train(toy_file):
    torch = pytest.importorskip("torch")
    import model_compression_toolkit as mct

    weights = mct.TensorConfig(method=QuantizationMethod.POWER_OF_TWO)
    with pytest.raises(ValueError, match=r"TOY trains \['SYMMETRIC', 'UNIFORM'\]. Received: POWER_OF_TWO"):
        mct.prepare_qat(
            torch.nn.Sequential(torch.nn.Linear(4, 4)),
            torch.randn(8, 4),
            mct.QuantizationConfig(weights=weights),
            QATConfig(weight_training_method="TOY"),
        )


class OwnMethods(enum.Enum):
    """The user's own training methods."""

    ROUNDED = "rounded"
    UNUSED = "unused"


@pytest.fixture
def own_quantizer(monkeypatch):
    """A quantizer class of the user's, marked with a name of the user's."""
    torch = pytest.importorskip("torch")
    from mct_quantizers import QuantizationTarget, mark_quantizer
    from mct_quantizers.pytorch.quantizers import WeightsSymmetricInferableQuantizer
    from model_compression_toolkit.trainable_infrastructure import (
        BasePytorchTrainableQuantizer,
        TrainableQuantizerWeightsConfig,
    )

    made = []

    def make(identifier):
        class Rounded(BasePytorchTrainableQuantizer):
            def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, digits: int = 1):
                super().__init__(quantization_config)
                self.digits = digits
                made.append(self)

            def __call__(self, inputs):
                return inputs + (torch.round(inputs, decimals=self.digits) - inputs).detach()

            def convert2inferable(self):
                config = self.quantization_config
                threshold = config.weights_quantization_params["threshold"]
                return WeightsSymmetricInferableQuantizer(
                    config.weights_n_bits, np.ravel(threshold), config.weights_per_channel_threshold, 0
                )

        return mark_quantizer(QuantizationTarget.Weights, [SYMMETRIC], identifier)(Rounded)

    return make, made


def prepared_with(config):
    torch = pytest.importorskip("torch")
    import model_compression_toolkit as mct

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    return mct.prepare_qat(model, torch.randn(8, 4), None, config)


@pytest.mark.filterwarnings("ignore:Rounded is defined more than once")
@pytest.mark.parametrize("form", ["registered", "enumeration"])
def test_own_quantizers_are_found_by_a_name_or_a_member_of_an_enumeration(own_quantizer, form):
    make, made = own_quantizer
    identifier = TrainingMethod.register("ROUNDED") if form == "registered" else OwnMethods.ROUNDED
    cls = make(identifier)
    prepared = prepared_with(QATConfig(identifier, "STE", {"digits": 2}))
    assert [type(item) for item in made] == [cls]
    assert made[0].digits == 2
    wrapper = next(module for module in prepared.modules() if hasattr(module, "get_quantized_weights"))
    weight = wrapper.get_quantized_weights()["weight"].detach().numpy()
    np.testing.assert_allclose(weight, np.round(weight, 2), rtol=0, atol=1e-7)
    assert len(np.unique(weight)) > 3


def test_a_name_without_a_quantizer_class_says_what_exists():
    for identifier in (TrainingMethod.register("NOBODY"), OwnMethods.UNUSED):
        with pytest.raises(ValueError, match=r"Expected one trainable quantizer for .*Received: \[\] of \[.*LSQ"):
            prepared_with(QATConfig(identifier))


@pytest.mark.parametrize("target", ["weight", "activation"])
def test_settings_of_a_method_come_from_the_configuration(target):
    settings = {"temperature": 2.5, "steps": 17}
    config = QATConfig("DQA", "DQA", **{f"{target}_quantizer_params_override": settings})
    prepared = prepared_with(config)
    found = {
        item.quantization_target: item.method
        for item in prepared.modules()
        if isinstance(getattr(item, "method", None), Method)
    }
    ours, others = (WEIGHTS, ACTIVATION) if target == "weight" else (ACTIVATION, WEIGHTS)
    assert (found[ours].temperature, found[ours].steps, found[ours].penalty) == (2.5, 17, 0.1)
    assert (found[others].temperature, found[others].steps) == (10.0, 1000)


def test_parameters_stay_as_calibrated_when_the_configuration_says_so():
    prepared = prepared_with(QATConfig("LSQ", "LSQ", {"freeze_quant_params": True}, {"freeze_quant_params": True}))
    assert {name.rpartition(".")[2] for name, _ in prepared.named_parameters()} == {"weight", "bias"}


@pytest.mark.parametrize(("config", "error", "text"), [
    (("LSQ", "LSQ", {"steps": 3}), TypeError, "'steps'"),
    (("LSQ", "DQA", None, {"step": 3}), TypeError, "'step'"),
    (("DQA", "LSQ", {"steps": "many"}), TypeError, "`steps` must be an integer. Received: steps='many'"),
    (("DQA", "LSQ", {"steps": 0}), ValueError, "`steps` must be at least 1. Received: steps=0"),
    (("STE", "EWGS", None, {"factor": None}), TypeError, "`factor` must be a number. Received: factor=None"),
    (("GRADUAL", "STE", {"arguments": {"nope": 1}}), TypeError, "'nope'"),
    (("GRADUAL", "STE", {"arguments": 3}), TypeError, "`arguments` must be .*Received: arguments=3"),
    (("STE", "SOFT_ROUNDING"), ValueError, r"SOFT_ROUNDING trains \['Weights'\]. Received: Activation"),
    (("LSQ_PLUS", "STE"), ValueError, r"LSQ_PLUS trains \['UNIFORM'\]. Received: SYMMETRIC"),
    (("LSQ", "LSQ", {"freeze_quant_params": 1}), TypeError, "True or False"),
])  # fmt: skip
def test_wrong_settings_are_refused_by_name(config, error, text):
    with pytest.raises(error, match=text):
        prepared_with(QATConfig(*config))


@pytest.mark.parametrize("override", [3, "steps", [("steps", 3)], {3: 4}, {None: 1}])
@pytest.mark.parametrize("name", ["weight_quantizer_params_override", "activation_quantizer_params_override"])
def test_overrides_are_dictionaries_of_names(name, override):
    with pytest.raises(TypeError, match=f"`{name}` must be a dictionary with names as keys. Received: "):
        QATConfig(**{name: override})

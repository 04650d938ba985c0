# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The open set of training methods: found by name, refused when taken, added by one file."""

import copy
import importlib.util
import pickle
import sys
import textwrap

import pytest

from mct_quantizers.common.quant_info import QuantizationMethod
from model_compression_toolkit.qat.common.qat_config import QATConfig
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.methods import method
from model_compression_toolkit.trainable_infrastructure.methods.lsq import LSQ
from model_compression_toolkit.trainable_infrastructure.methods.method import Method, method_class, registered_names
from model_compression_toolkit.trainable_infrastructure.methods.ste import STE

SYMMETRIC = QuantizationMethod.SYMMETRIC


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    monkeypatch.setattr(method, "_METHODS", dict(method._METHODS))


def define(name="TOY", supports=frozenset({SYMMETRIC}), base=STE):
    class Toy(base, name=name, supports=supports):
        pass

    return Toy


def test_built_in_methods_are_found_by_being_there():
    assert registered_names() == ["LSQ", "STE"]
    assert method_class("LSQ") is LSQ
    assert method_class("STE") is STE


@pytest.mark.parametrize("name", ["NOPE", "lsq", "", None, 5, []])
def test_an_unknown_name_lists_what_exists(name):
    for ask in (method_class, TrainingMethod, lambda n: QATConfig(weight_training_method=n)):
        with pytest.raises(ValueError, match=r"one of \['LSQ', 'STE'\]\. Received: "):
            ask(name)


def test_a_taken_name_is_refused_and_the_first_class_stays():
    with pytest.raises(ValueError, match=r"'LSQ' is taken by .*lsq\.LSQ.*\['LSQ', 'STE'\]"):
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

    assert registered_names() == ["LSQ", "STE"]
    assert issubclass(Helper, Method)


def test_a_grid_that_the_method_does_not_train_is_refused():
    toy = define()
    with pytest.raises(ValueError, match=r"TOY trains \['SYMMETRIC'\]. Received: UNIFORM"):
        toy(QuantizationMethod.UNIFORM)
    assert toy(SYMMETRIC).quantization_method is SYMMETRIC


def test_training_method_is_an_open_set_of_names():
    assert TrainingMethod.LSQ == "LSQ" == TrainingMethod("LSQ").value
    assert isinstance(TrainingMethod.STE, TrainingMethod)
    assert list(TrainingMethod) == ["LSQ", "STE"]
    assert "LSQ" in TrainingMethod
    assert TrainingMethod.LSQ in TrainingMethod
    assert "NOPE" not in TrainingMethod
    define()
    assert TrainingMethod.TOY == "TOY"
    assert list(TrainingMethod) == ["LSQ", "STE", "TOY"]


def test_an_unknown_attribute_lists_what_exists():
    with pytest.raises(AttributeError, match=r"\['LSQ', 'STE'\]. Received: 'NOPE'"):
        _ = TrainingMethod.NOPE
    assert not hasattr(TrainingMethod, "_private")


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

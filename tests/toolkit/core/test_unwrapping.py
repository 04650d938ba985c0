# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The quantized model is found inside of what a training puts around it, or the error says what to pass."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import model_compression_toolkit as mct
from model_compression_toolkit.core.pytorch.unwrapping import unwrapped

torch.manual_seed(0)
X = torch.rand(16, 3, 6, 6)
NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


@pytest.fixture(scope="module", params=["graph", "modules"])
def prepared(request):
    model = mct.prepare_qat(NETWORK, X, mct.QuantizationConfig.from_bits("w4a4", capture=request.param))
    model(X)
    return model


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Holds(nn.Module):
    """A module as a training library makes them: the network, a loss, a step."""

    def __init__(self, model):
        super().__init__()
        self.network, self.loss = model, nn.MSELoss()

    def forward(self, x):
        return self.network(x)


def compiled(model):
    return torch.compile(model, backend="eager")


AROUND = {
    "DistributedDataParallel": DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "compile": compiled,
    "several": lambda model: nn.DataParallel(compiled(AveragedModel(model))),
}


@pytest.mark.parametrize("around", AROUND)
def test_what_passes_on_is_looked_through(around, prepared, group, tmp_path):
    expected = mct.finalize(prepared)
    model = AROUND[around](copy.deepcopy(prepared))
    assert mct.plan_of(model) == mct.plan_of(prepared)
    assert mct.regularization_loss(model) == 0
    mct.freeze_batch_norm_statistics(model)
    assert all(not module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert torch.equal(mct.finalize(model)(X), expected(X))
    if around != "DistributedDataParallel":  # which takes models with something to train
        frozen = AROUND[around](expected)
        mct.export(frozen, tmp_path / "model.safetensors", quiet=True)
        assert torch.equal(mct.load(tmp_path / "model.safetensors", NETWORK)(X), expected(X))


def test_a_module_that_may_compute_more_is_told_what_to_pass(prepared, tmp_path):
    model = Holds(copy.deepcopy(prepared))
    assert mct.plan_of(model) == mct.plan_of(prepared)
    mct.freeze_batch_norm_statistics(model)
    with pytest.raises(ValueError, match=r"Received: a Holds around it.*pass `model\.network`"):
        mct.finalize(model)
    with pytest.raises(ValueError, match=r"pass `model\.network`"):
        mct.export(Holds(mct.finalize(prepared)), tmp_path / "model.safetensors")
    losses = mct.fine_tune(model, NETWORK, X, settings=mct.FineTuning(epochs=1, batch_size=8))
    assert torch.isfinite(torch.tensor(losses)).all()
    assert unwrapped(model.network) is model.network


def test_of_several_models_one_must_be_passed(prepared):
    model = nn.ModuleDict({"student": copy.deepcopy(prepared), "average": AveragedModel(prepared)})
    for function in (mct.plan_of, mct.finalize):
        with pytest.raises(ValueError, match=r"'model\.student', 'model\.average\.module'"):
            function(model)


def test_parts_and_models_that_are_not_quantized_are_refused(prepared):
    layer = mct.plan_of(prepared).quantized()[-1].site.layer
    with pytest.raises(ValueError, match="with a part of one"):
        mct.finalize(nn.Sequential(prepared.get_submodule(layer if layer in dict(prepared.named_modules()) else "0")))
    changed = copy.deepcopy(prepared)
    changed.set_submodule("4", compiled(changed.get_submodule("4")))
    assert mct.plan_of(changed) == mct.plan_of(prepared)
    with pytest.raises(ValueError, match="layers that something stands around"):
        mct.finalize(changed)
    for function in (mct.plan_of, mct.finalize, mct.freeze_batch_norm_statistics):
        with pytest.raises(ValueError, match="one without a plan"):
            function(NETWORK)
    with pytest.raises(ValueError, match="one without a plan"):
        mct.fine_tune(copy.deepcopy(NETWORK), NETWORK, X)


def test_finalizing_in_place_changes_the_model_inside(prepared):
    model = copy.deepcopy(prepared)
    final = mct.qat.pytorch_quantization_aware_training_finalize_experimental(nn.DataParallel(model))
    assert final is model


class KeepsMap(nn.Module):
    """Keeps a result of the pass on itself, and cannot be traced."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.map = nn.Linear(8, 8), nn.Linear(8, 8), None

    def forward(self, x):
        h = self.a(x)
        self.map = h.softmax(-1)
        return self.b(h if h.sum() < 1e9 else self.map)


def test_models_that_keep_results_on_themselves_are_prepared_and_finalized():
    model, x = KeepsMap(), torch.rand(16, 8)
    model(x)
    prepared = mct.prepare_qat(model, x)
    prepared(x).sum().backward()
    kept = prepared.map
    final = mct.finalize(prepared)
    assert prepared.map is kept
    assert torch.equal(final(x), prepared.eval()(x))
    assert mct.quantize(model, x)(x).shape == (16, 8)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that layers share: their names, their bytes, their files."""

import copy
import json

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.common.report import plan_totals

IDS = torch.randint(0, 50, (8, 6), generator=torch.Generator().manual_seed(0))


class LanguageModel(nn.Module):
    """Ties its embeddings and names them, as models of transformers do; cannot be traced."""

    _tied_weights_keys = {"head.weight": "embedding.weight", "head.bias": "bias"}  # noqa: RUF012  # as there

    def __init__(self, tied=True):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.middle, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 50)
        self.bias = nn.Parameter(torch.randn(50))
        self.head.bias = self.bias
        if tied:
            self.head.weight = self.embedding.weight
        self.all_tied_weights_keys = dict(self._tied_weights_keys)

    def forward(self, ids):
        h = self.middle(self.embedding(ids)).relu()
        return self.head(h if ids.sum() >= 0 else -h)


def prepared(model=None):
    return mct.prepare_qat(model or LanguageModel(), IDS)


def test_the_names_of_tied_weights_follow_the_wrappers():
    model = LanguageModel()
    twin = prepared(model)
    names = twin.all_tied_weights_keys
    assert names == {"head.layer.weight": "embedding.weight", "head.layer.layer.bias": "bias"}
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    assert all(parameters[key] is parameters[value] for key, value in names.items())
    # As patterns they stand for these names alone, not for what begins like them.
    assert twin._tied_weights_keys == {
        r"head\.layer\.weight$": r"embedding\.weight$",
        r"head\.layer\.layer\.bias$": r"bias$",
    }
    assert model.all_tied_weights_keys == model._tied_weights_keys == LanguageModel._tied_weights_keys
    assert "_tied_weights_keys" not in vars(model)
    final = mct.finalize(twin)
    assert final.all_tied_weights_keys == names
    assert final._tied_weights_keys == twin._tied_weights_keys


def test_a_list_of_names_follows_too():
    class Older(LanguageModel):
        _tied_weights_keys = ("head.weight", r"other\.\d+")

        def __init__(self):
            nn.Module.__init__(self)
            self.embedding, self.middle, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 50)
            self.head.weight = self.embedding.weight

    assert prepared(Older())._tied_weights_keys == ["head.layer.weight", r"other\.\d+"]


def test_a_checkpoint_that_has_tied_weights_once_gives_the_same_model(tmp_path):
    source, fresh = prepared(), prepared()
    with torch.no_grad():
        source.embedding.weight.mul_(1.5)
    state = {key: value for key, value in source.state_dict().items() if key not in source.all_tied_weights_keys}
    # Refuses memory that two names share.
    safetensors.torch.save_file(state, tmp_path / "checkpoint.safetensors")
    lacking = fresh.load_state_dict(safetensors.torch.load_file(tmp_path / "checkpoint.safetensors"), strict=False)
    assert sorted(lacking.missing_keys) == sorted(source.all_tied_weights_keys)
    assert torch.equal(fresh.eval()(IDS), source.eval()(IDS))


@pytest.mark.parametrize("capture", ["graph", "modules"])
def test_tied_weights_are_stored_and_counted_once(capture, tmp_path):
    class Plain(LanguageModel):
        def forward(self, ids):
            return self.head(self.middle(self.embedding(ids)).relu())

    config, sizes, elements = mct.QuantizationConfig(capture=capture), {}, 50 * 16
    for tied in (True, False):
        model = Plain(tied)
        frozen = mct.quantize(model, IDS, config)
        report = mct.export(frozen, tmp_path / "model.safetensors", verify=IDS, quiet=True)
        assert report.parity.passed
        assert torch.equal(mct.load(tmp_path / "model.safetensors", model)(IDS), frozen(IDS))
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            stored = [key for key in file.keys() if key.endswith("weight.codes")]
            sizes[tied] = sum(file.get_tensor(key).numel() for key in stored)
        plan = mct.plan_of(frozen)
        assert plan.weight_bytes == report.parity.weight_bytes == sizes[tied]
        assert plan_totals(plan)["compression"] == 4.0
        assert sum(tensor.num_elements for tensor in plan.tensors if tensor.is_weight) == sizes[tied]
        assert QuantizationPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert sizes[False] - sizes[True] == elements


def test_tied_weights_on_grids_that_differ_are_stored_each(tmp_path):
    model = LanguageModel()
    twin = prepared(model)
    with torch.no_grad():
        twin.embedding.weight_quantizer.scale.mul_(1.7)
    final = mct.finalize(twin)
    report = mct.export(final, tmp_path / "model.safetensors", verify=IDS, quiet=True)
    assert report.parity.passed
    assert torch.equal(mct.load(tmp_path / "model.safetensors", model)(IDS), final(IDS))
    plan = mct.plan_of(final)
    assert plan["head.weight"].site.tied_to == "embedding.weight"
    assert plan.weight_bytes == 2 * 50 * 16 + 16 * 16
    assert plan_totals(plan)["compression"] == pytest.approx(4 * (50 * 16 + 16 * 16) / plan.weight_bytes)


def test_weights_that_freezing_has_parted_are_tied_no_more():
    twin = mct.prepare_qat(LanguageModel(), IDS, None, mct.QATConfig("SOFT_ROUNDING", "LSQ"))
    final = mct.finalize(twin)
    assert final.head.layer.weight is not final.embedding.weight
    assert not any(tensor.site.tied_to for tensor in mct.plan_of(final).tensors)
    assert list(final.all_tied_weights_keys) == ["head.layer.layer.bias"]


def test_float_tensors_under_several_names_are_stored_once(tmp_path):
    model = LanguageModel()
    config = mct.QuantizationConfig(filter=lambda name, type_name: name == "middle")
    frozen = mct.quantize(model, IDS, config)
    mct.export(frozen, tmp_path / "model.safetensors", quiet=True)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        shapes = [tuple(file.get_tensor(key).shape) for key in file.keys()]
    assert shapes.count((50, 16)) == 1
    assert shapes.count((50,)) == 1
    assert torch.equal(mct.load(tmp_path / "model.safetensors", model)(IDS), frozen(IDS))


class ReadsItsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.middle = nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(self, ids):
        _ = self.middle.weight.shape, self.middle.weight.size(1)  # reads no values
        return functional.linear(self.middle(self.embedding(ids)).relu(), self.embedding.weight)


@pytest.mark.parametrize("capture", ["graph", "modules"])
def test_a_weight_that_is_read_as_a_tensor_too_comes_back_as_it_was(capture, tmp_path):
    model, ids = ReadsItsWeight().eval(), IDS % 20
    frozen = mct.quantize(model, ids, mct.QuantizationConfig.from_bits("w4a8", first_last_bits=None, capture=capture))
    report = mct.export(frozen, tmp_path / "model.safetensors", verify=ids, quiet=True)
    assert report.parity.passed
    assert torch.equal(mct.load(tmp_path / "model.safetensors", model)(ids), frozen(ids))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        # A graph reads the whole tensor for its shape.
        assert capture == "graph" or "middle.weight.codes" in file.keys()
    assert torch.equal(copy.deepcopy(frozen)(ids), frozen(ids))

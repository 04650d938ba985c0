# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Models with arguments that the data gives by position, by name, in lists, or not at all."""

import copy
import pickle
from collections import UserDict

import pytest
import torch
from toolkit_models import random
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import model_compression_toolkit as mct
from model_compression_toolkit.core.pytorch.argument_forms import from_json, to_json
from model_compression_toolkit.core.pytorch.arguments import positional_batch
from model_compression_toolkit.core.pytorch.data import KeywordBatch

GRAPH, MODULES = mct.CaptureMode.GRAPH, mct.CaptureMode.MODULES


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)


class Masked(Base):
    def forward(self, x, mask=None, scale=1.0):
        y = self.b(torch.relu(self.a(x))) * scale
        return y if mask is None else y * mask


class Flag(Base):
    def forward(self, x, features=False):
        h = torch.relu(self.a(x))
        return (self.b(h), h) if features else self.b(h)


class Lists(Base):
    def forward(self, xs, more=None):
        return self.b(self.a(xs[0]) + self.a(xs[1]) + self.a(more["x"]))


class KeywordOnly(Base):
    def forward(self, *, x, mask=None):
        y = self.b(self.a(x))
        return y if mask is None else y * mask


X, MASK = random(16, 8), torch.linspace(0, 1, 16).unsqueeze(1)


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (Masked, (X,)),
        (Masked, (X, None)),
        (Masked, (X, MASK)),
        (Masked, (X, MASK, 2.0)),
        (Masked, {"x": X}),
        (Masked, {"mask": MASK, "x": X}),
        (Masked, {"scale": 3, "x": X}),
        (Masked, UserDict({"x": X, "mask": MASK})),
        (Flag, (X,)),
        (Flag, (X, True)),
        (Lists, ([X, 2 * X], {"x": 3 * X})),
        (Lists, {"xs": (X, 2 * X), "more": {"x": X}}),
        (KeywordOnly, {"x": X}),
        (KeywordOnly, {"x": X, "mask": MASK}),
    ],
)
@pytest.mark.parametrize("mode", [GRAPH, MODULES])
def test_a_model_is_quantized_with_the_arguments_that_the_data_gives(model, batch, mode):
    net = model().eval()
    quantized = mct.finalize(mct.prepare_qat(net, [batch], mct.QuantizationConfig(capture=mode)))

    def run(either):
        results = either(**batch) if isinstance(batch, (dict, UserDict)) else either(*batch)
        return results if isinstance(results, tuple) else (results,)

    for found, expected in zip(run(quantized), run(net), strict=True):
        assert (found - expected).norm() < 0.02 * expected.norm()
    assert mct.plan_of(quantized).capture is mode


def test_arguments_without_names_of_their_own_are_given():
    class Variadic(Base):
        def forward(self, *xs, factor=1.0, **others):
            return self.b(self.a(xs[0]) + self.a(xs[1])) * factor

    net = Variadic().eval()
    quantized = mct.quantize(net, [(X, 2 * X)])
    assert mct.plan_of(quantized).capture is GRAPH
    assert (quantized(X, 2 * X) - net(X, 2 * X)).norm() < 0.02 * net(X, 2 * X).norm()
    for arguments in ((X,), (X, X, X)):
        with pytest.raises(ValueError, match="a tuple of 2 as 'xs'"):
            quantized(*arguments)
    with pytest.raises(TypeError, match="another"):
        quantized(X, X, another=X)


def test_other_names_than_those_of_forward_are_passed_on():
    class Passes(Base):
        def forward(self, x, **others):
            return self.b(self.a(x) + others["y"])

    net = Passes().eval()
    quantized = mct.quantize(net, [{"x": X, "y": X}])
    assert mct.plan_of(quantized).capture is GRAPH
    assert (quantized(X, y=X) - net(X, y=X)).norm() < 0.02 * net(X, y=X).norm()


@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat])
def test_an_argument_that_was_left_out_is_refused_by_name(call):
    quantized = call(Masked(), X).eval()
    assert mct.plan_of(quantized).capture is GRAPH
    assert torch.equal(quantized(X), quantized(x=X))
    assert torch.equal(quantized(X), quantized(X, None, 1.0))
    for again in (quantized, copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        with pytest.raises(ValueError, match=r"with mask=None\. Received: a tensor as 'mask'\. Give 'mask' in `data`"):
            again(X, MASK)
        with pytest.raises(ValueError, match=r"with scale=1\.0\. Received: scale=2\.0.*capture='modules'"):
            again(X, scale=2.0)


def test_an_argument_that_was_given_is_wanted():
    quantized = mct.quantize(Masked(), [(X, MASK)])
    with pytest.raises(ValueError, match=r"with a tensor as 'mask'\. Received: mask=None"):
        quantized(X)
    quantized = mct.quantize(Lists(), [([X, X], {"x": X})])
    with pytest.raises(ValueError, match=r"with a list of 2 as 'xs'\. Received: a list of 3 as 'xs'"):
        quantized([X, X, X], {"x": X})


def test_module_by_module_an_argument_may_be_given_later():
    quantized = mct.quantize(Masked(), X, mct.QuantizationConfig(capture="modules"))
    assert torch.equal(quantized(X, MASK), quantized(X) * MASK)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ({"x": X, "labels": MASK}, r"takes no \['labels'\]\. It takes \['x', 'mask', 'scale'\]"),
        ({"mask": MASK}, r"needs \['x'\]"),
    ],
)
def test_names_that_the_model_does_not_take_are_told(batch, text):
    with pytest.raises(ValueError, match=text):
        mct.quantize(Masked(), [batch])


def test_a_tuple_that_fills_optional_arguments_is_noted():
    labelled = DataLoader(TensorDataset(X, MASK), 8)
    note = "each batch of `data` is passed by position, as x, mask; a dictionary is passed by name"
    assert mct.plan_of(mct.quantize(Masked(), labelled)).notes == (note,)
    assert mct.plan_of(mct.quantize(Masked(), X)).notes == ()
    assert mct.plan_of(mct.quantize(Masked(), [{"x": X, "mask": MASK}])).notes == ()


@pytest.mark.parametrize("batch", [(X,), (X, MASK), {"x": X, "scale": 2.0}], ids=["left out", "given", "number"])
def test_a_file_is_loaded_with_the_arguments_of_its_model(batch, tmp_path):
    quantized = mct.quantize(Masked(), [batch])
    path = tmp_path / "model.safetensors"
    mct.export(quantized, path, quiet=True)
    loaded = mct.load(path, Masked())
    assert mct.plan_of(loaded) == mct.plan_of(quantized)
    run = (lambda model: model(**batch)) if isinstance(batch, dict) else (lambda model: model(*batch))
    assert torch.equal(run(loaded), run(quantized))


def test_the_form_of_an_argument_survives_json():
    form = {"xs": [torch.Tensor, (torch.Tensor, None, 2.0)], "y": {"a": torch.Tensor, "b": "word"}, "n": True}
    assert {name: from_json(to_json(value)) for name, value in form.items()} == form


def test_named_arguments_are_passed_by_position_to_files():
    net = Masked()
    assert positional_batch(net, KeywordBatch({"mask": MASK, "x": X})) == (X, MASK)
    assert positional_batch(net, (X, None, 1.0)) == (X,)
    with pytest.raises(ValueError, match="mask=None"):
        positional_batch(net, (X, None, 2.0))
    with pytest.raises(ValueError, match="a tensor as 'x'"):
        positional_batch(KeywordOnly(), KeywordBatch({"x": X}))


class CalledByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(input=torch.relu(self.norm(input=self.conv(input=x))).mean(dim=2))


class CalledByPosition(CalledByKeyword):
    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean(dim=2))


@pytest.mark.parametrize("mode", [GRAPH, MODULES])
def test_layers_that_are_called_by_keyword_are_quantized_as_by_position(mode):
    x = random(16, 3, 9)
    net, config = CalledByKeyword().eval(), mct.QuantizationConfig(capture=mode)
    prepared = mct.prepare_qat(net, x, config)
    final = mct.finalize(prepared)
    prepared(x).sum().backward()
    assert {tensor.site.layer for tensor in mct.plan_of(final).quantized() if tensor.is_weight} == {"conv", "head"}
    by_position = mct.plan_of(
        mct.finalize(mct.prepare_qat(CalledByPosition(), x, mct.QuantizationConfig(capture=mode)))
    )
    assert [tensor.name for tensor in mct.plan_of(final).quantized()] == [
        tensor.name for tensor in by_position.quantized()
    ]
    assert (final(x) - net(x)).norm() < 0.03 * net(x).norm()

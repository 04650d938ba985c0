# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Prepared models leave ReLUs to the quantizers behind them, and compute what they computed."""

import copy
import io
import operator

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from mct_quantizers.pytorch.native.library import native_library
from mct_quantizers.pytorch.pending import Pending

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two convolutions whose ReLU a test supplies."""

    def __init__(self, relu, join=operator.add):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.join, self.end = relu, join, nn.Linear(4, 2)

    def forward(self, x):
        first = self.relu(self.norm1(self.first(x)))
        second = self.relu(self.join(self.norm2(self.second(first)), first))
        return self.end(second.mean((2, 3)))


class Seen(nn.Module):
    """The input of a ReLU is used again, and changed."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.end = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.norm(self.first(x))
        y = functional.relu(x)
        x.add_(1.0)
        return self.end(y + x)


class Twice(nn.Module):
    """One module that once stands before a quantizer, and once after a view."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.end = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.end(self.relu(x.transpose(2, 3)))


def prepared(model):
    torch.manual_seed(0)
    return mct.prepare_qat(model, IMAGES, mct.QuantizationConfig.from_bits("w4a4"))


def pending_in(model, monkeypatch):
    """How many ReLUs are left to quantizers in a step, and how many of them are computed after all."""
    made = []
    original = Pending.of.__func__
    monkeypatch.setattr(
        Pending, "of", classmethod(lambda cls, *arguments: made.append(original(cls, *arguments)) or made[-1])
    )
    model(IMAGES).sum().backward()
    monkeypatch.undo()
    return len(made), sum(not relu.is_pending for relu in made)


def step(model):
    model.zero_grad()
    output = model(IMAGES)
    output.square().sum().backward()
    return output, {name: parameter.grad for name, parameter in model.named_parameters()}


CASES = {
    "function": lambda: Net(functional.relu),
    "function of torch": lambda: Net(torch.relu),
    "in place": lambda: Net(lambda x: functional.relu(x, inplace=True)),
    "addition in place": lambda: Net(functional.relu, operator.iadd),
    "module": lambda: Net(nn.ReLU()),
    "module in place": lambda: Net(nn.ReLU(inplace=True)),
    "up to six": lambda: Net(nn.ReLU6()),
    "function up to six": lambda: Net(functional.relu6),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.skipif(native_library() is None, reason="there is no C++ compiler")
def test_relus_between_a_layer_and_a_holder_are_left_to_the_quantizer(name, monkeypatch):
    torch.manual_seed(0)
    assert pending_in(prepared(CASES[name]()), monkeypatch) == (2, 0)


@pytest.mark.parametrize("make", [Seen, Twice], ids=["seen by others", "behind a view too"])
def test_other_relus_stay(make, monkeypatch):
    torch.manual_seed(0)
    assert pending_in(prepared(make()), monkeypatch) == (0, 0)


@pytest.mark.parametrize("name", [*CASES, "seen", "twice"])
def test_training_is_that_of_plain_relus(name, monkeypatch):
    torch.manual_seed(0)
    model = {"seen": Seen, "twice": Twice, **CASES}[name]()
    ours, theirs = prepared(model), prepared(model)
    output, gradients = step(ours)
    monkeypatch.setattr(
        Pending, "of", lambda x, ceiling=None: functional.relu(x) if ceiling is None else functional.relu6(x)
    )
    expected_output, expected = step(theirs)
    assert torch.equal(output, expected_output)
    for key, gradient in gradients.items():
        # Gradients of scales are sums in another order; all others are equal.
        tolerance = 1e-4 * float(expected[key].abs().max()) if key.endswith("scale") else 0.0
        torch.testing.assert_close(gradient, expected[key], rtol=0, atol=tolerance, msg=key)


@pytest.mark.parametrize("name", ["function", "module", "function up to six"])
def test_prepared_models_are_copied_written_and_finalized_as_before(name, tmp_path):
    torch.manual_seed(0)
    model = prepared(CASES[name]())
    step(model)
    kept = io.BytesIO()
    torch.save(model, kept)
    kept.seek(0)
    output, _ = step(copy.deepcopy(model))
    for other in (copy.deepcopy(model), torch.load(kept, weights_only=False)):
        assert torch.equal(step(other)[0], output)
    final = mct.finalize(model)
    with torch.no_grad():
        torch.testing.assert_close(final(IMAGES), model.eval()(IMAGES), rtol=1e-5, atol=1e-5)
    pytest.importorskip("onnxruntime")
    report = mct.export(final, tmp_path / "model.onnx", IMAGES, verify=IMAGES, quiet=True)
    assert report.parity.passed


def test_hooks_on_a_relu_see_its_values():
    torch.manual_seed(0)
    model, seen = prepared(CASES["module"]()), []
    model.relu.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output + 0.0)))
    step(model)
    assert len(seen) == 2
    for source, output in seen:
        assert torch.equal(output, functional.relu(source))

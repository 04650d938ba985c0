# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a graph would lose of a model: gradients that are cut off, state, hooks, randomness, a `train` of its own."""

import random as python_random
import re

import pytest
import torch
from toolkit_models import random
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from model_compression_toolkit.core.pytorch.capture import capture
from model_compression_toolkit.core.pytorch.training_comparison import training_difference

GRAPH, MODULES = mct.CaptureMode.GRAPH, mct.CaptureMode.MODULES
X = random(16, 8)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)


def gradients(model):
    model.train()
    model(X).sum().backward()
    return {name.replace("layer.", "") for name, parameter in model.named_parameters() if parameter.grad is not None}


class NoGrad(Base):
    def forward(self, x):
        with torch.no_grad():
            h = self.a(x)
        return self.b(h)


class Decorated(Base):
    @torch.no_grad()
    def features(self, x):
        return self.a(x)

    def forward(self, x):
        return self.b(self.features(x))


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return -gradient


class ReversesGradients(Base):
    def forward(self, x):
        return self.b(Reversal.apply(self.a(x)))


class Half(Base):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.a(x)
        return self.b(h.float())


class Recurrent(Base):
    def __init__(self):
        super().__init__()
        self.h = None

    def forward(self, x):
        h = self.a(x)
        self.h = (h if self.h is None else h + self.h).tanh().detach()
        return self.b(self.h)


class Averages(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("ema", torch.zeros(8))

    def forward(self, x):
        h = self.a(x)
        self.ema = self.ema * 0.9 + h.mean(0).detach() * 0.1
        return self.b(h + self.ema)


class WarmsUp(Base):
    def __init__(self):
        super().__init__()
        self.steps = 0

    def forward(self, x):
        self.steps += 1
        return self.b(self.a(x) * min(self.steps, 3))


class Noisy(Base):
    def forward(self, x):
        return self.b(self.a(x) + torch.rand(8))


class DropsLayers(Base):
    def forward(self, x):
        h = self.a(x)
        if self.training and python_random.random() < 0.5:
            h = h + self.a(h)
        return self.b(h)


class FrozenNorm(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu())

    def train(self, mode=True):
        # Returns nothing, which users' own methods often do.
        super().train(mode)
        self.norm.eval()


CASES = [
    (NoGrad, "runs a part of itself under torch.no_grad()"),
    (Decorated, "runs a part of itself under torch.no_grad()"),
    (ReversesGradients, "in a torch.autograd.Function"),
    (Half, "runs a part of itself under torch.autocast()"),
    (Recurrent, "keeps state on itself (h)"),
    (Averages, "keeps state on itself (ema)"),
    (WarmsUp, "keeps state on itself (steps)"),
    (Noisy, "draws random numbers that a graph would fix"),
    (DropsLayers, "draws random numbers that a graph would fix"),
    (FrozenNorm, "a train() of the model's own treats norm apart"),
]


@pytest.mark.parametrize(("model", "reason"), CASES)
def test_what_a_graph_would_lose_is_kept_module_by_module_and_told(model, reason):
    prepared = mct.prepare_qat(model(), X)
    plan = mct.plan_of(prepared)
    assert plan.capture is MODULES
    assert reason in plan.notes[0]
    assert {tensor.site.layer for tensor in plan.quantized()} == {"a", "b"}
    with pytest.raises(ValueError, match=f"`capture` is 'graph', but .*{re.escape(reason)}"):
        mct.prepare_qat(model(), X, mct.QuantizationConfig(capture="graph"))


@pytest.mark.parametrize("model", [NoGrad, Decorated])
def test_gradients_that_the_model_cuts_off_stay_cut_off(model):
    float_gradients = gradients(model())
    prepared = gradients(mct.prepare_qat(model(), X))
    assert float_gradients == {"b.weight", "b.bias"}
    assert {name for name in prepared if name.endswith(("weight", "bias"))} == float_gradients
    # Nothing is trained after training, and a graph computes the same.
    assert mct.plan_of(mct.quantize(model(), X)).capture is GRAPH


def test_a_tensor_that_is_detached_is_detached_in_the_graph():
    class Detaches(Base):
        def forward(self, x):
            return self.b(self.a(x).detach())

    prepared = mct.prepare_qat(Detaches(), X)
    assert mct.plan_of(prepared).capture is GRAPH
    assert not any(name.startswith("a.") for name in gradients(prepared))


@pytest.mark.parametrize("model", [Recurrent, Averages, WarmsUp])
def test_what_a_model_keeps_on_itself_is_untouched_and_goes_on_as_in_float(model):
    net = model().eval()
    quantized = mct.quantize(net, 4 * [X])
    for other in (X[:4], X[4:8], X[8:12]):
        with torch.no_grad():
            found, expected = quantized(other), net(other)
        assert (found - expected).norm() < 0.05 * expected.norm()
    kept = {"Recurrent": "h", "Averages": "ema", "WarmsUp": "steps"}[model.__name__]
    assert type(getattr(quantized, kept)) is type(getattr(net, kept))


def test_a_cache_that_the_first_call_fills_is_no_state():
    class Caches(Base):
        def __init__(self):
            super().__init__()
            self.cache = {}

        def forward(self, x):
            if "key" not in self.cache:
                self.cache["key"] = torch.arange(8.0)
            return self.b(self.a(x) + self.cache["key"])

    assert mct.plan_of(mct.prepare_qat(Caches(), X)).capture is GRAPH


def test_a_train_of_the_models_own_is_called():
    prepared = mct.prepare_qat(FrozenNorm(), X + 1)
    before = prepared.norm.norm.running_mean.clone()
    prepared.train()
    prepared(X + 1)
    assert torch.equal(prepared.norm.norm.running_mean, before)
    assert isinstance(mct.finalize(prepared).norm, nn.BatchNorm1d)
    assert mct.plan_of(mct.quantize(FrozenNorm(), X)).capture is GRAPH


class StochasticDepth(nn.Module):
    """Traceable; adds nothing to a graph in evaluation."""

    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0], 1)).bernoulli_(0.5)


def test_random_layers_of_the_users_own_stay_active_in_training():
    class Net(Base):
        def __init__(self):
            super().__init__()
            self.depth = StochasticDepth()

        def forward(self, x):
            return self.b(self.depth(self.a(x)) + x)

    prepared = mct.prepare_qat(Net(), X)
    assert mct.plan_of(prepared).capture is GRAPH
    assert mct.plan_of(prepared).notes == ()
    assert mct.plan_of(prepared)["depth.output"].reason == "keeps the grid of its input"
    assert not torch.equal(prepared(X), prepared(X))
    assert torch.equal(prepared.eval()(X), prepared(X))
    assert torch.equal(mct.finalize(prepared)(X), prepared(X))


class OwnNorm(nn.BatchNorm1d):
    """Counts its batches by itself, as the layers of some libraries do."""

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def test_a_functional_batch_norm_trains_in_the_graph():
    class Net(Base):
        def __init__(self):
            super().__init__()
            self.norm = OwnNorm(8)

        def forward(self, x):
            return self.b(self.norm(self.a(x)))

    net = Net()
    captured = capture(net, sample=(X,), train=True)
    assert captured.mode is GRAPH
    for model in (net, captured.model):
        model.train()
        model(X)
    assert torch.equal(captured.model.get_buffer("norm.running_mean"), net.norm.running_mean)


@pytest.mark.parametrize("where", ["", "block"])
def test_hooks_on_what_a_graph_opens_are_called_with_tensors(where):
    net = nn.Sequential()
    net.add_module("block", nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    net.add_module("head", nn.Linear(8, 4))
    seen = []
    net.get_submodule(where).register_forward_hook(lambda module, args, output: seen.append(type(output)))
    plan = mct.plan_of(mct.quantize(net, X))
    assert plan.capture is MODULES
    assert "has hooks, which a graph does not call" in plan.notes[0]
    assert set(seen) == {torch.Tensor}


@pytest.mark.parametrize("hooked", [0, 1, 2])
@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat, lambda *a: mct.finalize(mct.prepare_qat(*a))])
def test_hooks_on_layers_change_what_they_changed(hooked, call):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 3))
    net[1].running_mean.fill_(0.3)
    net[hooked].register_forward_hook(lambda module, args, output: 2 * output + 1)
    x = random(8, 3, 9)
    quantized = call(net.eval(), x)
    assert mct.plan_of(quantized).capture is GRAPH
    assert (quantized.eval()(x) - net(x)).norm() < 0.03 * net(x).norm()


def test_an_unknown_difference_in_training_is_found_by_running_both():
    class CutsOff(Base):
        def forward(self, x):
            return self.b(self.a(x).detach())

    class Plain(Base):
        def forward(self, x):
            return self.b(self.a(x))

    assert training_difference(Plain(), Plain(), (X,)) == ""
    assert training_difference(Plain(), NoGrad(), (X,)) == "the gradient of a.weight is lost in the graph"
    assert training_difference(NoGrad(), Plain(), (X,)) == "the gradient of a.weight is not cut off in the graph"
    assert "the gradient of a.weight is another one" in training_difference(Plain(), DoublesAGradient(), (X,))
    assert "computes something else" in training_difference(Plain(), WarmsUpAtOnce(), (X,))
    assert Plain().a.weight.grad is None


class DoublesAGradient(Base):
    def forward(self, x):
        h = self.a(x)
        return self.b(2 * h - h.detach())


class WarmsUpAtOnce(Base):
    def forward(self, x):
        return 2 * self.b(self.a(x))


def test_random_numbers_go_on_as_if_nothing_had_been_run():
    states = []
    for call in (lambda: None, lambda: mct.prepare_qat(DropsLayers(), X)):
        torch.manual_seed(1)
        python_random.seed(1)
        call()
        # The weights of a new network draw numbers too.
        states.append(python_random.random())
    assert states[0] == states[1]


class ClashingNames(Base):
    def __init__(self):
        super().__init__()
        self.dropout_module, self.x_activation_holder_quantizer = nn.Dropout(0.0), nn.Tanh()

    def forward(self, x, mask=None):
        h = functional.dropout(self.a(self.x_activation_holder_quantizer(x)).relu(), 0.5, self.training)
        return self.b(self.dropout_module(h))


@pytest.mark.parametrize("call", [mct.quantize, lambda *a: mct.finalize(mct.prepare_qat(*a))])
def test_layers_named_like_inserted_ones_stay(call, tmp_path):
    net = ClashingNames().eval()
    quantized = call(net, X)
    assert mct.plan_of(quantized).capture is GRAPH
    assert quantized.dropout_module.p == 0.0
    assert (quantized(X) - net(X)).norm() < 0.03 * net(X).norm()
    mct.export(quantized, tmp_path / "model.safetensors", quiet=True)
    assert torch.equal(mct.load(tmp_path / "model.safetensors", net)(X), quantized(X))


def test_attributes_that_a_graph_does_not_keep_are_told():
    net = Detached()
    with pytest.raises(AttributeError, match=r"'settings'.*capture='modules'"):
        _ = mct.quantize(net, X).settings
    assert mct.quantize(net, X, mct.QuantizationConfig(capture="modules")).settings == net.settings


class Detached(Base):
    """Keeps a result with gradients, as weight normalization of the old kind does."""

    def __init__(self):
        super().__init__()
        self.settings, self.scale = {"width": 8}, 2 * nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.b(self.a(x))

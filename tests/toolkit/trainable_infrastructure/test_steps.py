# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Schedules count steps of training, not calls: whatever is used twice or computed anew."""

import copy

import pytest

import model_compression_toolkit as mct

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from mct_quantizers.pytorch import private  # noqa: E402

SCHEDULED = ("GRADUAL", "STOCHASTIC", "DQA", "SOFT_ROUNDING")
STEPS = 3


class Net(nn.Module):
    """Three layers; the middle one runs `uses` times, each time computed anew in the backward pass if asked for."""

    def __init__(self, uses=1, reentrant=None):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.uses, self.reentrant = uses, reentrant

    def forward(self, x):
        x = torch.relu(self.a(x))
        for _ in range(self.uses):
            if self.reentrant is None or not self.training:
                x = torch.relu(self.b(x))
            else:
                x = torch.relu(checkpoint(self.b, x, use_reentrant=self.reentrant))
        return self.c(x)


def data():
    return torch.randn(32, 8, generator=torch.Generator().manual_seed(0))


def prepared(method, **arguments):
    torch.manual_seed(0)
    activations = method if method in ("GRADUAL", "DQA") else "LSQ"
    settings = {"end" if method in ("GRADUAL", "STOCHASTIC") else "steps": 8}
    quantization = mct.QuantizationConfig(mct.TensorConfig(3), mct.TensorConfig(3), capture="modules")
    config = mct.QATConfig(method, activations, settings, settings if activations == method else {})
    return mct.prepare_qat(Net(**arguments), data(), quantization, config)


def step(model, call=None):
    model.zero_grad()
    loss = (model if call is None else call)(data()).square().sum() + mct.regularization_loss(model)
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def counters(model):
    return {value.item() for name, value in model.named_buffers() if name.endswith("step")}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.parametrize("method", SCHEDULED)
def test_a_layer_that_is_computed_anew_gives_the_gradients_of_one_that_is_not(method, uses, reentrant):
    model, anew = prepared(method, uses=uses), prepared(method, uses=uses, reentrant=reentrant)
    for number in range(1, STEPS + 1):
        for ours, theirs in zip(step(anew), step(model), strict=True):
            # Sums of both uses may be added in another order.
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert counters(anew) == counters(model) == {float(number)}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", SCHEDULED)
def test_without_the_private_part_layers_used_once_are_right_still(monkeypatch, method, reentrant):
    monkeypatch.setattr(private, "_backward_pass", None)
    model, anew = prepared(method), prepared(method, reentrant=reentrant)
    for number in range(1, STEPS + 1):
        for ours, theirs in zip(step(anew), step(model), strict=True):
            torch.testing.assert_close(ours, theirs)
        assert counters(anew) == {float(number)}


@pytest.mark.parametrize("method", ["GRADUAL", "STOCHASTIC"])
def test_a_compiled_layer_that_is_used_twice_counts_steps(method):
    model, compiled = prepared(method, uses=2), prepared(method, uses=2)
    call = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for number in range(1, STEPS):
        for ours, theirs in zip(step(compiled, call), step(model), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert counters(compiled) == {float(number)}


def test_calls_without_a_gradient_are_no_steps():
    model = prepared("GRADUAL")
    with torch.no_grad():
        first, second = model(data()), model(data())
    assert torch.equal(first, second)
    assert counters(model) == {1.0}
    step(model)
    assert counters(model) == {1.0}
    step(model)
    assert counters(model) == {2.0}
    # Gradients that are gathered over several backward passes: each is a step.
    for _ in range(3):
        model(data()).sum().backward()
    assert counters(model) == {5.0}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_quantizer_that_learns_nothing_counts_too(frozen):
    config = mct.QATConfig("GRADUAL", "LSQ", {"method": "STE", "end": 8})
    torch.manual_seed(0)
    model = mct.prepare_qat(Net(), data(), mct.QuantizationConfig(capture="modules"), config)
    if frozen:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("weight"))
    for number in range(1, STEPS):
        step(model)
        assert counters(model) == {float(number)}


@pytest.mark.parametrize("method", ["GRADUAL", "STOCHASTIC"])
def test_a_copy_and_a_loaded_state_go_on_with_the_next_step(method):
    model = prepared(method)
    for _ in range(2):
        step(model)
    twin, loaded = copy.deepcopy(model), prepared(method)
    loaded.load_state_dict(model.state_dict())
    expected = step(model)
    for other in (twin, loaded):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(step(other), expected, strict=True))
        assert counters(other) == {3.0}


def test_a_state_that_is_saved_within_a_step_ends_it():
    model, fresh = prepared("GRADUAL"), prepared("GRADUAL")
    step(model)
    model(data())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(data()), fresh(data()))
    assert counters(model) == counters(fresh) == {3.0}

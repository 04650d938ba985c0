# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What is assembled is compared with the user's model, before anything is returned."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import model_compression_toolkit as mct
from model_compression_toolkit.core.pytorch import surgery
from model_compression_toolkit.core.pytorch.unquantized import unquantized

DATA = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CAPTURES = ["graph", "modules"]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.norm.weight.data = torch.tensor([1.0, -1.0, 0.5, 2.0])

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Noisy(Network):
    def forward(self, x):
        return super().forward(x) + nn.functional.dropout(torch.ones(2), 0.5, training=True)


class Counting(Network):
    """Each run gives another result."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        return super().forward(x) * self.count


def config(capture):
    return mct.QuantizationConfig.from_bits("w2a2", first_last_bits=2, capture=capture)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("verb", [mct.quantize, mct.prepare_qat])
def test_with_its_quantizers_off_an_assembled_model_computes_what_the_users_does(verb, capture):
    model = Network().eval()
    quantized = verb(model, DATA, config(capture)).eval()
    with torch.no_grad():
        before, expected = quantized(DATA), model(DATA)
        with pytest.raises(KeyError), unquantized(quantized):
            # Folding rounds each product anew.
            torch.testing.assert_close(quantized(DATA), expected, rtol=1e-4, atol=1e-5)
            raise KeyError
        assert torch.equal(quantized(DATA), before)
        assert (before - expected).abs().max() > 1e-2


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("verb", [mct.quantize, mct.prepare_qat])
def test_a_copy_that_lost_something_is_never_returned(verb, capture, monkeypatch):
    right = surgery._replace

    def damaging(root, layer, other):
        if isinstance(other, surgery.PytorchQuantizationWrapper):
            nn.init.zeros_(other.layer.bias)
        return right(root, layer, other)

    monkeypatch.setattr(surgery, "_replace", damaging)
    with pytest.raises(ValueError, match=r"computes something else than `model`, before anything is quantized"):
        verb(Network().eval(), DATA, config(capture))


@pytest.mark.parametrize("network", [Noisy, Counting])
@pytest.mark.parametrize("verb", [mct.quantize, mct.prepare_qat])
def test_what_a_model_does_differently_from_run_to_run_is_no_difference(network, verb):
    state = torch.get_rng_state()
    model = network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.set_rng_state(state)
    verb(model, DATA, config("modules"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Models that are seen module by module: what is quantized, and the whole flow."""

import pytest
import torch
from toolkit_models import indices, random
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.pytorch.surgery import QuantizedInput

MODULES = mct.QuantizationConfig(capture="modules")


class Untraceable(nn.Module):
    """Branches on its data."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)
        self.hidden, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        x = functional.relu(self.norm(self.conv(x))).mean(dim=2)
        if x.sum() > 1e9:
            x = 2 * x
        return self.head(torch.tanh(self.hidden(x)))


def decisions(model):
    return {tensor.name: tensor.reason or tensor.config.num_bits for tensor in mct.plan_of(model).tensors}


def test_inputs_and_weights_of_layers_are_quantized_in_the_order_of_the_calls():
    unreached = "the layer was not reached by the data"
    quantized = mct.quantize(
        Untraceable(), random(32, 3, 9), mct.QuantizationConfig.from_bits("w4a6", first_last_bits=8)
    )
    assert list(decisions(quantized).items()) == [
        ("conv.input", 8),
        ("conv.weight", 8),
        ("hidden.input", 6),
        ("hidden.weight", 4),
        ("head.input", 8),
        ("head.weight", 8),
        ("unused.input", unreached),
        ("unused.weight", unreached),
    ]


class WithOtherLayers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.rnn, self.head = nn.Embedding(10, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 2)
        self.mix = nn.Parameter(torch.eye(5))

    def forward(self, x):
        return self.head(self.rnn(self.words(x))[0][:, -1] @ self.mix)


def test_matrices_of_other_layers_are_listed_with_their_reason():
    quantized = mct.quantize(WithOtherLayers(), indices(16, 7), MODULES)
    found = decisions(quantized)
    assert found["words.weight"] == found["head.weight"] == found["head.input"] == 8
    assert found["words.input"] == "indices are not quantized"
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0"):
        assert found[name] == "layers of type GRU are not quantized yet"
    assert "not quantized yet" in found["model.mix"]


def test_the_whole_flow_prepares_trains_and_finalizes():
    model, x = Untraceable(), random(64, 3, 9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared = mct.prepare_qat(model, x, mct.QuantizationConfig.from_bits("w4a4"))
    assert mct.plan_of(prepared).capture is mct.CaptureMode.MODULES
    assert all(module.training for module in prepared.modules())
    target = x.mean(dim=(1, 2)).unsqueeze(1).repeat(1, 2)
    optimizer = torch.optim.Adam(prepared.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = (prepared(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    final = mct.finalize(prepared)
    assert torch.equal(final(x), prepared.eval()(x))
    assert not any(parameter.shape == (1,) for parameter in final.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="finalized already"):
        mct.finalize(final)


def test_a_finalized_model_has_its_own_batch_norms_back():
    prepared = mct.prepare_qat(Untraceable(), random(64, 3, 9))
    final = mct.finalize(prepared)
    assert type(final.norm) is nn.BatchNorm1d


def test_the_output_stays_close_to_float():
    model, x = Untraceable().eval(), random(64, 3, 9)
    quantized = mct.quantize(model, x)
    with torch.no_grad():
        assert (quantized(x) - model(x)).norm() < 0.02 * model(x).norm()


class Peeks(Untraceable):
    """Reads attributes of its layers."""

    def forward(self, x):
        x = x.to(self.conv.weight.dtype)
        x = self.conv(x).mean(dim=2).view(-1, self.hidden.in_features)
        if x.sum() > 1e9:
            x = 2 * x
        return self.head(self.hidden(x)) + self.head.bias.sum() * 0


@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat, lambda *a: mct.finalize(mct.prepare_qat(*a))])
def test_wrapped_layers_show_their_attributes(call):
    model, x = Peeks().eval(), random(64, 3, 9)
    quantized = call(model, x).eval()
    with torch.no_grad():
        assert (quantized(x) - model(x)).norm() < 0.03 * model(x).norm()
    assert isinstance(quantized.hidden, QuantizedInput)
    assert quantized.hidden.out_features == 8
    with pytest.raises(AttributeError, match="no_such_attribute"):
        _ = quantized.hidden.no_such_attribute


class Twice(Untraceable):
    """A layer under two names."""

    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(8, 8)
        self.again = self.middle

    def forward(self, x):
        x = self.hidden(self.conv(x).mean(dim=2))
        if x.sum() > 1e9:
            x = 2 * x
        return self.head(self.again(torch.tanh(self.middle(x))))


@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat, lambda *a: mct.finalize(mct.prepare_qat(*a))])
def test_a_layer_under_two_names_is_one_layer(call):
    model, x = Twice().eval(), random(64, 3, 9)
    quantized = call(model, x).eval()
    assert quantized.middle is quantized.again
    with torch.no_grad():
        assert (quantized(x) - model(x)).norm() < 0.03 * model(x).norm()


class LowRank(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.inner = nn.Linear(inputs, outputs)

    def forward(self, x):
        return super().forward(x) + self.inner(x)


class Nested(Untraceable):
    def __init__(self):
        super().__init__()
        self.hidden = LowRank(4, 8)


@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat, lambda *a: mct.finalize(mct.prepare_qat(*a))])
def test_a_layer_inside_a_layer_is_quantized_and_the_outer_one_explained(call):
    model, x = Nested().eval(), random(64, 3, 9)
    quantized = call(model, x).eval()
    found = decisions(quantized)
    assert found["hidden.inner.weight"] == 8
    assert found["hidden.weight"] == "it contains other layers"
    with torch.no_grad():
        assert (quantized(x) - model(x)).norm() < 0.03 * model(x).norm()


@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat])
def test_a_model_of_one_layer_works(call):
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3), random(32, 4)
    quantized = call(layer, x, MODULES).eval()
    assert len(mct.plan_of(quantized).quantized()) == 2
    assert (quantized(x) - layer(x)).norm() < 0.02 * layer(x).norm()


def test_calibration_leaves_no_hook_behind():
    quantized = mct.quantize(Untraceable(), random(32, 3, 9))
    # One that is always there, on what quantizes: torch's fused layers then call it.
    own = (PytorchQuantizationWrapper, PytorchActivationQuantizationHolder)
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in quantized.modules() if not isinstance(m, own)]
    assert set(hooks) == {(0, 0)}
    assert {(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in quantized.modules() if isinstance(m, own)} == {
        (1, 0)
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_named(bad):
    x = random(32, 3, 9)
    x[3, 1, 2] = bad
    with pytest.raises(ValueError, match=r"NaN or infinite values in conv\.input"):
        mct.quantize(Untraceable(), x)

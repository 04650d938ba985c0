# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Torch's fused transformer layers: quantized layers inside them run, however the model is called."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from mct_quantizers.pytorch.quantizers import ActivationSymmetricInferableQuantizer, WeightsSymmetricInferableQuantizer

COARSE = mct.QuantizationConfig.from_bits("w2a2", first_last_bits=None)


def layer(**arguments):
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0, **arguments)


def tokens():
    return torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1))


MODELS = {
    "layer": lambda: layer().eval(),
    "norm_first": lambda: layer(norm_first=True, activation="gelu").eval(),
    "encoder": lambda: nn.TransformerEncoder(layer(), 2).eval(),
    "inside": lambda: nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoder(layer(), 1)).eval(),
}
COPIES = {
    "itself": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize(
    ("name", "copied"), [*((name, "itself") for name in MODELS), ("layer", "deepcopy"), ("layer", "pickle")]
)
def test_quantized_layers_run_without_gradients_as_with_them(name, copied):
    model, x = MODELS[name](), tokens()
    config = mct.QuantizationConfig.from_bits("w2a2", first_last_bits=None, capture="modules")
    quantized = COPIES[copied](mct.quantize(model, x, config))
    assert mct.plan_of(quantized).quantized()
    # Attention itself stays in float: its own fused kernel sums in another order.
    expected = quantized(x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(quantized(x), expected, rtol=1e-4, atol=1e-5)
            assert (quantized(x) - model(x)).abs().max() > 0.1


def test_quantized_activations_alone_are_seen_too():
    model, x = layer().eval(), tokens()
    rule = mct.Rule(type="Linear", weight_bits=8, activation_bits=2)
    config = mct.QuantizationConfig.from_bits("w8a2", first_last_bits=None, capture="modules", rules=[rule])
    quantized = mct.quantize(model, x, config)
    with torch.no_grad():
        assert (quantized(x) - model(x)).abs().max() > 0.05


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padded_places_do_not_turn_tensors_into_nested_ones():
    model, x = nn.TransformerEncoder(layer(), 2).eval(), tokens()
    padding = torch.arange(5).expand(4, 5) >= torch.tensor([[5], [3], [4], [2]])

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = model

        def forward(self, x, padding):
            return self.encoder(x, src_key_padding_mask=padding)

    quantized = mct.quantize(Padded().eval(), [[x, padding]], mct.QuantizationConfig(capture="modules"))
    assert len(mct.plan_of(quantized).quantized()) == 8
    with torch.no_grad():
        result, expected = quantized(x, padding), model(x, src_key_padding_mask=padding)
    # 8 bits; what stands at padded places is nobody's business.
    assert (result - expected)[~padding].abs().max() < 0.1
    torch.testing.assert_close(quantized(x, padding)[~padding], result[~padding], rtol=1e-4, atol=1e-5)


def test_layers_that_are_wrapped_by_hand_run_too():
    model, x = layer().eval(), tokens()
    threshold = [float(model.linear1.weight.detach().abs().max())]
    quantizer = WeightsSymmetricInferableQuantizer(2, threshold, per_channel=False)
    model.linear1 = PytorchQuantizationWrapper(model.linear1, {"weight": quantizer})
    expected = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_holders_that_are_put_in_by_hand_run_too():
    model, x = layer().eval(), tokens()
    holder = PytorchActivationQuantizationHolder(ActivationSymmetricInferableQuantizer(2, [1.0], signed=True))
    model.dropout2 = nn.Sequential(model.dropout2, holder)
    expected = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_compiled_layers_are_the_quantized_ones():
    quantized, x = mct.quantize(layer().eval(), tokens(), COARSE), tokens()
    with torch.no_grad():
        compiled = torch.compile(quantized, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), quantized(x), rtol=1e-4, atol=1e-5)


def test_the_state_has_nothing_more():
    quantized = mct.quantize(layer().eval(), tokens(), COARSE)
    file = io.BytesIO()
    torch.save(quantized.state_dict(), file)
    file.seek(0)
    other = mct.quantize(layer().eval(), 2 * tokens(), COARSE)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(tokens()), quantized(tokens()))


class ReadsItsWeights(nn.Module):
    """Calls one layer, reads the weight of another, and does both with a third."""

    def __init__(self):
        super().__init__()
        self.called, self.read, self.both = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        x = self.both(self.called(x))
        return functional.linear(functional.linear(x, self.read.weight), self.both.weight)


def test_the_plan_tells_of_weights_that_are_read_past_their_layers():
    model = ReadsItsWeights()
    plan = mct.plan_of(mct.quantize(model, torch.randn(8, 4), mct.QuantizationConfig(capture="modules")))
    assert plan["called.weight"].config is not None
    assert plan["both.weight"].config is not None
    assert "past the layer" in plan["read.weight"].reason
    assert [note for note in plan.notes if "past the layer" in note] == [
        "the model's code reads both.weight past the layer, too: what it computes with it there stays in float"
    ]
    assert type(model.read) is nn.Linear


def test_the_plan_tells_that_attention_reads_the_weight_of_its_last_layer():
    plan = mct.plan_of(mct.quantize(layer().eval(), tokens(), mct.QuantizationConfig(capture="modules")))
    assert "past the layer" in plan["self_attn.out_proj.weight"].reason
    assert not [note for note in plan.notes if "past the layer" in note]

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Linear layers of other packages, here look-alikes in modules of their names."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import model_compression_toolkit as mct
from model_compression_toolkit.core.pytorch.known_layers import known_weight_axis


class Conv1D(nn.Module):
    """Weight (inputs, outputs), as the linear layer of GPT-2."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) * 0.3), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        size = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = Conv1D(12, 6), nn.GELU(), Conv1D(3, 12)
        with torch.no_grad():
            self.first.weight.mul_(torch.logspace(-2, 1, 12))

    def forward(self, x):
        return self.last(self.act(self.first(x)))


@pytest.fixture
def look_alike(monkeypatch):
    """`Conv1D` stands in a module of the package's name."""
    module = types.ModuleType("transformers.pytorch_utils")
    module.Conv1D = Conv1D
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Conv1D, "__module__", module.__name__)


def tokens():
    return torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("capture", ["graph", "modules"])
@pytest.mark.usefixtures("look_alike")
def test_weights_are_quantized_for_each_output(capture):
    model, x = Network().eval(), tokens()
    config = mct.QuantizationConfig(capture=capture)
    quantized = mct.quantize(model, x, config)
    weight = mct.plan_of(quantized)["first.weight"]
    assert (weight.axis, weight.params.scale.shape) == (1, (12,))
    expected = np.abs(model.first.weight.detach().numpy()).max(0)
    # The grid of each column reaches to its largest magnitude, or a little less for the least error.
    assert (weight.params.scale * 128 <= expected * 1.02).all()
    assert (weight.params.scale * 128 >= expected * 0.5).all()
    assert (quantized(x) - model(x)).abs().max() < 0.03 * model(x).abs().max()


@pytest.mark.usefixtures("look_alike")
def test_trained_and_exported_it_computes_the_same(tmp_path):
    model, x = Network(), tokens()
    prepared = mct.prepare_qat(model, x)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
    prepared(x).square().mean().backward()
    optimizer.step()
    frozen = mct.finalize(prepared)
    report = mct.export(frozen, tmp_path / "model.onnx", verify=x, quiet=True)
    assert report.parity.passed
    assert [tensor.name for tensor in mct.plan_of(frozen).quantized() if tensor.is_weight] == [
        "first.weight",
        "last.weight",
    ]


@pytest.mark.usefixtures("look_alike")
def test_batch_norms_are_not_folded_into_them():
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(4, 6), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    model[1].running_var.mul_(4)
    x = torch.randn(16, 6)
    assert (mct.quantize(model, x)(x) - model(x)).abs().max() < 0.03 * model(x).abs().max()


def test_a_class_of_the_name_elsewhere_is_traced_as_before():
    plan = mct.plan_of(mct.quantize(nn.Sequential(Conv1D(4, 6), nn.Linear(4, 2)).eval(), torch.randn(8, 6)))
    assert "0.weight" not in {tensor.name for tensor in plan.quantized()}


@pytest.mark.usefixtures("look_alike")
def test_another_shape_is_no_known_layer():
    layer = Conv1D(4, 6)
    assert known_weight_axis(layer) == 1
    layer.bias = nn.Parameter(torch.zeros(6))
    assert known_weight_axis(layer) is None

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Models that are compiled, scripted, spread over devices or without values; results and inputs of other kinds."""

import pytest
import torch
from toolkit_models import random
from torch import fx, nn

import model_compression_toolkit as mct

X = random(16, 8)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def compiled(model):
    # The compiler itself is not needed, and takes seconds to import.
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "make",
    [compiled, lambda model: nn.Sequential(compiled(model)), fx.symbolic_trace],
    ids=["compiled", "compiled inside", "graph"],
)
def test_the_layers_of_a_compiled_model_are_quantized(make):
    quantized = mct.quantize(make(net()), X)
    plan = mct.plan_of(quantized)
    assert plan.capture is mct.CaptureMode.GRAPH
    assert [tensor.site.shape for tensor in plan.quantized() if tensor.is_weight] == [(8, 8), (4, 8)]
    assert (quantized(X) - net()(X)).norm() < 0.02 * net()(X).norm()


def on_meta():
    with torch.device("meta"):
        return net()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: torch.jit.script(net()), TypeError, "one of torch.jit.*Give the module that was scripted"),
        (lambda: torch.jit.trace(net(), X), TypeError, "one of torch.jit.*Give the module that was scripted"),
        (lambda: nn.DataParallel(net()), TypeError, r"Received: DataParallel\. Give `model\.module`"),
        (on_meta, ValueError, r"0\.weight on the meta device\. Load its weights first"),
    ],
    ids=["scripted", "traced", "parallel", "meta"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_other_kinds_are_refused_with_what_to_give(make, error, text):
    with pytest.raises(error, match=text):
        mct.quantize(make(), X)


def test_results_that_are_no_tensors_are_returned():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x):
            y = self.a(x)
            return y, y.shape[0], y.argmax(1), y > 0, 3, None, "word"

    for call in (mct.quantize, mct.prepare_qat):
        quantized = call(Mixed(), X)
        assert mct.plan_of(quantized).capture is mct.CaptureMode.GRAPH
        assert quantized(X[:3])[1] == 3
        assert quantized(X[:3])[4:] == (3, None, "word")


class Selects(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.b(self.a(x)[x[:, 0] > 0].relu())


@pytest.mark.parametrize("mode", ["graph", "modules"])
def test_calibration_passes_over_tensors_without_elements(mode):
    config, none = mct.QuantizationConfig(capture=mode), -X.abs()
    quantized = mct.quantize(Selects(), [none, X, none], config)
    alone = mct.quantize(Selects(), [none, X], config)
    assert mct.plan_of(quantized).quantized() != ()
    for tensor in mct.plan_of(quantized).quantized():
        if tensor.site.layer in ("relu", "b"):
            assert tensor.params == mct.plan_of(alone)[tensor.name].params
    assert quantized(none).shape == (0, 4)
    with pytest.raises(ValueError, match=r"never reached (relu\.output|b\.input)"):
        mct.quantize(Selects(), [none], config)


@pytest.mark.parametrize("method", ["LSQ", "STE", "PACT", "DSQ", "DQA"])
def test_a_batch_without_elements_trains_as_in_float(method):
    qat = mct.QATConfig(weight_training_method=method, activation_training_method=method)
    prepared = mct.prepare_qat(net(), X, qat_config=qat)
    result = prepared(X[:0])
    assert result.shape == (0, 4)
    result.sum().backward()
    gradients = [parameter.grad for parameter in prepared.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() and not gradient.any() for gradient in gradients)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What torch's default dtype and device are changes nothing: a model says its own."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers import PytorchQuantizationWrapper
from mct_quantizers.pytorch.quantizers import WeightsPOTInferableQuantizer

UNIFORM = mct.TensorConfig(4, method=mct.QuantizationMethod.UNIFORM)
METHODS = [("LSQ_PLUS", "LSQ_PLUS"), ("SOFT_ROUNDING", "PACT"), ("GRADUAL", "DQA"), ("LUT", "APOT")]
SYMMETRIC = mct.TensorConfig(4, method=mct.QuantizationMethod.SYMMETRIC)


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 4, 1), nn.Flatten(), nn.Linear(64, 3)]
    return nn.Sequential(*layers).eval(), torch.randn(8, 3, 6, 6)


def results(model, x, path):
    """Outputs of every flow, by name."""
    found = {"quantized": mct.quantize(model, x)}
    for weights, activations in METHODS:
        grid = UNIFORM if weights == "LSQ_PLUS" else SYMMETRIC
        prepared = mct.prepare_qat(model, x, mct.QuantizationConfig(grid, grid), mct.QATConfig(weights, activations))
        optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            (prepared(x).square().sum() + mct.regularization_loss(prepared)).backward()
            optimizer.step()
        found[weights] = mct.finalize(prepared)
    mct.export(found["quantized"], path, verify=x, quiet=True)
    found["loaded"] = mct.load(path, model)
    return {name: frozen(x).detach() for name, frozen in found.items()}


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64, "meta"], ids=str)
def test_every_flow_gives_the_same_values(default, tmp_path):
    model, x = network()
    expected = results(model, x, tmp_path / "expected.safetensors")
    try:
        if default == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(default)
        found = results(model, x, tmp_path / "found.safetensors")
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for name, values in expected.items():
        assert found[name].dtype is torch.float32
        assert torch.equal(found[name], values), name


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64], ids=str)
def test_onnx_files_are_proven(default, tmp_path):
    pytest.importorskip("onnxruntime")
    model, x = network()
    torch.set_default_dtype(default)
    try:
        report = mct.export(mct.quantize(model, x), tmp_path / "model.onnx", verify=x, quiet=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert report.parity.passed


def test_parameters_that_quantizers_ask_for_are_float32():
    quantizer = WeightsPOTInferableQuantizer(8, [1.0], False)
    wrapper = PytorchQuantizationWrapper(nn.Linear(4, 2), {"weight": quantizer})
    torch.set_default_dtype(torch.float64)
    try:
        wrapper.register_parameter("factor", requires_grad=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert wrapper.factor.dtype is torch.float32

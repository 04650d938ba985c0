# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What users run, a session as ONNX Runtime comes, computes what the model computes; or the proof fails."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import from_threshold
from model_compression_toolkit.core.pytorch.data import batches_of
from model_compression_toolkit.exporter.common.default_session import DefaultSession, rounding_noise
from model_compression_toolkit.exporter.common.parity import DEFAULT_OUTPUT
from model_compression_toolkit.exporter.pytorch.parity import compare_onnx


def network(channel_factor=1.0, bias=0.0):
    """Convolutions, the first channel of the first with other weights and another bias."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    with torch.no_grad():
        model[0].weight[0].mul_(channel_factor)
        model[0].bias.add_(bias)
    return model


SAMPLES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def default_outputs(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {item.name: x.numpy() for item, x in zip(session.get_inputs(), inputs, strict=True)})


@pytest.mark.parametrize(
    ("factor", "bias", "bits"),
    [(0.0, 2.0, "w8a8"), (1e-7, 2.0, "w8a8"), (1.0, 1.0, "w16a16")],
)
def test_a_default_session_computes_what_the_model_computes(tmp_path, factor, bias, bits):
    config = mct.QuantizationConfig.from_bits(bits, first_last_bits=None)
    model = mct.quantize(network(factor, bias), SAMPLES, config)
    report = mct.export(model, tmp_path / "model.onnx", verify=SAMPLES, quiet=True)
    assert report.parity.passed
    (received,) = default_outputs(tmp_path / "model.onnx", SAMPLES)
    expected = model(SAMPLES).detach().numpy()
    # A few codes at ties.
    assert np.abs(received - expected).max() < 0.01 * np.abs(expected).max()


def test_a_pruned_channel_leaves_its_layer_an_integer_kernel(tmp_path):
    model = mct.quantize(network(0.0, 2.0), SAMPLES)
    mct.export(model, tmp_path / "model.onnx", example=SAMPLES, quiet=True)
    convolutions = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Conv"]
    assert [len(node.input) for node in convolutions] == [3, 3]


def test_the_proof_fails_where_only_the_default_session_is_wrong(tmp_path):
    model = mct.quantize(network(0.0, 2.0), SAMPLES)
    path = tmp_path / "model.onnx"
    mct.export(model, path, example=SAMPLES, quiet=True)
    proto = onnx.load(path)
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name == "0.weight/scale")
    # The scale of the plan, in steps of which the bias of the channel of zeros does not fit.
    plan_scale = mct.plan_of(model)["0.weight"].params.scale.astype(np.float32)
    scale.CopyFrom(numpy_helper.from_array(plan_scale, scale.name))
    onnx.save(proto, path)
    report = compare_onnx(model, path, batches_of(SAMPLES))
    assert not any(tensor.diverges for tensor in report.tensors)
    assert report.max_output_difference < 1e-6
    assert report.first_divergence == DEFAULT_OUTPUT
    assert not report.passed
    assert "output in a session with default optimizations" in str(report)


def test_a_linear_layer_over_sequences_keeps_its_bias(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(40, 3)).eval()
    with torch.no_grad():
        model[0].weight[0].mul_(1e-7)
        model[0].bias.fill_(2.0)
    samples = torch.randn(16, 5, 8)
    quantized = mct.quantize(model, samples)
    assert mct.export(quantized, tmp_path / "model.onnx", verify=samples, quiet=True).parity.passed
    (received,) = default_outputs(tmp_path / "model.onnx", samples)
    assert np.abs(received - quantized(samples).detach().numpy()).max() < 0.01


class Siamese(nn.Module):
    """A head that is called twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.down, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        low = self.stem(x).relu()
        return self.head(low), self.head(self.down(low).relu())


@pytest.mark.parametrize(("bits", "capture"), [("w4a4", "graph"), ("w4a8", "modules"), ("w16a16", "graph")])
def test_a_bias_that_is_added_twice_is_written_once(tmp_path, bits, capture):
    torch.manual_seed(0)
    model = mct.quantize(Siamese(), SAMPLES, mct.QuantizationConfig.from_bits(bits, capture=capture))
    assert mct.export(model, tmp_path / "model.onnx", verify=SAMPLES, quiet=True).parity.passed
    names = [tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert len(names) == len(set(names))
    assert sum("head" in name and "bias" in name for name in names) == 1


def test_noise_is_up_to_half_a_step():
    grid = from_threshold([1.0, 4.0], 4, True, axis=1)
    noise = rounding_noise((5000, 2), grid)
    assert noise.dtype == np.float32
    for channel, step in ((0, 1 / 8), (1, 4 / 8)):
        assert 0.45 * step < np.abs(noise[:, channel]).max() <= 0.5 * step
    table = LookupTable(np.array([-1.0, 0.0, 1.0]), np.array([2.0]), 2)
    assert 0 < np.abs(rounding_noise((100,), table)).max() <= 1.0
    assert not rounding_noise((3,), None).any()


def test_what_a_default_session_may_differ_by():
    expected = [np.ones((4, 3), np.float32)]
    session = DefaultSession(lambda: [expected[0] + np.float32(0.01)])
    session.compare([expected[0] + np.float32(0.001)], expected, 4)
    assert session.tolerance == 2.0**-8
    session.compare([expected[0] + np.float32(0.02)], expected, 4)
    assert session.tolerance == pytest.approx(0.04, rel=1e-3)  # four times what the noise does
    assert session.outputs.error == pytest.approx(np.sqrt((0.001**2 + 0.02**2) / 2), rel=1e-3)
    session.compare([np.full((4, 3), np.nan, np.float32)], expected, 4)
    assert not session.outputs.error <= session.tolerance

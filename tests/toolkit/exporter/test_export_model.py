# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`pytorch_export_model`: each pair of formats, run outside of this package, gives the frozen model's outputs."""

import numpy as np
import pytest
import torch
from torch import nn

import mct_quantizers
import model_compression_toolkit as mct
from mct_quantizers.pytorch.metadata import add_metadata
from model_compression_toolkit.exporter import PytorchExportSerializationFormat, QuantizationFormat

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxruntime_extensions")

X = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TORCHSCRIPT = PytorchExportSerializationFormat.TORCHSCRIPT
FAKELY_QUANT, INT8 = QuantizationFormat.FAKELY_QUANT, QuantizationFormat.INT8


def dataset():
    yield [X]


@pytest.fixture(scope="module")
def frozen():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)]
    return mct.quantize(nn.Sequential(*layers).eval(), X)


def run(path, options=None, inputs=X):
    session = onnxruntime.InferenceSession(path, options)
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


def test_operators_of_the_runtime_are_the_default(frozen, tmp_path):
    path = tmp_path / "model.onnx"
    assert mct.exporter.pytorch_export_model(frozen, path, dataset) is None
    file = onnx.load(path)
    assert {node.domain for node in file.graph.node if node.op_type.endswith("Quantizer")} == {"mct_quantizers"}
    assert [value.name for value in (*file.graph.input, *file.graph.output)] == ["input", "output"]
    # Another batch size than that of the example.
    outputs = run(path, mct_quantizers.get_ort_session_options(), X[:3])
    # Sums of 288 products in another order.
    np.testing.assert_allclose(outputs, frozen(X[:3]).detach().numpy(), atol=1e-5)


def test_standard_onnx(frozen, tmp_path):
    path = tmp_path / "model.onnx"
    mct.exporter.pytorch_export_model(frozen, path, dataset, quantization_format=FAKELY_QUANT)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    np.testing.assert_allclose(run(path, options), frozen(X).detach().numpy(), atol=1e-5)


# The format is the interface's; torch advises another one.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_holds_quantized_weights_in_plain_layers(frozen, tmp_path):
    path = tmp_path / "model.pt"
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    mct.exporter.pytorch_export_model(
        frozen, path, dataset, serialization_format=TORCHSCRIPT, quantization_format=FAKELY_QUANT
    )
    loaded = torch.jit.load(path)
    assert torch.equal(loaded(X), frozen(X))
    assert torch.equal(loaded(X[:3]), frozen(X[:3]))
    wrapper = frozen.get_submodule("4")
    assert torch.equal(loaded.state_dict()["4.weight"], wrapper.get_quantized_weights()["weight"])
    assert frozen.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())


def test_names_of_outputs_and_metadata(tmp_path):
    model = add_metadata(mct.quantize(nn.Linear(4, 2).eval(), torch.rand(16, 4)), {"author": "somebody"})
    path = tmp_path / "model.onnx"
    mct.exporter.pytorch_export_model(model, path, lambda: [[torch.rand(1, 4)]], output_names=["scores"])
    file = onnx.load(path)
    assert [value.name for value in file.graph.output] == ["scores"]
    assert {item.key: item.value for item in file.metadata_props}["author"] == "somebody"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"quantization_format": INT8}, ValueError, "must be one of: ONNX as MCTQ.* Received: ONNX as INT8"),
        ({"serialization_format": TORCHSCRIPT}, ValueError, "Received: TORCHSCRIPT as MCTQ"),
        ({"serialization_format": "onnx"}, TypeError, "`serialization_format` must be a PytorchExportSerialization"),
        ({"output_names": ["a", "b"]}, ValueError, "`output_names` must have 1 names"),
        ({"save_model_path": "model.tflite"}, ValueError, "must end with one of"),
        ({"quantization_format": FAKELY_QUANT, "onnx_opset_version": 15}, ValueError, "must be 21 for FAKELY_QUANT"),
        ({"is_layer_exportable_fn": bool}, NotImplementedError, "`is_layer_exportable_fn`"),
    ],
)
def test_what_is_not_written_is_refused_and_leaves_no_file(frozen, tmp_path, monkeypatch, arguments, error, text):
    monkeypatch.chdir(tmp_path)
    given = {"save_model_path": "model.onnx", "repr_dataset": dataset, **arguments}
    with pytest.raises(error, match=text):
        mct.exporter.pytorch_export_model(frozen, **given)
    assert not list(tmp_path.iterdir())

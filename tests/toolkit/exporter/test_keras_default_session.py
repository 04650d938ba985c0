# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What users run, a session as ONNX Runtime comes, computes what the Keras model computes; or the proof fails."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")
pytest.importorskip("onnxruntime")

import keras
import onnx
import onnxruntime
from keras import layers
from onnx import numpy_helper

import model_compression_toolkit as mct
from model_compression_toolkit.exporter.common.parity import DEFAULT_OUTPUT
from model_compression_toolkit.exporter.keras.onnx_parity import compare_onnx

pytestmark = pytest.mark.keras

SAMPLES = np.random.default_rng(0).uniform(-1, 1, (16, 6, 6, 3)).astype(np.float32)


def network(gamma=1.0, beta=0.0):
    """A convolution with a batch norm, the second channel of which has another factor and shift."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        layers.Input((6, 6, 3)), layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
        layers.Conv2D(4, 3), layers.ReLU(), layers.Flatten(), layers.Dense(3),
    ])  # fmt: skip
    model.layers[1].gamma.assign([1.0, gamma, 1.0, 1.0])
    model.layers[1].beta.assign([0.0, beta, 0.0, 0.0])
    model.layers[3].bias.assign(np.full(4, beta, np.float32))
    return model


def default_error(path, model):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (received,) = session.run(None, {session.get_inputs()[0].name: SAMPLES})
    expected = np.asarray(model.predict(SAMPLES, verbose=0))
    return np.abs(received - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("gamma", "beta", "bits", "way"),
    [(1e-7, 0.5, "w8a8", "ptq"), (0.0, 2.0, "w8a8", "qat"), (1.0, 1.0, "w16a16", "ptq"), (0.0, 2.0, "w4a8", "ptq")],
)
def test_a_default_session_computes_what_the_model_computes(tmp_path, gamma, beta, bits, way):
    config = mct.QuantizationConfig.from_bits(bits, first_last_bits=None)
    model = network(gamma, beta)
    if way == "ptq":
        model = mct.quantize(model, SAMPLES, config)
    else:
        model = mct.finalize(mct.prepare_qat(model, SAMPLES))
    report = mct.export(model, tmp_path / "model.onnx", verify=SAMPLES, quiet=True)
    assert report.parity.passed
    assert default_error(tmp_path / "model.onnx", model) < 0.01


def test_the_proof_fails_where_only_the_default_session_is_wrong(tmp_path):
    model = mct.quantize(network(0.0, 2.0), SAMPLES)
    path = tmp_path / "model.onnx"
    mct.export(model, path, verify=SAMPLES, quiet=True)
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("kernel/scale"):
            scale = numpy_helper.to_array(tensor).copy()
            codes = next(other for other in proto.graph.initializer if other.name == tensor.name[:-5] + "codes")
            is_zero = ~numpy_helper.to_array(codes).reshape(len(codes.dims) and codes.dims[0], -1).any(axis=1)
            if len(is_zero) == len(scale):
                scale[is_zero] = 1e-10
                tensor.CopyFrom(numpy_helper.from_array(scale, tensor.name))
    onnx.save(proto, path)
    report = compare_onnx(model, path, [(SAMPLES,)])
    assert not any(tensor.diverges for tensor in report.tensors)
    assert report.first_divergence == DEFAULT_OUTPUT
    assert default_error(path, model) > 0.1


def test_a_layer_on_sequences_keeps_its_bias(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input((6, 18)), layers.Dense(4), layers.Flatten(), layers.Dense(3)])
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel).copy()
    kernel[:, 0] *= 1e-7
    model.layers[0].kernel.assign(kernel)
    model.layers[0].bias.assign([2.0, 0.1, 0.1, 0.1])
    samples = SAMPLES.reshape(16, 6, 18)
    quantized = mct.quantize(model, samples)
    report = mct.export(quantized, tmp_path / "model.onnx", verify=samples, quiet=True)
    assert report.parity.passed
    assert report.parity.default_session_error < 0.01


@pytest.mark.parametrize("bits", ["w4a4", "w16a16"])
def test_a_bias_that_is_added_twice_is_written_once(tmp_path, bits):
    keras.utils.set_random_seed(0)
    inputs, head = keras.Input((6, 6, 3)), layers.Conv2D(4, 1, bias_initializer="ones", name="head")
    low = layers.Conv2D(8, 3, activation="relu")(inputs)
    model = keras.Model(inputs, [head(low), head(layers.Conv2D(8, 3, activation="relu")(low))])
    quantized = mct.quantize(model, SAMPLES, mct.QuantizationConfig.from_bits(bits))
    assert mct.export(quantized, tmp_path / "model.onnx", verify=SAMPLES, quiet=True).parity.passed
    names = [tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert len(names) == len(set(names))
    assert sum("head" in name and "bias" in name for name in names) == 1


def test_independent_axes_have_names_of_their_own_and_outputs_those_of_their_keys(tmp_path):
    keras.utils.set_random_seed(0)
    queries, keys = keras.Input((8,), name="queries"), keras.Input((8,), name="keys")
    scores = keras.ops.matmul(layers.Dense(8)(queries), keras.ops.transpose(layers.Dense(8)(keys)))
    model = keras.Model([queries, keys], {"scores": scores, "class": layers.Dense(3)(queries)})
    x = SAMPLES.reshape(16, -1)[:, :8]
    quantized = mct.quantize(model, [(x, x)])
    assert mct.export(quantized, tmp_path / "model.onnx", verify=[(x, x)], quiet=True).parity.passed
    graph = onnx.load(tmp_path / "model.onnx").graph
    sizes = [[axis.dim_param or axis.dim_value for axis in v.type.tensor_type.shape.dim] for v in graph.input]
    assert sizes == [["batch", 8], ["keys_batch", 8]]
    assert [value.name for value in graph.output] == ["class", "scores"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    received = session.run(["scores"], {"queries": x[:4], "keys": x[:7]})[0]
    expected = keras.ops.convert_to_numpy(quantized([x[:4], x[:7]])["scores"])
    # Integer kernels may round a value at a tie to the other side.
    assert np.allclose(received, expected, atol=0.05)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

pytest.importorskip("keras.layers")
pytest.importorskip("onnxruntime")

import keras
from toolkit.keras_models import images, residual

import model_compression_toolkit as mct
from model_compression_toolkit.exporter import ExportFormat, read_plan
from model_compression_toolkit.exporter.keras import export_facade

pytestmark = pytest.mark.keras


@pytest.fixture(scope="module")
def model():
    return residual()


@pytest.fixture(scope="module")
def frozen(model):
    return mct.quantize(model, images(32), mct.QuantizationConfig.from_bits("w4a8"))


def test_onnx_carries_the_plan_and_the_proof(frozen, tmp_path, capsys):
    report = mct.export(frozen, tmp_path / "model.onnx", verify=images(32))
    assert "Parity passed" in capsys.readouterr().out
    assert report.format is ExportFormat.ONNX
    assert report.parity.passed
    plan, info = read_plan(tmp_path / "model.onnx")
    assert plan == mct.plan_of(frozen)
    assert info.file_size == report.file_size
    assert {t.name for t in report.parity.tensors} == {t.name for t in plan.quantized()}


def test_keras_files_load_with_their_plan(frozen, tmp_path):
    report = mct.export(frozen, tmp_path / "model.keras", quiet=True)
    assert report.parity is None
    loaded = mct.keras_load_quantized_model(tmp_path / "model.keras")
    x = images(8)
    expected, found = (keras.ops.convert_to_numpy(net(x)) for net in (frozen, loaded))
    np.testing.assert_array_equal(found, expected)
    assert mct.plan_of(loaded) == mct.plan_of(frozen)


def test_a_keras_file_is_loaded_and_compared(frozen, tmp_path):
    report = mct.export(frozen, tmp_path / "model.keras", verify=images(40), quiet=True)
    assert report.parity.passed
    assert report.parity.num_samples == 40
    assert report.parity.max_output_difference == 0.0
    assert report.parity.argmax_agreement == 1.0
    plan = mct.plan_of(frozen)
    assert [tensor.name for tensor in report.parity.tensors] == [tensor.name for tensor in plan.quantized()]
    sizes = {tensor.name: tensor.num_elements for tensor in report.parity.tensors if tensor.num_elements}
    assert sizes == {tensor.name: tensor.num_elements for tensor in plan.quantized() if tensor.is_weight}
    with pytest.raises(ValueError, match="`data` must hold at least one batch"):
        mct.export(frozen, tmp_path / "other.keras", verify=[])
    assert not (tmp_path / "other.keras").exists()


def test_litert_is_named_as_in_the_plan_or_says_which_backend_it_needs(frozen, tmp_path):
    path = tmp_path / "model.tflite"
    if keras.config.backend() != "tensorflow":
        with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
            mct.export(frozen, path, quiet=True)
        assert not path.exists()
        return
    report = mct.export(frozen, path, verify=images(32), quiet=True)
    assert report.parity.passed
    assert {t.name for t in report.parity.tensors} == {t.name for t in mct.plan_of(frozen).quantized()}


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".keras"])
def test_a_file_that_computes_something_else_raises_and_stays(tmp_path, monkeypatch, suffix):
    if suffix == ".tflite" and keras.config.backend() != "tensorflow":
        pytest.skip("LiteRT is written from TensorFlow")
    data = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    networks = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        network = keras.Sequential(
            [keras.Input((4,), name="x"), keras.layers.Dense(3, activation="relu", name="dense")]
        )
        networks.append(mct.quantize(network, data))
    content = mct.export(networks[1], tmp_path / f"other{suffix}", quiet=True).path.read_bytes()
    monkeypatch.setattr(export_facade, "write_atomically", lambda path, write: path.write_bytes(content))
    with pytest.raises(mct.ParityError, match="first at ") as raised:
        mct.export(networks[0], tmp_path / f"model{suffix}", verify=data, quiet=True)
    assert raised.value.report.parity.first_divergence in ("x.output", "dense.kernel")
    assert (tmp_path / f"model{suffix}").read_bytes() == content


def test_what_cannot_be_exported_leaves_nothing(model, frozen, tmp_path):
    prepared = mct.prepare_qat(model, images(32))
    with pytest.raises(ValueError, match="still in quantization-aware training: `finalize` it first"):
        mct.export(prepared, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="one without a plan"):
        mct.export(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"\['.onnx', '.tflite', '.keras'\]"):
        mct.export(frozen, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="`data` must hold at least one batch"):
        mct.export(frozen, tmp_path / "model.onnx", verify=[])
    with pytest.raises(ValueError, match=r"A Keras model is in its \.keras file: keras_load_quantized_model"):
        mct.load(tmp_path / "model.safetensors", frozen)
    assert not list(tmp_path.iterdir())

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The command line with Keras models."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("keras.layers")
pytest.importorskip("onnxruntime")

import keras
from toolkit.keras_models import images, residual, sequential

from model_compression_toolkit import cli, keras_load_quantized_model
from model_compression_toolkit.cli import demo

pytestmark = pytest.mark.keras


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    data = images(64)
    residual().save(tmp_path / "float.keras")
    np.savez(tmp_path / "data.npz", x=data, y=np.arange(64) % 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mct", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def quantize(name):
    return "quantize", "--model", name, "--data", "data.npz", "--out", "out"


def test_quantize_with_training_writes_proven_files(workspace, monkeypatch, capsys):
    assert run(monkeypatch, *quantize("float.keras"), "--bits", "w4a8", "--qat-epochs", 1) == 0
    assert "Parity passed" in capsys.readouterr().out
    report = json.loads((workspace / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["parity"]["passed"]
    assert report["quantized_weights"] == 3
    assert {"float", "quantized"} == set(report["accuracy"])
    is_tensorflow = keras.config.backend() == "tensorflow"
    assert (report["litert_parity"] is not None) is is_tensorflow
    assert (workspace / "out" / "model.tflite").exists() is is_tensorflow
    loaded = keras_load_quantized_model("out/model.keras")
    classes = keras.ops.convert_to_numpy(loaded(images(64))).argmax(axis=1)
    assert report["accuracy"]["quantized"] == pytest.approx(100 * np.mean(classes == np.arange(64) % 3))
    assert run(monkeypatch, "inspect", "out/model.onnx", "--json") == 0
    assert '"layer": "stem_conv"' in capsys.readouterr().out


def lambda_file(folder):
    x = keras.Input((8, 8, 3))
    keras.Model(x, keras.layers.Lambda(lambda tensor: tensor * 2.0)(x)).save(folder / "lambda.keras")


@pytest.mark.parametrize(
    "arguments, text",
    [
        (quantize("none.keras"), "`--model` must name a file that exists. Received: none.keras"),
        (quantize("damaged.keras"), "`--model` must be a .keras file that loads in safe mode"),
        (quantize("lambda.keras"), "Replace Lambda layers by keras.ops functions"),
        ((*quantize("float.keras"), "--weights", "data.npz"), "`--weights` must not be given with a .keras file"),
        (quantize("other.keras"), "`data` must yield the inputs of the model"),
    ],
    ids=["missing", "damaged", "code", "weights", "shape"],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, text, workspace, monkeypatch, capsys):
    lambda_file(workspace)
    (workspace / "damaged.keras").write_bytes((workspace / "float.keras").read_bytes()[:500])
    x = keras.Input((5,))
    keras.Model(x, keras.layers.Dense(2)(x)).save("other.keras")
    assert run(monkeypatch, *arguments) == 1
    error = capsys.readouterr().err
    assert text in error
    assert len(error.strip().splitlines()) == 1
    assert not list(workspace.glob("out/*"))


@pytest.mark.slow_on("jax")
def test_demo_trains_and_proves_in_keras(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(demo, "QAT_EPOCHS", {"w4a4": 1})
    arguments = ("demo", "--framework", "keras", "--out", tmp_path, "--float-epochs", 1, "--json")
    assert run(monkeypatch, *arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["model"] for row in rows] == ["float", "w8a8", "w4a4"]
    for row in rows[1:]:
        assert row["weights_equal"], row
        assert row["max_steps"] <= 1, row
    # The float network alone: who loads it has neither the optimizer nor its schedule.
    float_network = keras.saving.load_model(tmp_path / "float.keras")
    assert not float_network.compiled
    assert rows[0]["file_size"] < 1.3 * 4 * float_network.count_params()


def test_models_without_batch_norm_are_taken_too(workspace, monkeypatch):
    sequential().save("float.keras")
    np.savez("data.npz", x=images(32))
    assert run(monkeypatch, *quantize("float.keras")) == 0
    assert json.loads((workspace / "out" / "report.json").read_text(encoding="utf-8"))["accuracy"] is None

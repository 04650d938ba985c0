# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`keras_export_model`: each pair of formats gives back the frozen model's outputs."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import model_compression_toolkit as mct  # noqa: E402
from model_compression_toolkit.exporter import KerasExportSerializationFormat, QuantizationFormat  # noqa: E402

pytestmark = pytest.mark.keras

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
TFLITE = KerasExportSerializationFormat.TFLITE


@pytest.fixture(scope="module")
def frozen():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
    return mct.quantize(keras.Sequential(layers), X)


def test_keras_file_is_the_default(frozen, tmp_path):
    path = tmp_path / "model.keras"
    assert mct.exporter.keras_export_model(frozen, path) == {}
    loaded = mct.keras_load_quantized_model(path)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), frozen.predict(X, verbose=0))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="LiteRT needs the TensorFlow backend")
# The interpreter of users today; TensorFlow announces that it moves.
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_integers_in_litert(frozen, tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    path = tmp_path / "model.tflite"
    mct.exporter.keras_export_model(
        frozen, path, serialization_format=TFLITE, quantization_format=QuantizationFormat.INT8
    )
    interpreter = tensorflow.lite.Interpreter(str(path))
    (entry,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(entry["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], X)
    interpreter.invoke()
    expected = frozen.predict(X, verbose=0)
    outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    # A sum that falls on the other side of a tie moves a hidden code by one step.
    np.testing.assert_allclose(outputs, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"serialization_format": TFLITE}, ValueError, "KERAS as MCTQ, TFLITE as INT8. Received: TFLITE as MCTQ"),
        ({"quantization_format": QuantizationFormat.FAKELY_QUANT}, ValueError, "Received: KERAS as FAKELY_QUANT"),
        ({"quantization_format": "mctq"}, TypeError, "`quantization_format` must be a QuantizationFormat"),
        ({"save_model_path": "model.h5"}, ValueError, "must end with one of"),
    ],
)
def test_what_is_not_written_is_refused_and_leaves_no_file(frozen, tmp_path, monkeypatch, arguments, error, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=text):
        mct.exporter.keras_export_model(frozen, **{"save_model_path": "model.keras", **arguments})
    assert not list(tmp_path.iterdir())

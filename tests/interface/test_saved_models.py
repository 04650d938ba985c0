# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a release has written are read by all later ones. `saved_networks.py` wrote them."""

from pathlib import Path

import numpy as np
import pytest
from saved_networks import channels_first, float_network, images, torch_network

RELEASES = sorted(path for path in (Path(__file__).parent / "saved_models").iterdir() if path.is_dir())
# Between engines and machines sums of float products differ in their last bits; every quantized value is far from a
# tie, or a whole step (more than 0.01) would show.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def release(request):
    return request.param


def outputs_of(release: Path) -> dict[str, np.ndarray]:
    with np.load(release / "outputs.npz", allow_pickle=False) as file:
        return dict(file)


def test_there_are_files_and_they_are_small(release):
    names = {path.name for path in release.iterdir()}
    assert names >= {"runtime.safetensors", "runtime.keras", "frozen.safetensors", "frozen.onnx", "outputs.npz"}
    assert all(path.stat().st_size < 10_000 for path in release.iterdir())
    np.testing.assert_array_equal(outputs_of(release)["image"], images())


def test_model_of_the_pytorch_runtime(release):
    pytest.importorskip("torch")
    from mct_quantizers import pytorch_load_quantized_model

    model = pytorch_load_quantized_model(release / "runtime.safetensors", torch_network(quantized=False))
    result = model(channels_first(images())).detach().numpy()
    np.testing.assert_allclose(result, outputs_of(release)["runtime_safetensors"], **TOLERANCE)
    assert model.metadata["made_by"] == "saved_networks.py"


def test_frozen_model_of_the_toolkit(release):
    pytest.importorskip("torch")
    import model_compression_toolkit as mct

    model = mct.load(release / "frozen.safetensors", float_network())
    result = model(channels_first(images())).detach().numpy()
    np.testing.assert_allclose(result, outputs_of(release)["frozen"], **TOLERANCE)


def test_onnx_file(release):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(release / "frozen.onnx", providers=["CPUExecutionProvider"])
    image = images().transpose(0, 3, 1, 2)
    (result,) = session.run(None, {session.get_inputs()[0].name: image})
    np.testing.assert_allclose(result, outputs_of(release)["frozen"], **TOLERANCE)


@pytest.mark.keras
@pytest.mark.parametrize("by_keras_itself", [False, True])
def test_keras_model(release, by_keras_itself):
    pytest.importorskip("keras.layers")
    keras = pytest.importorskip("keras")
    from mct_quantizers import keras_load_quantized_model

    load = keras.saving.load_model if by_keras_itself else keras_load_quantized_model
    model = load(release / "runtime.keras")
    np.testing.assert_allclose(model.predict(images(), verbose=0), outputs_of(release)["runtime_keras"], **TOLERANCE)
    if not by_keras_itself:
        assert model.metadata["layers"] == [3, {"tables": 1}]

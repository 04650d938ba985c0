# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The examples of the interface's documents, as printed, and what these say beyond their code."""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras.layers")

keras = pytest.importorskip("keras")
from model_compression_toolkit import quantizers_infrastructure as qi  # noqa: E402

DOCUMENTS = Path(__file__).parent / "documents"
pytestmark = pytest.mark.keras


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="the example is written with TensorFlow")
def test_example_of_the_keras_inferable_quantizers_runs_as_printed(capsys):
    names = runpy.run_path(os.fspath(DOCUMENTS / "keras_inferable_quantizers.py"))
    assert names["quantized_tensor"].shape == (1, 3, 3, 3)
    assert "tf.Tensor" in capsys.readouterr().out
    check_channels(names["quantized_tensor"].numpy())


def test_the_quantizer_of_the_example_works_on_every_backend():
    quantizer = qi.keras_inferable_quantizers.WeightsSymmetricInferableQuantizer(
        num_bits=8, threshold=[2, 4, 1], per_channel=True, channel_axis=-1, signed=True
    )
    x = np.random.default_rng(0).uniform(-100, 100, (1, 3, 3, 3)).astype(np.float32)
    first, second = (keras.ops.convert_to_numpy(quantizer(x)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    check_channels(first)


def check_channels(quantized: np.ndarray) -> None:
    for channel, threshold in enumerate((2, 4, 1)):
        values = quantized[..., channel]
        assert ((values >= -threshold) & (values < threshold)).all()
        # Uniform numbers up to 100 saturate nearly always.
        assert {values.min(), values.max()} <= {-threshold, threshold - threshold / 128}
        np.testing.assert_array_equal(values * 128 / threshold, np.round(values * 128 / threshold))


@pytest.mark.parametrize("kind", ["POT", "Symmetric", "Uniform"])
@pytest.mark.parametrize("target", ["Weights", "Activation"])
def test_the_documented_classes_exist_and_quantize(kind, target):
    cls = getattr(qi.keras_inferable_quantizers, f"{target}{kind}InferableQuantizer")
    ends = {"min_range": [-1], "max_range": [3]} if kind == "Uniform" else {"threshold": [2]}
    place = {"per_channel": False} if target == "Weights" else {} if kind == "Uniform" else {"signed": True}
    quantizer = cls(num_bits=4, **ends, **place)
    outputs = keras.ops.convert_to_numpy(quantizer(np.linspace(-5, 5, 101, dtype=np.float32)))
    assert len(np.unique(outputs)) == 16
    assert keras.ops.convert_to_numpy(quantizer(np.zeros(1, np.float32))) == 0


def test_weights_without_sign_use_the_grid_above_zero():
    quantizer = qi.keras_inferable_quantizers.WeightsSymmetricInferableQuantizer(2, 1, False, signed=False)
    outputs = keras.ops.convert_to_numpy(quantizer(np.linspace(-2, 2, 41, dtype=np.float32)))
    assert np.unique(outputs).tolist() == [0.0, 0.25, 0.5, 0.75]

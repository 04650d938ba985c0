# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which wing takes a model."""

import pytest

from model_compression_toolkit.core.common.framework import wing_module, wing_of


def test_modules_of_torch_are_taken_by_the_pytorch_wing():
    nn = pytest.importorskip("torch.nn")
    assert wing_of(nn.Linear(2, 2)) == "pytorch"
    name = "model_compression_toolkit.ptq.{}.quantization_facade"
    assert wing_module(nn.ReLU(), name).__name__ == name.format("pytorch")


@pytest.mark.keras
def test_keras_models_are_taken_by_the_keras_wing_on_every_backend():
    keras = pytest.importorskip("keras")
    # On the torch backend it is a torch module too.
    assert wing_of(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])) == "keras"


@pytest.mark.parametrize("module", ["tf_keras.src.engine.training", "tensorflow.python.keras.engine.training"])
def test_models_of_keras_2_are_told_the_way_out(module):
    legacy = type("Functional", (), {"__module__": module})
    with pytest.raises(TypeError, match=r"Received: Functional \(Keras 2: build it with `import keras`, Keras 3"):
        wing_of(legacy())


@pytest.mark.parametrize("model", [None, "model", 3, len], ids=["none", "text", "number", "function"])
def test_anything_else_is_refused(model):
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module or a keras.Model of Keras 3. Received"):
        wing_of(model)

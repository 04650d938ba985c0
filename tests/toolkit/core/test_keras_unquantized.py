# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What is assembled is compared with the user's model, before anything is returned."""

import types

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers
from keras_models import fresh, random, run
from keras_own_models import own

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras import capture, module_surgery
from model_compression_toolkit.core.keras.recorded_calls import replace_operations
from model_compression_toolkit.core.keras.unquantized import unquantized

pytestmark = pytest.mark.keras

MODULES = mct.QuantizationConfig(capture="modules")
TWO_BITS = mct.QuantizationConfig.from_bits("w2a2", first_last_bits=2)


@pytest.mark.parametrize("name", ["a backbone", "a backbone with a step"])
def test_the_layers_of_a_functional_model_of_its_own_class_keep_their_weights(name):
    model, inputs = own(name)
    expected = run(model, inputs)
    for verb in (mct.quantize, mct.prepare_qat):
        assembled = verb(model, inputs, MODULES)
        with unquantized(assembled):
            # The same computation, compiled anew: a few units in the last place.
            np.testing.assert_allclose(run(assembled, inputs), expected, rtol=1e-5, atol=1e-6)
        assert np.abs(run(assembled, inputs) - expected).max() > 0


def test_quantizers_are_off_for_a_while_only():
    model, inputs = fresh("residual")
    for config in (TWO_BITS, mct.QuantizationConfig.from_bits("w2a2", first_last_bits=2, capture="modules")):
        quantized = mct.quantize(model, inputs, config)
        before = run(quantized, inputs)
        with pytest.raises(KeyError), unquantized(quantized):
            np.testing.assert_allclose(run(quantized, inputs), run(model, inputs), rtol=1e-3, atol=1e-4)
            raise KeyError
        assert np.array_equal(run(quantized, inputs), before)
        assert np.abs(before - run(model, inputs)).max() > 0.1


@pytest.mark.parametrize("verb", [mct.quantize, mct.prepare_qat])
def test_a_copy_that_lost_its_weights_is_never_returned(verb, monkeypatch):
    model, inputs = own("with a token")
    monkeypatch.setattr(module_surgery, "copy_state", lambda *arguments: None)
    with pytest.raises(ValueError, match=r"computes something else than `model`, before anything is quantized"):
        verb(model, inputs)


@pytest.mark.parametrize("verb", [mct.quantize, mct.prepare_qat])
def test_a_graph_whose_batch_norm_is_treated_in_a_wrong_way_is_never_returned(verb, monkeypatch):
    model, inputs = fresh("sequential")
    right = capture.Captured.float_model

    def damaged(self, observed=None):
        # Shapes, calibration: after the copies were compared, before they are assembled.
        if observed is not None:
            for layer in self.copies.values():
                if isinstance(layer, layers.Conv2D):
                    layer.bias.assign(layer.bias + 1.0)
        return right(self, observed)

    monkeypatch.setattr(capture.Captured, "float_model", damaged)
    with pytest.raises(ValueError, match=r"computes something else than `model`, before anything is quantized"):
        verb(model, inputs)


def test_without_what_keras_records_a_functional_model_of_its_own_class_is_refused():
    with pytest.raises(NotImplementedError, match=r"has no \['_nodes_by_depth'.*plain functional one"):
        replace_operations(types.SimpleNamespace(), {})


def test_a_sequential_model_of_its_own_class_is_quantized_layer_by_layer():
    class Own(keras.Sequential):
        pass

    keras.saving.register_keras_serializable("own_models")(Own)
    model = Own([keras.Input((5,)), layers.Dense(4, activation="relu"), layers.Dense(2)])
    inputs = random(16, 5)
    quantized = mct.quantize(model, inputs, MODULES)
    with unquantized(quantized):
        np.testing.assert_allclose(run(quantized, inputs), run(model, inputs), rtol=1e-5, atol=1e-6)

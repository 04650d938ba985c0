# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of layers inside the wrapped layer."""

import keras
import numpy as np
import pytest
from keras import layers

from mct_quantizers import KerasQuantizationWrapper, keras_load_quantized_model
from mct_quantizers.keras.quantizers import WeightsSymmetricInferableQuantizer

pytestmark = pytest.mark.keras

CASES = {
    "LSTM": (lambda: layers.LSTM(5), ("cell.kernel", "cell.recurrent_kernel")),
    "GRU": (lambda: layers.GRU(5), ("cell.kernel", "cell.recurrent_kernel")),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(3)), ("forward_layer.cell.kernel",)),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(4)), ("layer.kernel",)),
}


def inner(layer, path):
    *owners, weight = path.split(".")
    for name in owners:
        layer = getattr(layer, name)
    return getattr(layer, weight)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("make, paths", CASES.values(), ids=CASES)
def test_the_layer_runs_with_quantized_weights(make, paths, tmp_path):
    quantizer = {path: WeightsSymmetricInferableQuantizer(3, [0.7], per_channel=False) for path in paths}
    x = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    inputs = keras.Input((6, 5))
    wrapper = KerasQuantizationWrapper(make(), quantizer)
    model = keras.Model(inputs, wrapper(inputs))
    kept = [numpy(inner(wrapper.layer, path)) for path in paths]
    output = numpy(model(x))
    for path, value in zip(paths, kept, strict=True):
        np.testing.assert_array_equal(numpy(inner(wrapper.layer, path)), value)

    plain = make()
    plain(x)
    plain.set_weights(wrapper.layer.get_weights())
    for path in paths:
        variable = inner(plain, path)
        variable.assign(np.clip(np.rint(numpy(variable) / 0.175), -4, 3) * 0.175)
    # The grid above is the formula in float64; products differ by its last bits.
    np.testing.assert_allclose(output, numpy(plain(x)), rtol=1e-5, atol=1e-6)

    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(keras_load_quantized_model(tmp_path / "model.keras")(x)), output)


def test_a_path_that_leads_nowhere_is_named():
    layer = layers.LSTM(3)
    layer.build((None, 4, 2))
    with pytest.raises(ValueError, match=r"Received: 'cell\.weight', which LSTM does not have"):
        KerasQuantizationWrapper(
            layer, {"cell.weight": WeightsSymmetricInferableQuantizer(4, [1.0], per_channel=False)}
        )

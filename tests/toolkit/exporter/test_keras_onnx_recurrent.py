# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers in an ONNX file, in float and with quantized kernels, against Keras by ONNX Runtime."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")
pytest.importorskip("onnxruntime")

import keras
from keras import layers
from keras_onnx_checks import assert_same_outputs, compared, quantized, samples, spread
from onnx import TensorProto, numpy_helper

import model_compression_toolkit as mct
from mct_quantizers import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantizers import ActivationUniformInferableQuantizer
from model_compression_toolkit.exporter.keras.onnx_export import export_onnx

pytestmark = pytest.mark.keras
# The translation is NumPy's; compiling many small models shows nothing new.
not_on_jax = pytest.mark.skipif(keras.config.backend() == "jax", reason="shown on TensorFlow and torch")

STEPS = (6, 5)
RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN)
KERNELS = ("cell.kernel", "cell.recurrent_kernel")


def of_layer(layer, shape=STEPS):
    x = keras.Input(shape)
    model = keras.Model(x, layer(x))
    spread(model)
    return model


CASES = {
    "lstm, last": lambda: layers.LSTM(4),
    "lstm, all, backwards, states": lambda: layers.LSTM(4, return_sequences=True, go_backwards=True, return_state=True),
    "lstm, no bias, other functions": lambda: layers.LSTM(
        4, use_bias=False, activation="softsign", recurrent_activation="hard_sigmoid"
    ),
    "gru, all, states": lambda: layers.GRU(4, return_sequences=True, return_state=True),
    "gru, reset before": lambda: layers.GRU(4, reset_after=False, go_backwards=True, dropout=0.5),
    "gru, no bias": lambda: layers.GRU(4, use_bias=False, activation="relu", recurrent_dropout=0.5),
    "rnn, all": lambda: layers.SimpleRNN(4, return_sequences=True, activation="softplus"),
    "rnn, last, states": lambda: layers.SimpleRNN(4, use_bias=False, return_state=True),
    "both ways, concatenated": lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
    "both ways, summed": lambda: layers.Bidirectional(layers.GRU(4), merge_mode="sum"),
    "both ways, averaged": lambda: layers.Bidirectional(
        layers.SimpleRNN(4, return_sequences=True, return_state=True), merge_mode="ave"
    ),
    "both ways, apart": lambda: layers.Bidirectional(
        layers.GRU(4, return_sequences=True, go_backwards=True),
        merge_mode=None,
        backward_layer=layers.GRU(4, return_sequences=True),
    ),
    "both ways, multiplied": lambda: layers.Bidirectional(layers.SimpleRNN(4), merge_mode="mul"),
}


@not_on_jax
@pytest.mark.parametrize("case", CASES)
def test_a_recurrent_layer_in_float_computes_the_same(case):
    # The states of six steps add up the rounding of a few float32 products each.
    assert_same_outputs(of_layer(CASES[case]()))


@not_on_jax
def test_states_go_from_layer_to_layer():
    source, target = keras.Input(STEPS), keras.Input((None, 5))
    _, *states = layers.LSTM(4, return_state=True)(source)
    y = layers.LSTM(4, return_sequences=True)(target, initial_state=states)
    y = layers.GRU(4)(y, initial_state=states[0])
    model = keras.Model([source, target], y)
    spread(model)
    assert_same_outputs(model)


@not_on_jax
@pytest.mark.parametrize(("num_bits", "is_symmetric", "axis"), [(4, False, -1), (8, True, None)])
@pytest.mark.parametrize("cls", RECURRENT)
def test_the_kernels_are_integers_in_the_file(cls, num_bits, is_symmetric, axis, tmp_path):
    x = keras.Input(STEPS)
    layer = cls(4, name="memory", return_sequences=True, go_backwards=True)
    layer(x)
    wrapper = quantized(spread(layer), dict.fromkeys(KERNELS, axis), num_bits, is_symmetric)
    holder = KerasActivationQuantizationHolder(ActivationUniformInferableQuantizer(8, [-4.0], [4.0]))
    report, constants = compared(keras.Model(x, wrapper(holder(x))), tmp_path / "model.onnx")
    assert [tensor.name for tensor in report.tensors][1:] == [f"memory.{key}" for key in KERNELS]
    data_type = TensorProto.INT8 if num_bits == 8 else TensorProto.UINT4
    assert {constants[f"memory.{key}/codes"].data_type for key in KERNELS} == {data_type}
    codes = numpy_helper.to_array(constants["memory.cell.kernel/codes"]).astype(np.int32)
    gates = {layers.LSTM: [0, 3, 1, 2], layers.GRU: [0, 1, 2], layers.SimpleRNN: [0]}[cls]
    expected = keras.ops.convert_to_numpy(wrapper.get_integer_weights()["cell.kernel"]).T.reshape(len(gates), 4, 5)
    np.testing.assert_array_equal(codes, expected[gates].reshape(1, -1, 5))
    if axis is not None:
        scale = wrapper.weights_quantizers["cell.kernel"].params.scale.astype(np.float32).reshape(len(gates), 4)
        np.testing.assert_array_equal(
            numpy_helper.to_array(constants["memory.cell.kernel/scale"]), scale[gates].reshape(-1)
        )


@not_on_jax
def test_both_directions_are_quantized(tmp_path):
    x = keras.Input(STEPS)
    layer = layers.Bidirectional(layers.LSTM(4), name="both")
    layer(x)
    keys = [f"{way}_layer.{key}" for way in ("forward", "backward") for key in KERNELS]
    report, _ = compared(keras.Model(x, quantized(spread(layer), dict.fromkeys(keys, -1))(x)), tmp_path / "model.onnx")
    assert [tensor.name for tensor in report.tensors] == [f"both.{key}" for key in keys]


DISTRIBUTED = {
    "dense": (lambda: layers.Dense(3, activation="relu"), STEPS, "layer.kernel"),
    "conv": (lambda: layers.Conv2D(3, 2, strides=2, padding="same"), (2, 5, 4, 3), "layer.kernel"),
    "recurrent": (lambda: layers.LSTM(4), (2, *STEPS), "layer.cell.kernel"),
}


@not_on_jax
@pytest.mark.parametrize("case", DISTRIBUTED)
def test_a_layer_of_each_step_is_quantized(case, tmp_path):
    make, shape, key = DISTRIBUTED[case]
    x = keras.Input(shape)
    layer = layers.TimeDistributed(make(), name="steps")
    layer(x)
    model = keras.Model(x, quantized(spread(layer), {key: -1})(x))
    report, constants = compared(model, tmp_path / "model.onnx")
    assert [tensor.name for tensor in report.tensors] == [f"steps.{key}"]
    assert constants[f"steps.{key}/codes"].data_type == TensorProto.UINT4


def test_a_recurrent_model_is_quantized_and_exported_with_every_weight(tmp_path):
    x = keras.Input(STEPS)
    y = layers.TimeDistributed(layers.Dense(4, activation="relu"), name="steps")(x)
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(y)
    model = keras.Model(x, layers.Dense(3)(layers.LSTM(4, name="memory")(y)))
    spread(model)
    data = samples(model, 32)[0]
    frozen = mct.quantize(model, data, mct.QuantizationConfig.from_bits("w4a8"))
    parity = mct.export(frozen, tmp_path / "model.onnx", verify=data, quiet=True).parity
    assert parity.passed, str(parity)
    names = [tensor.name for tensor in parity.tensors]
    assert names == [tensor.name for tensor in mct.plan_of(frozen).quantized()]
    assert {"steps.layer.kernel", "both.backward_layer.cell.kernel", "memory.cell.recurrent_kernel"} < set(names)


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (lambda: layers.LSTM(4, activation="gelu"), STEPS, "activation='gelu'.* Supported: .*'tanh'"),
        (lambda: layers.GRU(4, recurrent_activation=None), STEPS, "recurrent_activation='linear'"),
        (lambda: layers.RNN(layers.LSTMCell(4)), STEPS, "RNN, cannot be exported"),
        (lambda: layers.TimeDistributed(layers.Dense(4)), (None, 5), "an input of shape .* fixed size"),
    ],
)
def test_what_is_left_out_is_refused_by_name(layer, shape, words):
    with pytest.raises(ValueError, match=words):
        export_onnx(of_layer(layer(), shape))


def test_states_that_stay_and_masks_are_refused():
    x = keras.Input(batch_shape=(2, *STEPS))
    with pytest.raises(ValueError, match="stateful=True"):
        export_onnx(keras.Model(x, layers.LSTM(4, stateful=True)(x)))
    mask = keras.Input(batch_shape=(2, 6), dtype="bool")
    with pytest.raises(ValueError, match=r"the arguments \['mask'\]"):
        export_onnx(keras.Model([x, mask], layers.LSTM(4)(x, mask=mask)))


def test_a_quantized_bias_is_refused_by_name():
    x = keras.Input(STEPS)
    layer = layers.GRU(4, name="memory")
    layer(x)
    with pytest.raises(ValueError, match=r"memory, of class GRU, .* quantizer of \['cell.bias'\]"):
        export_onnx(keras.Model(x, quantized(spread(layer), {"cell.kernel": -1, "cell.bias": None})(x)))

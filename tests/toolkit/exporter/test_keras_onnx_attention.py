# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Attention layers in an ONNX file, in float and with quantized projections, against Keras by ONNX Runtime."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")
pytest.importorskip("onnxruntime")

import keras
from keras import layers, ops
from keras_onnx_checks import assert_same_outputs, compared, quantized, randomized, run, samples, spread
from onnx import TensorProto, numpy_helper

import model_compression_toolkit as mct
from mct_quantizers import KerasActivationQuantizationHolder, KerasQuantizationWrapper
from mct_quantizers.keras.quantizers import ActivationUniformInferableQuantizer, WeightsLUTSymmetricInferableQuantizer
from model_compression_toolkit.exporter.keras.onnx_export import export_onnx

pytestmark = pytest.mark.keras
# The translation is NumPy's; compiling many small models shows nothing new.
not_on_jax = pytest.mark.skipif(keras.config.backend() == "jax", reason="shown on TensorFlow and torch")

QUERY, VALUE = (5, 8), (7, 6)
PROJECTIONS = ("query_dense", "key_dense", "value_dense", "output_dense")
MASK = np.tril(np.ones((5, 7), bool), k=2)


def attention(**options):
    # On JAX values may be of another size than keys only beside dropout.
    return layers.MultiHeadAttention(2, 4, **options)


CASES = {
    "self attention": lambda q, v: attention()(q, q),
    "cross attention": attention(use_bias=False, value_dim=3, dropout=0.5),
    "a key of its own": lambda q, v: attention(output_shape=(2, 3))(q, v, key=ops.relu(v)),
    "causal": lambda q, v: attention()(q, q, use_causal_mask=True),
    "causal, more keys than queries": lambda q, v: attention(dropout=0.5)(q, v, use_causal_mask=True),
    "a window": lambda q, v: attention(sliding_window=2)(q, q),
    "a causal window": lambda q, v: attention(sliding_window=3)(q, v, use_causal_mask=True),
    "a constant mask": lambda q, v: attention()(q, v, attention_mask=MASK[None]),
    "scores": lambda q, v: attention()(q, q, return_attention_scores=True),
    "grouped": lambda q, v: layers.GroupQueryAttention(4, 6, 2)(q, layers.Dense(8)(v), use_causal_mask=True),
}


@not_on_jax
@pytest.mark.parametrize("case", CASES)
def test_attention_in_float_computes_the_same(case):
    query, value = keras.Input(QUERY), keras.Input(VALUE)
    assert_same_outputs(randomized(keras.Model([query, value], CASES[case](query, value))))


@not_on_jax
@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7)])
def test_a_mask_may_be_an_input_that_comes_with_a_causal_one(shape):
    query, value, mask = keras.Input(QUERY), keras.Input(VALUE), keras.Input(shape, dtype="int32")
    y = attention()(query, value, attention_mask=mask, use_causal_mask=True)
    model = randomized(keras.Model([query, value, mask], y))
    arrays = samples(model)
    arrays[2] = np.minimum(arrays[2], 1)
    # Backends differ where a query attends to nothing.
    arrays[2][..., 0] = 1
    assert 0.2 < arrays[2].mean() < 0.9
    assert_same_outputs(model, arrays=arrays)


@not_on_jax
def test_a_causal_mask_follows_a_length_that_varies():
    x = keras.Input((None, 8))
    model = randomized(keras.Model(x, attention()(x, x, use_causal_mask=True)))
    proto = export_onnx(model)
    for length in (1, 4, 9):
        batch = np.random.default_rng(length).normal(size=(2, length, 8)).astype(np.float32)
        np.testing.assert_allclose(run(proto, [batch])[0], ops.convert_to_numpy(model(batch)), atol=2e-5, rtol=2e-5)


@not_on_jax
@pytest.mark.parametrize(
    ("axis", "num_bits", "is_symmetric", "data_type"),
    [(-1, 4, False, TensorProto.UINT4), (1, 8, True, TensorProto.INT8), (None, 4, True, TensorProto.INT4)],
)
def test_the_projections_are_integers_in_the_file(axis, num_bits, is_symmetric, data_type, tmp_path):
    query, value = keras.Input(QUERY), keras.Input(VALUE)
    layer = attention(value_dim=3, dropout=0.5, name="attention")
    layer(query, value)
    axes = dict.fromkeys([f"{name}.kernel" for name in PROJECTIONS], axis)
    wrapper = quantized(spread(layer), axes, num_bits, is_symmetric)
    holder = KerasActivationQuantizationHolder(ActivationUniformInferableQuantizer(8, [-4.0], [4.0]))
    model = keras.Model([query, value], wrapper(holder(query), value=value))
    report, constants = compared(model, tmp_path / "model.onnx")
    assert [tensor.name for tensor in report.tensors][1:] == [f"attention.{key}" for key in axes]
    assert [tensor.num_elements for tensor in report.tensors][1:] == [64, 48, 36, 48]
    for key in axes:
        assert constants[f"attention.{key}/codes"].data_type == data_type
    assert list(constants["attention.value_dense.kernel/codes"].dims) == [6, 2 * 3]
    assert list(constants["attention.output_dense.kernel/codes"].dims) == [2 * 3, 8]
    if axis is not None:
        scale = numpy_helper.to_array(constants["attention.value_dense.kernel/scale"])
        expected = wrapper.weights_quantizers["value_dense.kernel"].params.scale.astype(np.float32)
        # Heads are merged with the axis along which the scales vary, or are that axis.
        np.testing.assert_array_equal(scale, np.tile(expected, 2) if axis == -1 else np.repeat(expected, 3))


@not_on_jax
def test_a_projection_on_a_table_is_stored_as_indices(tmp_path):
    x = keras.Input(QUERY)
    layer = attention(name="attention")
    layer(x, x)
    quantizer = WeightsLUTSymmetricInferableQuantizer(2, [50, -100, 0, 7], [0.5, 0.6, 0.7, 0.8], True, 2, 3)
    wrapper = KerasQuantizationWrapper(spread(layer), {"key_dense.kernel": quantizer}, name="attention")
    report, _ = compared(keras.Model(x, wrapper(x, value=x)), tmp_path / "model.onnx")
    assert [(tensor.name, tensor.compared) for tensor in report.tensors] == [("attention.key_dense.kernel", "indices")]


def test_a_transformer_is_quantized_and_exported_with_every_weight(tmp_path):
    x = keras.Input(QUERY)
    normal = layers.LayerNormalization()(x)
    y = layers.Add()([x, layers.MultiHeadAttention(2, 4, name="attention")(normal, normal, use_causal_mask=True)])
    y = layers.Add()([y, layers.Dense(8)(layers.Dense(16, activation="gelu")(layers.LayerNormalization()(y)))])
    model = keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))
    spread(model)
    data = samples(model, 32)[0]
    frozen = mct.quantize(model, data, mct.QuantizationConfig.from_bits("w4a8"))
    parity = mct.export(frozen, tmp_path / "model.onnx", verify=data, quiet=True).parity
    assert parity.passed, str(parity)
    assert [tensor.name for tensor in parity.tensors] == [tensor.name for tensor in mct.plan_of(frozen).quantized()]
    assert {f"attention.{name}.kernel" for name in PROJECTIONS} < {tensor.name for tensor in parity.tensors}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: attention()(x, x, value_mask=np.ones((1, 5), bool)), r"arguments \['value_mask'"),
        (lambda x: attention(use_gate=True)(x, x), "use_gate=True"),
        (
            lambda x: attention()(x, x[:, 1:], return_attention_scores=True),
            "return_attention_scores=True and keys of an",
        ),
        (lambda x: attention()(x[:, None], x[:, None]), "an input of 4 axes"),
    ],
)
def test_what_is_left_out_is_refused_by_name(call, words):
    x = keras.Input(QUERY)
    with pytest.raises(ValueError, match=words):
        export_onnx(keras.Model(x, call(x)))


def test_a_projection_that_keras_has_quantized_is_refused():
    x = keras.Input(QUERY)
    model = keras.Model(x, attention(name="attention")(x, x))
    model.get_layer("attention").query_dense.enable_lora(2)
    with pytest.raises(ValueError, match="attention cannot be exported to ONNX: Keras itself has quantized it"):
        export_onnx(model)

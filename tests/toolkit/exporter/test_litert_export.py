# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""LiteRT files against the frozen Keras model, and against integer arithmetic in NumPy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras")
import keras

if keras.config.backend() != "tensorflow":
    pytest.skip("LiteRT files are made on the TensorFlow backend", allow_module_level=True)

from mct_quantizers import (
    KerasActivationQuantizationHolder,
    KerasPreservingActivationQuantizationHolder,
    KerasQuantizationWrapper,
    keras_quantizers,
)
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.keras.surgery import plan_of
from model_compression_toolkit.exporter.common.parity import ParityReport
from model_compression_toolkit.exporter.keras.litert_export import export_litert
from model_compression_toolkit.exporter.keras.litert_parity import compare_litert
from model_compression_toolkit.ptq.keras.quantization_facade import quantize

pytestmark = pytest.mark.keras

L = keras.layers
INT8, FLOAT32 = 9, 0
NUM_SAMPLES = 100


@pytest.fixture(autouse=True)
def one_seed():
    keras.utils.set_random_seed(0)


def flatbuffers() -> Any:
    from tensorflow.lite.tools import flatbuffer_utils

    return flatbuffer_utils


def unsigned(threshold: float, num_bits: int = 8, **kwargs: Any) -> Any:
    quantizer = keras_quantizers.ActivationSymmetricInferableQuantizer(num_bits, [threshold], signed=False)
    return KerasActivationQuantizationHolder(quantizer, **kwargs)


def signed(threshold: float, num_bits: int = 8, **kwargs: Any) -> Any:
    quantizer = keras_quantizers.ActivationSymmetricInferableQuantizer(num_bits, [threshold], signed=True)
    return KerasActivationQuantizationHolder(quantizer, **kwargs)


def uniform(low: float, high: float, num_bits: int = 8, **kwargs: Any) -> Any:
    quantizer = keras_quantizers.ActivationUniformInferableQuantizer(num_bits, [low], [high])
    return KerasActivationQuantizationHolder(quantizer, **kwargs)


def image(shape: tuple[int | None, ...] = (8, 8, 3)) -> tuple[Any, Any]:
    """An input and its quantized value."""
    inputs = keras.Input(shape, name="image")
    return inputs, uniform(-2.7, 3.1)(inputs)


def wrapped(
    layer: Any, x: Any, num_bits: int = 8, axis: int | None = -1, key: str = "kernel", name: str | None = None
) -> Any:
    """A layer with a symmetric weight, its threshold the largest magnitude, and a random bias."""
    layer(x)
    if layer.use_bias:
        layer.bias.assign(np.random.default_rng(1).normal(0.0, 0.2, layer.bias.shape))
    kernel = np.asarray(getattr(layer, key))
    others = None if axis is None else tuple(i for i in range(kernel.ndim) if i != axis % kernel.ndim)
    threshold = np.atleast_1d(np.abs(kernel).max(axis=others)).tolist()
    quantizer = keras_quantizers.WeightsSymmetricInferableQuantizer(num_bits, threshold, axis is not None, axis)
    return KerasQuantizationWrapper(layer, {key: quantizer}, name=name or layer.name)(x)


def samples(model: keras.Model, count: int = NUM_SAMPLES) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(2)
    return tuple(rng.normal(size=(count, *x.shape[1:])).astype(np.float32) for x in model.inputs)


def exported(model: keras.Model, folder: Path) -> tuple[Path, Any]:
    """The file, and its parts as objects."""
    path = folder / "model.tflite"
    path.write_bytes(export_litert(model))
    return path, flatbuffers().read_model(str(path))


def compared(model: keras.Model, folder: Path) -> ParityReport:
    path, _ = exported(model, folder)
    return compare_litert(model, path, [samples(model)])


def operators(parts: Any) -> list[tuple[str, set[int]]]:
    """Name of each operator and the types of its floating-point or int8 inputs and outputs."""
    tensors = parts.subgraphs[0].tensors
    found = []
    for operator in parts.subgraphs[0].operators:
        used = [tensors[index].type for index in (*operator.inputs, *operator.outputs) if index >= 0]
        name = flatbuffers().opcode_to_name(parts, operator.opcodeIndex)
        found.append((name, {item for item in used if item in (INT8, FLOAT32)}))
    return found


def assert_integer(parts: Any, *expected: str) -> None:
    """Everything between the Quantize of the inputs and the Dequantize of the outputs is int8."""
    inner = [(name, types) for name, types in operators(parts) if name not in ("QUANTIZE", "DEQUANTIZE")]
    assert all(FLOAT32 not in types for _, types in inner), inner
    assert set(expected) <= {name for name, _ in inner}
    ends = [types for name, types in operators(parts) if name in ("QUANTIZE", "DEQUANTIZE") and FLOAT32 in types]
    assert len(ends) == len(parts.subgraphs[0].inputs) + len(parts.subgraphs[0].outputs)


def assert_parity(model: keras.Model, report: ParityReport) -> None:
    assert report.passed, f"{report}\n{[t for t in report.tensors if t.diverges]}"
    assert report.not_compared == ()
    holders = [layer.name for layer in model.layers if isinstance(layer, KerasActivationQuantizationHolder)]
    assert [tensor.name for tensor in report.tensors if tensor.target.name == "Activation"] == holders
    assert all(tensor.max_steps <= 1 for tensor in report.tensors)
    assert all(tensor.num_elements > 0 for tensor in report.tensors)
    assert report.num_samples == NUM_SAMPLES
    assert sum(t.num_different for t in report.tensors) <= 0.02 * sum(t.num_elements for t in report.tensors)


def conv_relu() -> keras.Model:
    inputs, x = image()
    x = wrapped(L.Conv2D(8, 3, strides=2, padding="same", activation="relu"), x)
    return keras.Model(inputs, unsigned(1.937)(x))


def conv_then_relu6() -> keras.Model:
    inputs, x = image()
    x = L.ReLU(6.0)(wrapped(L.Conv2D(8, 3), x))
    return keras.Model(inputs, uniform(0.0, 2.3)(x))


def grouped_conv() -> keras.Model:
    inputs, x = image((8, 8, 4))
    return keras.Model(inputs, signed(2.3)(wrapped(L.Conv2D(8, 3, groups=2), x)))


def conv_1d() -> keras.Model:
    inputs, x = image((9, 4))
    return keras.Model(inputs, signed(2.3)(wrapped(L.Conv1D(5, 3, activation="relu"), x)))


def depthwise() -> keras.Model:
    inputs, x = image()
    return keras.Model(inputs, uniform(-2.0, 1.5)(wrapped(L.DepthwiseConv2D(3, padding="same"), x, axis=2)))


def depthwise_with_multiplier() -> keras.Model:
    inputs, x = image()
    return keras.Model(inputs, signed(2.0)(wrapped(L.DepthwiseConv2D(3, depth_multiplier=2), x, axis=-2)))


def transposed_conv() -> keras.Model:
    inputs, x = image()
    return keras.Model(inputs, signed(2.0)(wrapped(L.Conv2DTranspose(5, 3, use_bias=False), x, axis=-2)))


def dense() -> keras.Model:
    inputs, x = image((20,))
    return keras.Model(inputs, signed(4.0)(wrapped(L.Dense(6), x)))


def dense_per_tensor() -> keras.Model:
    inputs, x = image((20,))
    return keras.Model(inputs, signed(4.0)(wrapped(L.Dense(6, activation="relu"), x, axis=None)))


def flatten_dense() -> keras.Model:
    inputs, x = image()
    return keras.Model(inputs, signed(4.0)(wrapped(L.Dense(6), L.Flatten()(x))))


def residual() -> keras.Model:
    inputs, x = image()
    x = unsigned(1.9)(wrapped(L.Conv2D(6, 3, padding="same", activation="relu"), x))
    y = uniform(-1.3, 1.6)(wrapped(L.Conv2D(6, 3, padding="same"), x))
    return keras.Model(inputs, signed(3.3)(L.ReLU()(L.Add()([x, y]))))


def differences_and_products() -> keras.Model:
    inputs, x = image((5,))
    y = signed(2.1)(wrapped(L.Dense(5), x))
    z = signed(4.0)(L.Subtract()([x, y]))
    return keras.Model(inputs, signed(6.0)(L.Multiply()([z, y])))


def concatenation() -> keras.Model:
    inputs, x = image()
    # Scales above, at and below that of the result.
    y = unsigned(6.0)(wrapped(L.Conv2D(4, 1, activation="relu"), x))
    z = signed(0.9)(wrapped(L.Conv2D(2, 1), x))
    return keras.Model(inputs, uniform(-2.7, 3.1)(L.Concatenate()([x, y, z])))


def max_pool() -> keras.Model:
    inputs, x = image()
    x = L.MaxPooling2D()(x)
    return keras.Model(inputs, signed(2.0)(wrapped(L.Conv2D(4, 3), x)))


def max_pool_before_the_holder() -> keras.Model:
    inputs, x = image()
    x = L.MaxPooling2D()(wrapped(L.Conv2D(4, 3, activation="relu"), x))
    return keras.Model(inputs, unsigned(2.0)(x))


def padding() -> keras.Model:
    inputs, x = image()
    x = L.ZeroPadding2D(((0, 3), (2, 0)))(x)
    return keras.Model(inputs, signed(2.0)(wrapped(L.Conv2D(4, 3), x)))


def transposed() -> keras.Model:
    inputs, x = image((6, 6, 4))
    return keras.Model(inputs, signed(4.0)(wrapped(L.Dense(3), L.Flatten()(L.Permute((2, 1, 3))(x)))))


def tiled() -> keras.Model:
    inputs, x = image((4, 4, 3))
    return keras.Model(inputs, signed(2.0)(wrapped(L.Conv2D(4, 3), L.UpSampling2D((2, 2))(x))))


def average_pool() -> keras.Model:
    inputs, x = image()
    return keras.Model(inputs, signed(1.1)(L.AveragePooling2D(2)(x)))


def average_pool_1d() -> keras.Model:
    inputs, x = image((8, 4))
    return keras.Model(inputs, signed(1.1)(L.AveragePooling1D(4)(x)))


def global_average_of_few() -> keras.Model:
    inputs, x = image((3, 3, 5))
    return keras.Model(inputs, signed(1.0)(L.GlobalAveragePooling2D()(x)))


def global_average_of_many() -> keras.Model:
    inputs, x = image((20, 20, 5))
    return keras.Model(inputs, signed(0.2)(L.GlobalAveragePooling2D()(x)))


def mean_kept() -> keras.Model:
    inputs, x = image((20, 20, 5))
    return keras.Model(inputs, signed(0.2)(keras.ops.mean(x, axis=(1, 2), keepdims=True)))


def w4a8() -> keras.Model:
    inputs, x = image()
    x = unsigned(2.0)(wrapped(L.Conv2D(8, 3, activation="relu"), x, num_bits=4))
    x = signed(2.0)(wrapped(L.DepthwiseConv2D(3), x, num_bits=4, axis=2))
    return keras.Model(inputs, signed(4.0)(wrapped(L.Dense(5), L.Flatten()(x), num_bits=4)))


def w2a8() -> keras.Model:
    inputs, x = image()
    return keras.Model(inputs, unsigned(2.0)(wrapped(L.Conv2D(8, 3, activation="relu"), x, num_bits=2)))


def w8a4() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = uniform(-1.0, 1.3, num_bits=4)(inputs)
    x = signed(1.1, num_bits=4)(wrapped(L.Conv2D(8, 3), x))
    y = unsigned(0.9, num_bits=3)(wrapped(L.Conv2D(8, 1, activation="relu"), x))
    return keras.Model(inputs, signed(1.0, num_bits=4)(L.Concatenate()([x, y])))


BLOCKS: list[tuple[Callable[[], keras.Model], str]] = [
    (conv_relu, "CONV_2D"),
    (conv_then_relu6, "CONV_2D"),
    (grouped_conv, "CONV_2D"),
    (conv_1d, "CONV_2D"),
    (depthwise, "DEPTHWISE_CONV_2D"),
    (depthwise_with_multiplier, "DEPTHWISE_CONV_2D"),
    (transposed_conv, "TRANSPOSE_CONV"),
    (dense, "FULLY_CONNECTED"),
    (dense_per_tensor, "FULLY_CONNECTED"),
    (flatten_dense, "RESHAPE"),
    (residual, "ADD"),
    (differences_and_products, "SUB"),
    (concatenation, "CONCATENATION"),
    (max_pool, "MAX_POOL_2D"),
    (max_pool_before_the_holder, "MAX_POOL_2D"),
    (padding, "PAD"),
    (transposed, "TRANSPOSE"),
    (tiled, "TILE"),
    (average_pool, "DEPTHWISE_CONV_2D"),
    (average_pool_1d, "DEPTHWISE_CONV_2D"),
    (global_average_of_few, "DEPTHWISE_CONV_2D"),
    (global_average_of_many, "MEAN"),
    (mean_kept, "MEAN"),
    (w4a8, "FULLY_CONNECTED"),
    (w2a8, "CONV_2D"),
    (w8a4, "MINIMUM"),
]


@pytest.mark.parametrize(("block", "operator"), BLOCKS, ids=[block.__name__ for block, _ in BLOCKS])
def test_every_tensor_is_integer_and_within_one_step(block, operator, tmp_path):
    model = block()
    path, parts = exported(model, tmp_path)
    assert_integer(parts, operator)
    report = compare_litert(model, path, [samples(model)])
    assert_parity(model, report)
    assert report.replayed_output_difference == 0.0


def tensor_of(parts: Any, name: str) -> tuple[np.ndarray, Any]:
    """Codes and grid of a constant."""
    tensor = next(item for item in parts.subgraphs[0].tensors if item.name == name.encode() and item.type == INT8)
    return np.frombuffer(bytes(parts.buffers[tensor.buffer].data), np.int8).reshape(tensor.shape), tensor.quantization


@pytest.mark.parametrize("num_bits", [8, 4])
def test_weights_have_the_codes_and_scales_of_the_formula(num_bits, tmp_path):
    inputs, x = image()
    x = signed(2.0)(wrapped(L.Conv2D(8, 3, name="conv"), x, num_bits))
    x = signed(2.0)(wrapped(L.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"), x, num_bits, axis=2))
    model = keras.Model(inputs, signed(2.0)(wrapped(L.Dense(4, name="dense"), L.Flatten()(x), num_bits)))
    _, parts = exported(model, tmp_path)
    layouts = {
        "conv": (3, lambda codes: codes.transpose(3, 0, 1, 2), 0),
        "depthwise": (2, lambda codes: codes.reshape(1, 3, 3, -1), 3),
        "dense": (1, lambda codes: codes.T, 0),
    }
    for name, (axis, layout, quantized_axis) in layouts.items():
        kernel = np.asarray(model.get_layer(name).layer.kernel)
        others = tuple(i for i in range(kernel.ndim) if i != axis)
        scale = np.abs(kernel).max(axis=others, keepdims=True) / np.float32(2 ** (num_bits - 1))
        codes = np.round(kernel / scale).clip(-(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1)
        stored, grid = tensor_of(parts, f"{name}.kernel")
        finer = 2 ** (8 - num_bits)
        np.testing.assert_array_equal(stored, layout(codes) * finer)
        expected = scale.reshape(-1) / np.float32(finer)
        np.testing.assert_array_equal(grid.scale, np.repeat(expected, 2) if name == "depthwise" else expected)
        assert set(np.atleast_1d(grid.zeroPoint)) == {0}
        assert grid.quantizedDimension == quantized_axis


@pytest.mark.parametrize(
    ("holder", "scale", "zero_point"),
    [
        (signed(1.7), np.float32(1.7 / 128), 0),
        (unsigned(1.7), np.float32(1.7 / 256), -128),
        (uniform(-1.0, 1.55), np.float32(2.55 / 255), -28),
        (signed(1.7, num_bits=4), np.float32(1.7 / 8), -120),
    ],
    ids=["signed", "unsigned", "uniform", "4 bits"],
)
def test_activations_have_the_scale_and_shifted_zero_point(holder, scale, zero_point, tmp_path):
    inputs = keras.Input((4,))
    _, parts = exported(keras.Model(inputs, holder(inputs)), tmp_path)
    grids = [t.quantization for t in parts.subgraphs[0].tensors if t.name.decode() == holder.name]
    assert [(grid.scale[0], grid.zeroPoint[0]) for grid in grids][-1] == (scale, zero_point)


def test_a_dense_layer_computes_what_integer_arithmetic_computes(tmp_path):
    model = dense()
    path, parts = exported(model, tmp_path)
    (x,) = samples(model, 64)
    wrapper = next(layer for layer in model.layers if isinstance(layer, KerasQuantizationWrapper))
    first, last = (layer.activation_holder_quantizer.params for layer in model.layers if "holder" in layer.name)
    x_codes = (np.round(x / np.float32(first.scale[0])) + first.zero_point).clip(0, 255)
    weights, weight_grid = tensor_of(parts, f"{wrapper.name}.kernel")
    accumulator_scale = first.scale * weight_grid.scale.astype(np.float64)
    bias = np.round(np.asarray(wrapper.layer.bias, np.float64) / accumulator_scale)
    accumulator = (x_codes - first.zero_point) @ weights.T.astype(np.int64) + bias
    position = accumulator * accumulator_scale / last.scale
    expected = np.round(position).clip(-128, 127)
    interpreted = _outputs(path, x) / np.float32(last.scale[0])
    different = np.round(interpreted) != expected
    assert np.abs(np.abs(position - np.floor(position)) - 0.5)[different].max(initial=0.0) < 2.0**-6
    assert np.abs(np.round(interpreted) - expected).max() <= 1
    assert len(np.unique(expected)) > 100


def _outputs(path: Path, *inputs: np.ndarray) -> Any:
    import warnings

    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        interpreter = tf.lite.Interpreter(model_path=str(path))
    for item, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.resize_tensor_input(item["index"], value.shape)
    interpreter.allocate_tensors()
    for item, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(item["index"], value)
    interpreter.invoke()
    found = [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]
    return found[0] if len(found) == 1 else found


def network(num_bits: int = 8) -> keras.Model:
    """Several kinds of layers, and an output in float."""
    inputs, x = image()
    x = unsigned(1.9)(wrapped(L.Conv2D(8, 3, padding="same", activation="relu"), x, num_bits))
    y = uniform(0.0, 2.3)(L.ReLU(6.0)(wrapped(L.DepthwiseConv2D(3, padding="same"), x, num_bits, axis=2)))
    y = uniform(-1.7, 1.6)(wrapped(L.Conv2D(8, 1), y, num_bits))
    x = L.MaxPooling2D()(signed(3.3)(L.Add()([x, y])))
    x = signed(3.3)(L.Concatenate()([x, signed(2.7)(wrapped(L.Conv2D(4, 3, padding="same"), x, num_bits))]))
    y = signed(1.1)(L.GlobalAveragePooling2D()(x))
    x = unsigned(2.1)(wrapped(L.Dense(6, activation="relu"), L.Flatten()(x), num_bits))
    x = uniform(-1.2, 2.2)(L.Concatenate()([y, x]))
    return keras.Model(inputs, wrapped(L.Dense(5), x, num_bits))


@pytest.mark.parametrize("num_bits", [8, 4])
def test_a_network_agrees_tensor_by_tensor_and_in_its_classes(num_bits, tmp_path):
    model = network(num_bits)
    path, _ = exported(model, tmp_path)
    report = compare_litert(model, path, [samples(model)])
    assert_parity(model, report)
    assert report.argmax_agreement >= 0.98
    assert report.default_session_argmax_agreement >= 0.98
    assert report.replayed_output_difference < 1e-5
    assert report.file_size == path.stat().st_size
    assert report.weight_bytes == sum((t.num_elements * t.num_bits + 7) // 8 for t in report.tensors[:6])


def residual_network() -> keras.Model:
    """Residual additions, batch norms, a functional relu and a pooling, all in float."""
    inputs = x = keras.Input((8, 8, 3), name="image")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(x)))
    for _ in range(2):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(x)))
        y = L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(y))
        x = keras.ops.relu(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(5)(L.GlobalAveragePooling2D()(x)))


def test_a_whole_network_is_integer_where_additions_and_outputs_have_grids(tmp_path):
    model = residual_network()
    config = QuantizationConfig(quantize_output=True, fuse_additions=False)
    quantized = quantize(model, samples(model), config)
    path, parts = exported(quantized, tmp_path)
    assert_integer(parts, "CONV_2D", "ADD", "FULLY_CONNECTED")
    assert compare_litert(quantized, path, [samples(model)]).passed
    fused = quantize(model, samples(model), QuantizationConfig(quantize_output=True))
    assert ("ADD", {FLOAT32}) in operators(exported(fused, tmp_path)[1])


def test_a_layer_without_quantized_output_computes_in_float_from_integers(tmp_path):
    inputs, x = image((20,))
    model = keras.Model(inputs, wrapped(L.Dense(6, name="logits"), x))
    path, parts = exported(model, tmp_path)
    assert ("FULLY_CONNECTED", {FLOAT32}) in operators(parts)
    assert tensor_of(parts, "logits.kernel")[0].shape == (6, 20)
    (x,) = samples(model)
    np.testing.assert_allclose(_outputs(path, x), model.predict(x, verbose=0), rtol=0, atol=1e-5)


def sigmoid_and_tanh() -> keras.Model:
    inputs, x = image((20,))
    return keras.Model(inputs, unsigned(1.0)(L.Activation("sigmoid")(signed(2.0)(L.Activation("tanh")(x)))))


def mean_of_few() -> keras.Model:
    inputs, x = image((3, 4))
    return keras.Model(inputs, signed(1.0)(keras.ops.mean(x, axis=1)))


def dilated_conv() -> keras.Model:
    inputs, x = image()
    return keras.Model(inputs, signed(2.3)(wrapped(L.Conv2D(5, 3, dilation_rate=2), x)))


def average_with_padding() -> keras.Model:
    inputs, x = image()
    return keras.Model(inputs, signed(1.1)(L.AveragePooling2D(3, padding="same")(x)))


def coarse_product() -> keras.Model:
    inputs, x = image((6,))
    return keras.Model(inputs, signed(0.1)(L.Multiply()([x, x])))


@pytest.mark.parametrize(
    ("block", "operator"),
    [
        (sigmoid_and_tanh, "TANH"),
        (mean_of_few, "MEAN"),
        (dilated_conv, "CONV_2D"),
        (average_with_padding, "AVERAGE_POOL_2D"),
        (coarse_product, "MUL"),
    ],
)
def test_what_has_no_accurate_integer_kernel_computes_in_float(block, operator, tmp_path):
    model = block()
    path, parts = exported(model, tmp_path)
    assert (operator, {FLOAT32}) in operators(parts)
    assert_parity(model, compare_litert(model, path, [samples(model)]))


def test_inputs_and_outputs_keep_their_order_and_a_shared_layer_its_weight(tmp_path):
    second, first = keras.Input((4,), name="zeta"), keras.Input((4,), name="alpha")
    x, y = signed(2.0)(second), uniform(-1.0, 3.0)(first)
    quantizer = keras_quantizers.WeightsSymmetricInferableQuantizer(8, [1.0, 0.7, 1.3], True, -1)
    wrapper = KerasQuantizationWrapper(L.Dense(3), {"kernel": quantizer}, name="both")
    outputs = {"sum": signed(3.0)(L.Add()([x, y])), "b": wrapper(x), "a": signed(4.0)(wrapper(y))}
    model = keras.Model({"zeta": second, "alpha": first}, outputs)
    path, _ = exported(model, tmp_path)
    given = {"alpha": samples(model)[0], "zeta": samples(model)[1]}
    expected = model.predict(given, verbose=0)
    found = _outputs(path, given["alpha"], given["zeta"])
    for ours, theirs in zip([expected["a"], expected["b"], expected["sum"]], found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1.01 * 4.0 / 128)
    report = compare_litert(model, path, [(given["alpha"], given["zeta"])])
    assert report.passed, str(report)
    assert [tensor.name for tensor in report.tensors].count("both.kernel") == 1


def test_nested_and_sequential_models_and_bypassed_holders_are_exported(tmp_path):
    inner_input = keras.Input((8, 8, 3))
    inner = keras.Model(inner_input, signed(2.0, name="held")(wrapped(L.Conv2D(4, 3, name="conv"), inner_input)))
    bypassed = KerasPreservingActivationQuantizationHolder(
        keras_quantizers.ActivationSymmetricInferableQuantizer(2, [0.1], True), quantization_bypass=True
    )
    model = keras.Sequential([keras.Input((8, 8, 3)), signed(3.0, name="first"), inner, bypassed], name="outer")
    path, parts = exported(model, tmp_path)
    assert_integer(parts, "CONV_2D")
    report = compare_litert(model, path, [samples(model)])
    assert report.passed
    assert [tensor.name for tensor in report.tensors] == [f"{inner.name}/conv.kernel", "first", f"{inner.name}/held"]


def test_levels_of_a_table_are_int8_weights(tmp_path):
    inputs, x = image((20,))
    layer = L.Dense(4)
    layer(x)
    quantizer = keras_quantizers.WeightsLUTSymmetricInferableQuantizer(
        3, [-100.0, -37.0, 0.0, 5.0, 70.0, 127.0], [0.3, 0.7, 0.5, 0.9], True, -1
    )
    wrapper = KerasQuantizationWrapper(layer, {"kernel": quantizer}, name="table")
    model = keras.Model(inputs, signed(3.0)(wrapper(x)))
    _, parts = exported(model, tmp_path)
    codes, grid = tensor_of(parts, "table.kernel")
    assert set(np.unique(codes)) <= {-100, -37, 0, 5, 70, 127}
    values = (codes * np.asarray(grid.scale, np.float32)[:, np.newaxis]).T
    np.testing.assert_array_equal(values, np.asarray(wrapper.get_quantized_weights()["kernel"]))
    assert compared(model, tmp_path).passed


def test_a_uniform_weight_of_few_bits_is_centered(tmp_path):
    inputs, x = image((20,))
    layer = L.Dense(2)
    layer(x)
    quantizer = keras_quantizers.WeightsUniformInferableQuantizer(4, [-0.1, -0.6], [0.5, 0.2], True, -1)
    wrapper = KerasQuantizationWrapper(layer, {"kernel": quantizer}, name="uniform")
    model = keras.Model(inputs, signed(3.0)(wrapper(x)))
    _, parts = exported(model, tmp_path)
    codes, grid = tensor_of(parts, "uniform.kernel")
    values = (codes * np.asarray(grid.scale, np.float32)[:, np.newaxis]).T
    np.testing.assert_array_equal(values, np.asarray(wrapper.get_quantized_weights()["kernel"]))
    assert codes.min() < 0 < codes.max()
    assert not (codes % 8).any()
    assert compared(model, tmp_path).passed


def test_a_channel_of_zeros_keeps_its_bias(tmp_path):
    inputs, x = image((20,))
    layer = L.Dense(3)
    layer(x)
    layer.kernel.assign(np.asarray(layer.kernel) * np.float32([1.0, 0.0, 1.0]))
    layer.bias.assign([0.1, 0.75, -0.2])
    quantizer = keras_quantizers.WeightsSymmetricInferableQuantizer(8, [1.0, 1e-12, 1.0], True, -1)
    model = keras.Model(inputs, signed(3.0)(KerasQuantizationWrapper(layer, {"kernel": quantizer})(x)))
    path, _ = exported(model, tmp_path)
    (x,) = samples(model)
    np.testing.assert_allclose(_outputs(path, x)[:, 1], 0.75, rtol=0, atol=1e-6)
    assert compare_litert(model, path, [(x,)]).passed


def test_steps_of_sequences_are_exported_unrolled(tmp_path):
    inputs = keras.Input((5, 4))
    x = L.LSTM(3, unroll=True, return_sequences=True, name="memory")(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.TimeDistributed(L.Dense(3), name="steps")(x))))
    report = compared(quantize(model, samples(model)[0]), tmp_path)
    assert report.passed, str(report)
    assert {"memory.cell.kernel", "steps.layer.kernel"} <= {tensor.name for tensor in report.tensors}
    looped = keras.Model(inputs, L.Bidirectional(L.GRU(3), name="both")(inputs))
    with pytest.raises(ValueError, match=r"both cannot be exported .*unroll=True.* Received: GRU with unroll=False"):
        export_litert(looped)


def test_the_model_is_not_changed():
    model = network()
    (x,) = samples(model)
    before, outputs = [np.array(item) for item in model.get_weights()], model.predict(x, verbose=0)
    config = model.to_json()
    first = export_litert(model)
    assert export_litert(model) == first
    assert model.to_json() == config
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(model.predict(x, verbose=0), outputs)


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    parts = flatbuffers().read_model(str(path))
    change(parts)
    path.write_bytes(bytes(flatbuffers().convert_object_to_bytearray(parts)))
    return path


def _named(parts: Any, name: str) -> Any:
    return next(item for item in parts.subgraphs[0].tensors if item.name == name.encode() and item.type == INT8)


def test_parity_finds_a_changed_weight(tmp_path):
    model = network()
    name = next(layer.name for layer in model.layers if isinstance(layer, KerasQuantizationWrapper))

    def change(parts: Any) -> None:
        buffer = parts.buffers[_named(parts, f"{name}.kernel").buffer]
        data = np.array(buffer.data, np.uint8)
        data[7] ^= 1
        buffer.data = data

    report = compare_litert(model, changed(exported(model, tmp_path)[0], change), [samples(model)])
    assert report.first_divergence == f"{name}.kernel"
    assert report.tensors[0].num_different == report.tensors[0].max_steps == 1


def test_parity_finds_a_changed_scale(tmp_path):
    model = conv_relu()
    name = model.layers[-1].name

    def change(parts: Any) -> None:
        grid = _named(parts, name).quantization
        grid.scale = [np.nextafter(np.float32(grid.scale[0]), np.float32(1))]

    report = compare_litert(model, changed(exported(model, tmp_path)[0], change), [samples(model)])
    assert report.first_divergence == name


def test_parity_finds_a_changed_bias(tmp_path):
    model = dense()

    def change(parts: Any) -> None:
        graph = parts.subgraphs[0]
        buffers = [parts.buffers[item.buffer] for item in graph.tensors if item.type == 2 and len(item.shape) == 1]
        biases = [item for item in buffers if item.data is not None and len(item.data) == 6 * 4]
        assert len(biases) == 1
        values = np.frombuffer(bytes(biases[0].data), np.int32) + np.int32(2000)
        biases[0].data = np.frombuffer(values.tobytes(), np.uint8)

    report = compare_litert(model, changed(exported(model, tmp_path)[0], change), [samples(model)])
    assert report.first_divergence == model.layers[-1].name


def test_parity_refuses_other_files(tmp_path):
    model = dense()
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model")
    with pytest.raises(ValueError, match="Expected a LiteRT file"):
        compare_litert(model, broken, [samples(model)])
    inputs = [keras.Input((2,)), keras.Input((2,))]
    other, _ = exported(keras.Model(inputs, signed(1.0)(L.Add()(inputs))), tmp_path)
    with pytest.raises(ValueError, match="1 inputs and 1 outputs"):
        compare_litert(model, other, [samples(model)])
    with pytest.raises(FileNotFoundError):
        compare_litert(model, tmp_path / "none.tflite", [samples(model)])


def test_parity_names_the_tensors_of_a_plan(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="logits")(L.Flatten(name="flat")(x)))
    quantized = quantize(model, samples(model)[0])
    report = compared(quantized, tmp_path)
    assert report.passed, str(report)
    assert {tensor.name for tensor in report.tensors} == {tensor.name for tensor in plan_of(quantized).quantized()}
    assert "conv.kernel" in {tensor.name for tensor in report.tensors}


def test_a_table_of_activations_is_refused():
    inputs = keras.Input((4,))
    quantizer = keras_quantizers.ActivationLutPOTInferableQuantizer(2, [-2.0, 0.0, 1.0], [1.0], True, 4, 1e-8)
    model = keras.Model(inputs, KerasActivationQuantizationHolder(quantizer, name="table")(inputs))
    with pytest.raises(ValueError, match="table has the levels of a lookup table"):
        export_litert(model)


def test_activations_of_16_bits_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="wide has 16 bits; activations in LiteRT have at most 8"):
        export_litert(keras.Model(inputs, signed(1.0, num_bits=16, name="wide")(inputs)))


@pytest.mark.parametrize(
    "quantizer",
    [
        keras_quantizers.WeightsSymmetricInferableQuantizer(16, [1.0], False),
        keras_quantizers.WeightsUniformInferableQuantizer(8, [-0.05], [1.0], False),
    ],
    ids=["16 bits", "asymmetric"],
)
def test_weights_beyond_int8_are_refused(quantizer):
    inputs, x = image((20,))
    wrapper = KerasQuantizationWrapper(L.Dense(4, kernel_initializer="ones"), {"kernel": quantizer}, name="wide")
    model = keras.Model(inputs, wrapper(x))
    with pytest.raises(ValueError, match=r"wide\.kernel has integers from 0 to .*from -128 to 127"):
        export_litert(model)


class Doubled(L.Layer):
    def call(self, x):
        return x * 2.0


def test_a_weight_that_the_converter_changes_is_named():
    inputs, x = image()
    x = Doubled()(wrapped(L.Conv2D(4, 3, name="conv"), x))
    with pytest.raises(ValueError, match=r"conv\.kernel cannot be exported: .*product with a constant"):
        export_litert(keras.Model(inputs, signed(2.0)(x)))


def moved(layer: Any) -> Any:
    """A built batch norm with statistics of its own."""
    random = np.random.default_rng(0)
    layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return layer


def unfolded_batch_norms() -> keras.Model:
    """Behind a convolution that is called twice, and behind products of which no batch norm is folded."""
    inputs = x = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", activation="elu")(x)
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    branches = [L.ReLU()(L.BatchNormalization()(shared(y))) for y in (x, L.MaxPooling2D()(x))]
    x = L.EinsumDense("abcd,de->abce", output_shape=(None, None, 5), name="product")(branches[0])
    model = keras.Model(inputs, [L.Conv2D(2, 1)(L.BatchNormalization()(x)), branches[1]])
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            moved(layer)
    return model


def test_a_batch_norm_that_is_not_folded_is_an_operation_of_its_own(tmp_path):
    model = unfolded_batch_norms()
    quantized = quantize(model, samples(model)[0])
    path, parts = exported(quantized, tmp_path)
    assert {"MUL", "ADD"} <= {name for name, types in operators(parts) if types == {FLOAT32}}
    report = compare_litert(quantized, path, [samples(model)])
    assert report.passed, str(report)
    assert not report.not_compared
    assert {"shared.kernel", "product.kernel"} <= {tensor.name for tensor in report.tensors}


def products_with_numbers() -> keras.Model:
    """What ordinary code multiplies by: numbers, arrays, and the hard swish of MobileNetV3."""
    inputs = x = keras.Input((6, 6, 3))
    x = L.Conv2D(4, 3)(x)
    x = L.Conv2D(4, 1)(L.ReLU(6.0)(x + 3.0) * (1 / 6.0) * x)
    x = L.Conv2D(4, 1)(x * np.arange(1, 5, dtype=np.float32))
    x = L.Conv2D(4, 1)(keras.ops.maximum(x, 0.1 * x))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(1.0 - x / 2.0)) * 0.5)


def test_products_with_numbers_are_exported(tmp_path):
    model = products_with_numbers()
    quantized = quantize(model, samples(model)[0])
    report = compared(quantized, tmp_path)
    assert report.passed, str(report)


def test_each_activation_function_is_proven(tmp_path):
    """Some, such as ELU, have no reference kernel."""
    names = ("elu", "gelu", "selu", "silu", "mish", "softplus", "leaky_relu", "hard_silu", "softmax", "log_softmax")
    inputs = x = keras.Input((6,))
    for name in names:
        x = L.Dense(6, activation=name)(x)
    model = keras.Model(inputs, x)
    report = compared(quantize(model, samples(model)[0]), tmp_path)
    assert report.passed, str(report)


def test_a_layer_whose_bias_does_not_fit_is_computed_in_float(tmp_path):
    inputs, x = image((20,))
    layer = L.Dense(1, name="tiny")
    layer(x)
    layer.kernel.assign(np.full((20, 1), 1e-12, np.float32))
    layer.bias.assign([3.0])
    quantizer = keras_quantizers.WeightsSymmetricInferableQuantizer(8, [1e-12], False)
    wrapper = KerasQuantizationWrapper(layer, {"kernel": quantizer}, name="tiny")
    model = keras.Model(inputs, signed(4.0)(wrapper(x)))
    notes: list[str] = []
    path = tmp_path / "model.tflite"
    path.write_bytes(export_litert(model, notes))
    assert len(notes) == 1
    assert "layer of tiny.kernel is computed in float" in notes[0]
    report = compare_litert(model, path, [samples(model)])
    assert report.passed
    assert report.max_output_difference == 0.0


@pytest.mark.parametrize("highest", [1e-9, 1e-3, 5.9, 6.1])
def test_activations_far_below_the_end_of_relu6(tmp_path, highest):
    inputs = keras.Input((8, 8, 3))
    x = uniform(0.0, highest)(inputs)
    x = uniform(0.0, highest)(wrapped(L.Conv2D(4, 3, activation="relu6", name="fused"), x))
    x = uniform(0.0, highest)(L.ReLU(6.0)(L.Add()([x, x])))
    model = keras.Model(inputs, x)
    path, _ = exported(model, tmp_path)
    data = tuple(highest * np.abs(item) for item in samples(model))
    report = compare_litert(model, path, [data])
    assert report.passed


def test_quantizers_that_are_not_on_a_grid_are_refused():
    class Own(keras_quantizers.BaseKerasInferableQuantizer):
        def __call__(self, inputs):
            return inputs

    inputs = keras.Input((4,))
    model = keras.Model(inputs, KerasActivationQuantizationHolder(Own(), name="own")(inputs))
    with pytest.raises(ValueError, match=r"own must have an inferable quantizer .*Received: Own"):
        export_litert(model)


def test_other_models_dtypes_and_backends_are_refused(monkeypatch):
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match=r"`model` must be a `keras\.Model`"):
        export_litert(L.Dense(3))
    with pytest.raises(ValueError, match="functional or a built sequential model"):
        export_litert(Subclassed())
    inputs = keras.Input((4,))
    half = keras.Model(inputs, L.Dense(3, dtype="mixed_float16", name="half")(inputs))
    with pytest.raises(ValueError, match=r"half must compute in float32 .*Received: float16"):
        export_litert(half)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"KERAS_BACKEND=tensorflow.*'jax'"):
        export_litert(dense())


def test_operations_that_cannot_be_converted_are_reported():
    inputs, x = image((8,))
    model = keras.Model(inputs, keras.ops.svd(keras.ops.reshape(x, (-1, 2, 4)), compute_uv=False))
    with pytest.raises(ValueError, match="The model cannot be converted to LiteRT"):
        export_litert(model)

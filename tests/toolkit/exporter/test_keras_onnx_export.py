# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A frozen Keras model as an ONNX file: its integers, its grids, and the proof that it computes the same."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")
pytest.importorskip("onnxruntime")

import keras
import onnx
from keras import layers, ops
from onnx import TensorProto, numpy_helper

from mct_quantizers import (
    KerasActivationQuantizationHolder,
    KerasPreservingActivationQuantizationHolder,
    KerasQuantizationWrapper,
)
from mct_quantizers.keras.quantizers import (
    ActivationLutPOTInferableQuantizer,
    ActivationPOTInferableQuantizer,
    ActivationSymmetricInferableQuantizer,
    ActivationUniformInferableQuantizer,
    BaseKerasInferableQuantizer,
    WeightsLUTSymmetricInferableQuantizer,
    WeightsPOTInferableQuantizer,
    WeightsSymmetricInferableQuantizer,
    WeightsUniformInferableQuantizer,
)
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.keras.surgery import plan_of
from model_compression_toolkit.exporter.common.inspect import plan_metadata
from model_compression_toolkit.exporter.common.parity import OUTPUT
from model_compression_toolkit.exporter.keras.onnx_export import export_onnx
from model_compression_toolkit.exporter.keras.onnx_parity import compare_onnx
from model_compression_toolkit.ptq.keras.quantization_facade import quantize

pytestmark = pytest.mark.keras

SHAPE = (8, 8, 4)


def weights_quantizer(values, axis, num_bits, is_symmetric):
    """Per channel along `axis`, from the range of the values; per tensor where `axis` is None."""
    others = None if axis is None else tuple(a for a in range(values.ndim) if a != axis % values.ndim)
    low, high = (np.atleast_1d(f(values, axis=others)).tolist() for f in (np.min, np.max))
    per_channel = axis is not None
    if is_symmetric:
        threshold = np.maximum(np.abs(low), np.abs(high)).tolist()
        return WeightsSymmetricInferableQuantizer(num_bits, threshold, per_channel, axis if per_channel else None)
    return WeightsUniformInferableQuantizer(num_bits, low, high, per_channel, axis if per_channel else None)


def wrapped(layer, x, key="kernel", axis=-1, num_bits=8, is_symmetric=True, quantizer=None):
    """The result of a layer that is built for `x` and gets random weights, wrapped."""
    layer.build(tuple(x.shape))
    random = np.random.default_rng(len(layer.weights[0].shape))
    for variable in layer.weights:
        variable.assign(random.normal(size=variable.shape).astype(np.float32) / 4)
    values = ops.convert_to_numpy(getattr(layer, key))
    axis = None if axis is None else axis % values.ndim
    quantizer = quantizer or weights_quantizer(values, axis, num_bits, is_symmetric)
    return KerasQuantizationWrapper(layer, {key: quantizer}, name=layer.name)(x)


def held(x, num_bits=8, low=-4.0, high=4.0, name=None):
    quantizer = ActivationUniformInferableQuantizer(num_bits, [low], [high])
    return KerasActivationQuantizationHolder(quantizer, name=name)(x)


def network(num_bits=8, is_symmetric=True, activation_bits=8):
    """A residual network with all kinds of convolution, frozen."""
    options = {"num_bits": num_bits, "is_symmetric": is_symmetric}
    inputs = keras.Input(SHAPE, name="image")
    x = held(inputs, activation_bits)
    x = held(
        wrapped(layers.Conv2D(6, 3, padding="same", activation="relu", name="stem"), x, **options), activation_bits
    )
    y = wrapped(layers.DepthwiseConv2D(3, padding="same", name="deep"), x, axis=-2, **options)
    y = held(layers.ReLU(6.0, name="relu")(y), activation_bits, 0.0, 6.0)
    y = wrapped(layers.Conv2D(6, 1, name="wide", use_bias=False), y, **options)
    x = held(layers.Add(name="sum")([x, y]), activation_bits)
    x = layers.MaxPooling2D()(x)
    x = held(wrapped(layers.Conv2DTranspose(5, 2, strides=2, name="up"), x, axis=-2, **options), activation_bits)
    x = held(layers.GlobalAveragePooling2D(name="mean")(x), activation_bits, -2.0, 2.0)
    return keras.Model(inputs, wrapped(layers.Dense(3, name="head"), x, **options))


def images(count=20, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def saved(model, tmp_path, name="model.onnx"):
    path = tmp_path / name
    onnx.save(export_onnx(model), path)
    return path


def constants(proto):
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def edited(path, name, change):
    """The file with other numbers in an initializer."""
    proto = onnx.load(path)
    tensor = constants(proto)[name]
    array = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(proto, path)


@pytest.mark.parametrize("activation_bits", [8, 4])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("num_bits", [8, 4, 2])
def test_a_frozen_network_has_its_integers_in_the_file(num_bits, is_symmetric, activation_bits, tmp_path):
    model = network(num_bits, is_symmetric, activation_bits)
    path = saved(model, tmp_path)
    report = compare_onnx(model, path, [(images(),), (images(70, seed=1),)])
    assert report.passed, str(report)
    assert report.num_samples == 90
    assert report.replayed_output_difference < 1e-5
    assert report.argmax_agreement >= 0.95
    assert [tensor.name for tensor in report.tensors] == [
        "image.output", "stem.kernel", "stem.output", "deep.kernel", "relu.output", "wide.kernel", "sum.output",
        "up.kernel", "up.output", "mean.output", "head.kernel",
    ]  # fmt: skip
    assert sum(tensor.num_different for tensor in report.tensors if tensor.name.endswith(".kernel")) == 0
    assert report.tensors[0].num_elements == 90 * np.prod(SHAPE)
    assert report.not_compared == ()
    expected = {8: (TensorProto.INT8, TensorProto.UINT8), 4: (TensorProto.INT4, TensorProto.UINT4)}[max(num_bits, 4)]
    found = constants(onnx.load(path))
    assert found["stem.kernel/codes"].data_type == expected[0 if is_symmetric else 1]
    assert list(found["stem.kernel/codes"].dims) == [6, 4, 3, 3]
    assert list(found["stem.kernel/scale"].dims) == [6]
    assert list(found["deep.kernel/codes"].dims) == [6, 1, 3, 3]


def test_a_default_session_agrees_where_biases_must_not_be_rounded(tmp_path):
    model = network(num_bits=4)
    report = compare_onnx(model, saved(model, tmp_path), [(images(64),)])
    assert report.default_session_argmax_agreement >= 0.95
    assert report.default_session_max_output_difference < 0.05


def test_integers_of_the_file_are_those_of_the_quantizer(tmp_path):
    model = network(num_bits=4, is_symmetric=False)
    stored = numpy_helper.to_array(constants(onnx.load(saved(model, tmp_path)))["up.kernel/codes"]).astype(np.int32)
    codes = ops.convert_to_numpy(model.get_layer("up").get_integer_weights()["kernel"])
    # Keras has (height, width, out, in), ONNX (in, out, height, width).
    np.testing.assert_array_equal(stored, codes.transpose(3, 2, 0, 1))


def test_a_network_of_quantized_convolutions_transposes_its_input_only(tmp_path):
    kinds = [node.op_type for node in export_onnx(network()).graph.node]
    assert kinds.count("Transpose") == 1
    assert {"QuantizeLinear", "DequantizeLinear"} < set(kinds)


def test_the_batch_size_is_open_and_sizes_that_are_fixed_stay(tmp_path):
    proto = export_onnx(network())
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [["batch", 8, 8, 4], ["batch", 3]]
    fixed = keras.Input(batch_shape=(8, *SHAPE))
    model = keras.Model(fixed, wrapped(layers.Conv2D(3, 3), held(fixed)))
    report = compare_onnx(model, saved(model, tmp_path), [(images(20),)])
    assert report.passed and report.num_samples == 20


def test_inputs_and_outputs_have_names():
    first, second = keras.Input((3,), name="a"), keras.Input((3,), name="output")
    proto = export_onnx(keras.Model([first, second], [first + second, first, second * 2]))
    assert [value.name for value in proto.graph.input] == ["a", "output"]
    assert [value.name for value in proto.graph.output] == ["output_0", "output_1", "output_2"]
    assert [value.name for value in export_onnx(network()).graph.output] == ["output"]


@pytest.mark.parametrize(
    ("layer", "shape", "key", "axis"),
    [
        (lambda: layers.Dense(5), (7,), "kernel", -1),
        (lambda: layers.Dense(5), (6, 7), "kernel", -1),
        (lambda: layers.Dense(5), (7,), "kernel", None),
        (lambda: layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), (6, 7), "kernel", -1),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 5)), (6, 7), "kernel", 1),
        (lambda: layers.Conv1D(5, 3, strides=2, padding="same"), (9, 4), "kernel", -1),
        (lambda: layers.Conv3D(5, 2), (4, 5, 6, 3), "kernel", -1),
        (lambda: layers.Conv2D(6, 3, groups=2), SHAPE, "kernel", -1),
        (lambda: layers.Conv2D(6, 3), SHAPE, "kernel", -2),
        (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4), "kernel", -2),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), SHAPE, "kernel", -1),
        (lambda: layers.SeparableConv2D(5, 3), SHAPE, "depthwise_kernel", -2),
        (lambda: layers.SeparableConv1D(5, 3), (9, 4), "pointwise_kernel", -1),
        (lambda: layers.Conv1DTranspose(5, 3, strides=2), (9, 4), "kernel", -2),
        (lambda: layers.PReLU(shared_axes=[1, 2]), SHAPE, "alpha", None),
    ],
)
def test_weights_of_every_kind_of_layer_are_quantized_along_their_axis(layer, shape, key, axis, tmp_path):
    x = keras.Input(shape)
    made = layer()
    model = keras.Model(x, wrapped(made, held(x), key, axis, num_bits=4, is_symmetric=False))
    batch = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    report = compare_onnx(model, saved(model, tmp_path), [(batch,)])
    assert report.passed, str(report)
    assert [tensor.name for tensor in report.tensors][1:] == [f"{made.name}.{key}"]
    assert report.replayed_output_difference < 1e-5


def test_an_embedding_is_looked_up_in_its_integers(tmp_path):
    words = keras.Input((4,), dtype="int32")
    model = keras.Model(words, wrapped(layers.Embedding(9, 6), words, "embeddings", 0))
    report = compare_onnx(model, saved(model, tmp_path), [(np.arange(8).reshape(2, 4),)])
    assert report.passed and report.max_output_difference == 0.0


def test_a_layer_that_is_called_twice_has_one_weight(tmp_path):
    layer = layers.Dense(4, name="twice")
    x = keras.Input((4,))
    wrapped(layer, x)
    values = ops.convert_to_numpy(layer.kernel)
    shared = KerasQuantizationWrapper(layer, {"kernel": weights_quantizer(values, 1, 8, True)}, name="twice")
    model = keras.Model(x, shared(held(shared(held(x)))))
    path = saved(model, tmp_path)
    assert sum(name.endswith(".kernel/codes") for name in constants(onnx.load(path))) == 1
    report = compare_onnx(model, path, [(np.ones((2, 4), np.float32),)])
    assert report.passed and [t.name for t in report.tensors][1:] == ["twice.kernel", "twice.output"]


def test_a_weight_on_a_table_is_stored_as_indices(tmp_path):
    x = keras.Input((7,))
    quantizer = WeightsLUTSymmetricInferableQuantizer(2, [50, -100, 0, 7], [0.5] * 5, True, 1, 2)
    model = keras.Model(x, wrapped(layers.Dense(5, name="dense"), held(x), quantizer=quantizer))
    path = saved(model, tmp_path)
    report = compare_onnx(model, path, [(np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32),)])
    assert report.passed, str(report)
    assert report.tensors[1].compared == "indices"
    assert constants(onnx.load(path))["dense.kernel/codes"].data_type == TensorProto.UINT4
    edited(path, "dense.kernel/levels", lambda array: array * 2)
    assert compare_onnx(model, path, [(np.ones((1, 7), np.float32),)]).first_divergence == "dense.kernel"


@pytest.mark.parametrize(
    "quantizer",
    [
        ActivationSymmetricInferableQuantizer(8, [3.0], True),
        ActivationSymmetricInferableQuantizer(5, [3.0], True),
        ActivationPOTInferableQuantizer(3, [2.0], False),
        ActivationUniformInferableQuantizer(16, [-1.0], [2.0]),
        ActivationUniformInferableQuantizer(12, [-1.0], [2.0]),
        ActivationUniformInferableQuantizer(1, [0.0], [2.0]),
    ],
)
def test_activations_of_any_width_and_sign_are_exact(quantizer, tmp_path):
    x = keras.Input(SHAPE)
    model = keras.Model(x, KerasActivationQuantizationHolder(quantizer)(x))
    values = np.concatenate([images(8).ravel(), np.linspace(-5, 5, 1024), [1e30, -1e30] * 512]).astype(np.float32)
    batch = values.reshape(-1, *SHAPE)
    report = compare_onnx(model, saved(model, tmp_path), [(batch,)])
    assert report.passed and report.tensors[0].num_different == 0
    assert report.max_output_difference == 0.0


def test_a_power_of_two_weight_keeps_its_scale(tmp_path):
    x = keras.Input((7,))
    quantizer = WeightsPOTInferableQuantizer(8, [0.5], False)
    proto = export_onnx(keras.Model(x, wrapped(layers.Dense(5, name="dense"), held(x), quantizer=quantizer)))
    assert numpy_helper.to_array(constants(proto)["dense.kernel/scale"]) == np.float32(0.5 / 128)


def test_two_quantizers_of_one_tensor_have_two_names(tmp_path):
    x = keras.Input((7,), name="x")
    model = keras.Model(x, [held(x, 8), held(x, 4)])
    report = compare_onnx(model, saved(model, tmp_path), [(np.ones((2, 7), np.float32),)])
    assert report.passed and [tensor.name for tensor in report.tensors] == ["x.output", "x.output:2"]


def test_a_nested_model_is_exported_with_the_paths_of_its_layers(tmp_path):
    x = keras.Input(SHAPE)
    outer = keras.Sequential([network(), layers.Softmax()])
    outer(x)
    report = compare_onnx(outer, saved(outer, tmp_path), [(images(),)])
    assert report.passed
    assert any(tensor.name.endswith("/stem.kernel") for tensor in report.tensors)


def test_a_changed_weight_is_found(tmp_path):
    model = network()
    path = saved(model, tmp_path)
    edited(path, "wide.kernel/codes", lambda array: array + (np.arange(array.size).reshape(array.shape) == 3))
    report = compare_onnx(model, path, [(images(),)])
    assert report.first_divergence == "wide.kernel"
    assert [t.num_different for t in report.tensors if t.name == "wide.kernel"] == [1]


@pytest.mark.parametrize("part", ["scale", "zero_point"])
def test_a_changed_grid_is_found(part, tmp_path):
    model = network()
    path = saved(model, tmp_path)
    edited(path, f"sum.output/{part}", lambda array: (array + array.dtype.type(1)).astype(array.dtype))
    assert compare_onnx(model, path, [(images(),)]).first_divergence == "sum.output"


def test_a_changed_operation_is_found_where_it_is(tmp_path):
    model = network()
    path = saved(model, tmp_path)
    edited(path, "deep.bias", lambda array: array + np.float32(0.2))
    report = compare_onnx(model, path, [(images(),)])
    assert report.first_divergence == "relu.output"
    # What follows is replayed with the file's own integers: one difference does not cause another.
    assert [tensor.name for tensor in report.tensors if tensor.diverges] == ["relu.output"]


def test_a_change_behind_the_last_tensor_is_found_in_the_outputs(tmp_path):
    model = network()
    path = saved(model, tmp_path)
    edited(path, "head.bias", lambda array: array + np.float32(0.2))
    assert compare_onnx(model, path, [(images(),)]).first_divergence == OUTPUT


def test_a_file_of_another_model_is_refused(tmp_path):
    x = keras.Input(SHAPE, name="image")
    other = keras.Model(x, wrapped(layers.Conv2D(3, 3), held(x)))
    with pytest.raises(ValueError, match="must be exported from `model`"):
        compare_onnx(network(), saved(other, tmp_path), [(images(),)])


def test_the_plan_is_in_the_file():
    plan = QuantizationPlan((), CaptureMode.GRAPH)
    assert {item.key: item.value for item in export_onnx(network(), plan).metadata_props} == plan_metadata(plan)


def test_the_export_changes_nothing_and_repeats_itself():
    model = network()
    before = [ops.convert_to_numpy(variable) for variable in model.variables]
    assert export_onnx(model).SerializeToString() == export_onnx(model).SerializeToString()
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, ops.convert_to_numpy(variable))


def test_only_standard_operators_are_used():
    proto = export_onnx(network())
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", 21)]
    assert {node.domain for node in proto.graph.node} == {""}
    onnx.checker.check_model(proto, full_check=True)


TABLES = {
    "unsigned": ([0, 20, 50, 100], 2, 1.0, False),
    "in no order, one level twice": ([50, -100, 0, 7, 50, -3, 90], 3, 2.0, True),
    "two levels": ([-64, 64], 1, 0.5, True),
    "one level": ([3], 1, 1.0, True),
    "seven bits": (list(range(-128, 128, 2)), 7, 4.0, True),
}


@pytest.mark.parametrize("case", TABLES)
def test_an_activation_on_a_table_is_searched_at_every_boundary(case, tmp_path):
    levels, num_bits, threshold, signed = TABLES[case]
    quantizer = ActivationLutPOTInferableQuantizer(num_bits, levels, [threshold], signed)
    x = keras.Input(SHAPE, name="x")
    model = keras.Model(x, KerasActivationQuantizationHolder(quantizer)(x))
    ties = (np.unique(levels)[:-1] + np.unique(levels)[1:]) / 2 * threshold / quantizer.params.level_scale
    near = [np.nextafter(ties.astype(np.float32), np.float32(end)) for end in (-np.inf, np.inf)]
    values = np.concatenate([ties, *near, images(2).ravel() * threshold, [0.0, 1e30, -1e30, 1e-30]]).astype(np.float32)
    batch = np.resize(values, (len(values) // np.prod(SHAPE) + 1, *SHAPE))
    report = compare_onnx(model, saved(model, tmp_path), [(batch,)])
    assert report.passed and report.max_output_difference == 0.0
    (tensor,) = report.tensors
    assert (tensor.name, tensor.compared, tensor.num_different) == ("x.output", "indices", 0)
    assert tensor.num_elements == batch.size


def network_of_tables():
    """Images, so that the search stands in front of a transposition."""
    x = keras.Input(SHAPE, name="image")
    quantizer = ActivationLutPOTInferableQuantizer(3, [50, -100, 0, 7, -3, 90], [2.0], True)
    y = wrapped(layers.Conv2D(6, 3, padding="same", name="stem"), held(x), num_bits=4)
    y = KerasActivationQuantizationHolder(quantizer)(y)
    return keras.Model(x, held(wrapped(layers.Conv2D(3, 3, name="head"), y, num_bits=4)))


def test_a_network_with_activations_on_a_table_is_exported(tmp_path):
    model = network_of_tables()
    path = saved(model, tmp_path)
    report = compare_onnx(model, path, [(images(),)])
    assert report.passed, str(report)
    assert [tensor.name for tensor in report.tensors] == [
        "image.output", "stem.kernel", "stem.output", "head.kernel", "head.output",
    ]  # fmt: skip
    assert [node.op_type for node in onnx.load(path).graph.node].count("Transpose") == 2


@pytest.mark.parametrize("part", ["levels", "threshold", "divisor", "boundaries_0", "boundaries_2"])
def test_another_table_of_an_activation_is_found(part, tmp_path):
    model = network_of_tables()
    path = saved(model, tmp_path)
    edited(path, f"stem.output/{part}", lambda array: array * np.float32(1.001))
    report = compare_onnx(model, path, [(images(),)])
    assert report.first_divergence == "stem.output"
    assert [tensor.grid_differs for tensor in report.tensors if tensor.name == "stem.output"] == [True]


def test_indices_that_differ_beside_a_tie_are_found(tmp_path):
    model = network_of_tables()
    path = saved(model, tmp_path)
    edited(path, "stem.bias/aligned", lambda array: array + np.float32(0.2))
    report = compare_onnx(model, path, [(images(),)])
    assert report.first_divergence == "stem.output"
    assert [tensor.name for tensor in report.tensors if tensor.diverges] == ["stem.output"]


def test_a_wrapped_function_is_refused_by_name():
    x = keras.Input((4,))
    quantizer = WeightsPOTInferableQuantizer(8, [1.0], False)
    wrapper = KerasQuantizationWrapper(ops.matmul, {1: quantizer}, {1: np.ones((4, 2), np.float32)}, name="product")
    with pytest.raises(ValueError, match="product cannot be exported to ONNX: it wraps a function"):
        export_onnx(keras.Model(x, wrapper(x)))


def test_a_quantized_bias_is_refused_by_name():
    x = keras.Input((4,))
    quantizer = WeightsPOTInferableQuantizer(8, [1.0], False)
    with pytest.raises(ValueError, match=r"dense, of class BatchNormalization, .* quantizer of \['gamma'\]"):
        export_onnx(
            keras.Model(x, wrapped(layers.BatchNormalization(name="dense"), x, "gamma", 0, quantizer=quantizer))
        )


def test_a_quantized_model_has_the_names_of_its_plan_in_the_file(tmp_path):
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same", name="conv")], name="backbone"
    )
    x = keras.Input(SHAPE, name="image")
    y = layers.Add(name="sum")([inner(layers.Conv2D(4, 1, activation="relu", name="conv")(x)), x])
    model = quantize(keras.Model(x, layers.Dense(3, name="head")(layers.Flatten()(y))), [(images(),)])
    plan = plan_of(model)
    path = tmp_path / "model.onnx"
    onnx.save(export_onnx(model, plan), path)
    report = compare_onnx(model, path, [(images(),)])
    assert report.passed, str(report)
    assert [tensor.name for tensor in report.tensors] == [tensor.name for tensor in plan.quantized()]
    assert "backbone/conv.kernel" in {tensor.name for tensor in report.tensors}


@pytest.mark.parametrize("batch", [(), (images(2), images(2))])
def test_batches_with_another_number_of_arrays_are_refused(batch, tmp_path):
    model = network()
    with pytest.raises(ValueError, match=f"tuple of 1 arrays.* Received: {len(batch)}"):
        compare_onnx(model, saved(model, tmp_path), [batch])


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_default_session_leaves_layers_in_float_as_they_are(use_bias, tmp_path):
    x = keras.Input(SHAPE)
    y = held(layers.Conv2D(6, 3, use_bias=use_bias)(held(x)), 16)
    y = held(layers.Conv2DTranspose(6, 3, use_bias=use_bias)(y), 16)
    y = held(layers.Flatten()(y), 16)
    model = keras.Model(x, held(layers.Dense(5, use_bias=use_bias)(y), 16))
    report = compare_onnx(model, saved(model, tmp_path), [(images(),)])
    assert report.passed
    # Weights that were rounded to 8 bits would differ by about 1e-2.
    assert report.default_session_max_output_difference < 1e-3


@pytest.mark.parametrize("is_bypassed", [True, False])
def test_a_holder_that_lets_its_input_through_adds_nothing(is_bypassed, tmp_path):
    x = keras.Input(SHAPE)
    quantizer = ActivationUniformInferableQuantizer(8, [-1.0], [1.0])
    holder = KerasPreservingActivationQuantizationHolder(quantizer, quantization_bypass=is_bypassed)
    model = keras.Model(x, holder(x))
    kinds = {node.op_type for node in export_onnx(model).graph.node}
    assert ("QuantizeLinear" in kinds) is not is_bypassed
    report = compare_onnx(model, saved(model, tmp_path), [(images(),)])
    assert report.passed and len(report.tensors) == (0 if is_bypassed else 1)


class OwnQuantizer(BaseKerasInferableQuantizer):
    def initialize_quantization(self, tensor_shape, name, layer):
        pass

    def __call__(self, inputs):
        return inputs


class TrainedQuantizer(OwnQuantizer):
    def convert2inferable(self):
        return OwnQuantizer()


@pytest.mark.parametrize(
    ("quantizer", "words"),
    [(OwnQuantizer(), "must have `params`.* Received: OwnQuantizer"), (TrainedQuantizer(), "`finalize` it first")],
)
def test_quantizers_without_a_grid_are_refused_by_name(quantizer, words):
    x = keras.Input((4,))
    with pytest.raises(ValueError, match=words):
        export_onnx(keras.Model(x, KerasActivationQuantizationHolder(quantizer)(x)))


@pytest.mark.parametrize(
    "activation",
    [
        lambda: layers.PReLU(alpha_initializer="random_uniform"),
        lambda: layers.PReLU(alpha_initializer="random_uniform", shared_axes=[1, 2]),
        lambda: layers.LeakyReLU(0.1),
        lambda: layers.ReLU(6.0, negative_slope=0.1),
        lambda: layers.ELU(0.5),
        layers.Softmax,
        lambda: layers.Activation(layers.Activation("silu")),
    ],
)
def test_a_layer_may_be_the_activation_function_of_another(activation, tmp_path):
    x = keras.Input(SHAPE)
    # Keras builds a layer inside another one in the first call with numbers.
    inner, behind = activation(), activation()
    inner.build((None, 6, 6, 6))
    behind.build((None, 4, 4, 6))
    y = held(wrapped(layers.Conv2D(6, 3, activation=inner, name="conv"), held(x)))
    y = held(layers.Activation(behind)(wrapped(layers.DepthwiseConv2D(3, name="deep"), y, axis=-2)))
    model = keras.Model(x, wrapped(layers.Dense(3, name="head"), layers.Flatten()(y)))
    report = compare_onnx(model, saved(model, tmp_path), [(images(),)])
    assert report.passed
    assert report.max_output_difference < 1e-4

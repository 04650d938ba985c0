# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A frozen Keras model as a LiteRT (.tflite) file of int8 kernels, with the learned grids and codes.

TensorFlow's converter makes a float file of a copy of the model in which numbers stand for what is quantized: for each
element of a weight the number of the element, for each activation a grid whose scale is the number of the activation.
In that file weights, biases and activations are then replaced by their integers, and float operations between
integers by the integer ones. Nothing is calibrated, estimated or rounded to another grid.
"""

import contextlib
import copy
import dataclasses
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.keras.graph import Call, Graph, graph_of, is_functional, rebuild

__all__ = [
    "INT8_MIN",
    "PRESERVING",
    "PRODUCTS",
    "Code",
    "TensorType",
    "activation_params",
    "checked_graph",
    "code_of",
    "export_litert",
    "is_bypassed",
    "weight_name",
]

Array = npt.NDArray[Any]
Operator = Any
"""A `tflite.OperatorT`."""

INT8_MIN, INT8_MAX = -128, 127
_SMALLEST_DEAD_SCALE = 2.0**-16
"""Scale of a channel of zeros, at the least: any scale stands for them, and the bias must fit in steps of it."""
_MOST_AVERAGED = 256
"""Number of elements up to which an average becomes a product with a weight, which the file must hold."""
_AVERAGE_CODE = 64
"""Weight of an average that is a product: the larger it is, the less the kernel's first rounding counts."""
_LARGEST_MULTIPLIER = 2.0**-4
"""Kernels multiply by `m · 2**-k`, 1/2 <= m < 1: they round after `m` and again after `2**-k`, which is off by up to
`2**-(k + 1)` steps. From this multiplier on an operation without a weight is computed in float."""
_SINGLE_ROUNDING = 0.5
"""Multiplier from which on they round once."""
_FIRST_NUMBER = 0x00800000
_LAST_NUMBER = 0x7F000000
"""Bits of the float32 numbers that stand for the elements of weights: normal, each one once."""


class Code(IntEnum):
    """Operators, as numbered in the schema of the format."""

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONCATENATION = 2
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    DEPTH_TO_SPACE = 5
    DEQUANTIZE = 6
    FULLY_CONNECTED = 9
    MAX_POOL_2D = 17
    MUL = 18
    RELU = 19
    RELU6 = 21
    RESHAPE = 22
    SPACE_TO_DEPTH = 26
    PAD = 34
    GATHER = 36
    BATCH_TO_SPACE_ND = 37
    SPACE_TO_BATCH_ND = 38
    TRANSPOSE = 39
    MEAN = 40
    SUB = 41
    SQUEEZE = 43
    STRIDED_SLICE = 45
    SPLIT = 49
    MINIMUM = 57
    SLICE = 65
    TRANSPOSE_CONV = 67
    TILE = 69
    EXPAND_DIMS = 70
    SHAPE = 77
    UNPACK = 88
    RESIZE_NEAREST_NEIGHBOR = 97
    REVERSE_V2 = 105
    QUANTIZE = 114


class TensorType(IntEnum):
    """Types of tensors, as numbered in the schema of the format."""

    FLOAT32 = 0
    INT32 = 2
    INT8 = 9


class Product(NamedTuple):
    """Positions of the inputs of a product with a weight, and the axis along which its weight's scale may vary."""

    data: int
    weight: int
    bias: int
    axis: int


PRODUCTS = {
    Code.CONV_2D: Product(0, 1, 2, axis=0),
    Code.DEPTHWISE_CONV_2D: Product(0, 1, 2, axis=3),
    Code.FULLY_CONNECTED: Product(0, 1, 2, axis=0),
    Code.TRANSPOSE_CONV: Product(2, 1, 3, axis=0),
}
# Number of the first inputs that are data, of operators whose integer kernels go from grid to grid.
_ARITHMETIC = {
    Code.ADD: 2, Code.SUB: 2, Code.MUL: 2, Code.RELU: 1, Code.RELU6: 1, Code.MEAN: 1,
    Code.AVERAGE_POOL_2D: 1,
}  # fmt: skip
# Position of the data of operators that move or select values: rounding before them or after them is the same.
PRESERVING = {
    **dict.fromkeys(
        (
            Code.DEPTH_TO_SPACE, Code.MAX_POOL_2D, Code.RESHAPE, Code.SPACE_TO_DEPTH, Code.PAD, Code.GATHER,
            Code.BATCH_TO_SPACE_ND, Code.SPACE_TO_BATCH_ND, Code.TRANSPOSE, Code.SQUEEZE, Code.STRIDED_SLICE,
            Code.SLICE, Code.TILE, Code.EXPAND_DIMS, Code.SHAPE, Code.UNPACK, Code.RESIZE_NEAREST_NEIGHBOR,
            Code.REVERSE_V2,
        ),
        0,
    ),
    Code.SPLIT: 1,
}  # fmt: skip
# First version of each operator with int8.
_VERSIONS = {
    Code.ADD: 2, Code.SUB: 2, Code.MUL: 2, Code.AVERAGE_POOL_2D: 2, Code.CONCATENATION: 2, Code.CONV_2D: 3,
    Code.DEPTHWISE_CONV_2D: 3, Code.DEPTH_TO_SPACE: 1, Code.DEQUANTIZE: 2, Code.FULLY_CONNECTED: 4,
    Code.MAX_POOL_2D: 2, Code.RELU: 2, Code.RELU6: 2, Code.SPACE_TO_DEPTH: 2, Code.PAD: 2, Code.GATHER: 2,
    Code.BATCH_TO_SPACE_ND: 2, Code.SPACE_TO_BATCH_ND: 2, Code.TRANSPOSE: 2, Code.MEAN: 2, Code.SQUEEZE: 2,
    Code.STRIDED_SLICE: 2, Code.SPLIT: 2, Code.MINIMUM: 2, Code.SLICE: 2, Code.TRANSPOSE_CONV: 2, Code.TILE: 2,
    Code.UNPACK: 2, Code.RESIZE_NEAREST_NEIGHBOR: 2, Code.REVERSE_V2: 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of int8 codes.

    Attributes:
        scale: float32 numbers, one or one for each channel.
        zero_point: the code of 0.0.
        high: the largest code; the smallest is `INT8_MIN` for activations.
        axis: along which the scale varies.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    high: int = INT8_MAX
    axis: int = 0

    @property
    def is_per_tensor(self) -> bool:
        """Whether there is one scale."""
        return len(self.scale) == 1


@dataclass(slots=True)
class StoredWeight:
    """A weight as the file holds it.

    Attributes:
        name: its name.
        codes: int8, shape of the weight in Keras; 0 stands for 0.0.
        scale: float32, of each element.
    """

    name: str
    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]


@dataclass
class _Numbers:
    """What the numbers in the float file stand for."""

    weights: list[StoredWeight] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    activations: list[tuple[str, Grid]] = field(default_factory=list)
    end: int = _FIRST_NUMBER

    def of_weight(self, weight: StoredWeight) -> npt.NDArray[np.float32]:
        """A number for each element, in the shape of the weight."""
        start, self.end = self.end, self.end + weight.codes.size
        if self.end > _LAST_NUMBER:
            raise ValueError(f"The model must have at most {_LAST_NUMBER - _FIRST_NUMBER} quantized weights.")
        self.weights.append(weight)
        self.starts.append(start)
        return np.arange(start, self.end, dtype=np.int32).view(np.float32).reshape(weight.codes.shape)

    def of_activation(self, name: str, grid: Grid) -> int:
        """A number from 1 on."""
        self.activations.append((name, grid))
        return len(self.activations)

    def find(self, bits: npt.NDArray[np.int32]) -> int | None:
        """Index of the weight whose elements a constant consists of, in any order."""
        if not bits.size or not _FIRST_NUMBER <= bits[0] < self.end:
            return None
        index = int(np.searchsorted(self.starts, bits[0], side="right")) - 1
        start, size = self.starts[index], self.weights[index].codes.size
        is_whole = bits.size == size and np.array_equal(np.sort(bits), np.arange(start, start + size))
        return index if is_whole else None


class _NumberedActivation(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Marks a tensor with a grid whose scale is a number."""

    def __init__(self, number: int) -> None:
        super().__init__(name=f"litert_activation_{number}")
        self.number = number

    def call(self, inputs: Any) -> Any:
        """The converter makes a Quantize and a Dequantize of it."""
        import tensorflow as tf

        # 255 steps from 0: the scale in the file is exactly the number.
        return tf.quantization.fake_quant_with_min_max_args(inputs, 0.0, 255.0 * self.number, num_bits=8)


class _NumberedWeight:
    """Stands for the quantizer of a weight: gives the numbers."""

    def __init__(self, numbers: npt.NDArray[np.float32]) -> None:
        self._numbers = numbers

    def __call__(self, weight: Any) -> Any:
        return keras.ops.convert_to_tensor(self._numbers)

    def initialize_quantization(self, shape: Any, name: str, layer: Any) -> None:
        """It has no variables."""


def export_litert(model: keras.Model) -> bytes:
    """Export a frozen model to LiteRT. Needs the TensorFlow backend.

    Products with a weight, additions, differences, multiplications, means, ReLU and concatenations whose inputs and
    output are quantized become int8 kernels with int32 accumulators, and what only moves values (max pooling, reshapes,
    padding, …) stays on the grid of its input. What is not quantized, such as the last layer's output, and functions
    without an integer kernel of the needed accuracy (sigmoid, softmax, …) are computed in float, from the values of the
    codes. Inputs and outputs are float.

    Weights are stored as int8, per channel or per tensor, with their codes less their zero points. Codes of fewer than
    8 bits are multiplied by a power of two and the scale divided by it, because a bias is an int32 in steps of the
    accumulator, which would be coarse. Activations are stored with their codes shifted to begin at -128; of those of
    fewer than 8 bits what lies above their range is cut off. The tensors in the file have the names of `weight_name`
    and of the holders' calls. All values and scales are those of the model, bit for bit; only a channel of zeros may
    get another scale.

    Args:
        model: a functional or sequential model whose quantizers are all inferable; it is not changed.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: another backend than TensorFlow, a model that is not functional or not frozen, a quantizer that int8
            cannot represent, or an operation that cannot be converted.
    """
    graph = checked_graph(model)
    numbers = _Numbers()
    content = _float_file(_numbered(graph, numbers))
    return _Rewriting(content, numbers, graph.input_names).result()


def checked_graph(model: Any) -> Graph:
    """The graph of a model that can be exported, inputs and outputs as lists.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: another backend than TensorFlow, or a model that is not functional, or computes in another dtype.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a `keras.Model`. Received: {model!r}")
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "Export to LiteRT needs the TensorFlow backend. Save the model as a `.keras` file, and load and export it "
            f"in a process with KERAS_BACKEND=tensorflow. Received: backend {keras.config.backend()!r}"
        )
    if not is_functional(model):
        raise ValueError(
            "`model` must be a functional or a built sequential model, whose operations are known. "
            f"Received: {type(model).__name__}"
        )
    graph = graph_of(model)
    inputs, outputs = keras.tree.flatten(graph.inputs), keras.tree.flatten(graph.outputs)
    names = graph.input_names
    if not all(name.isidentifier() for name in names):
        names = [f"input_{index}" for index in range(len(names))]
    for call in graph.calls:
        dtype = getattr(call.operation, "compute_dtype", "float32")
        if dtype in ("float16", "bfloat16", "float64"):
            raise ValueError(
                f"{call.name} must compute in float32 to be exported to LiteRT; load the model's weights into one that "
                f"is built under the dtype policy 'float32'. Received: {dtype}"
            )
    return dataclasses.replace(graph, inputs=inputs, input_names=names, outputs=outputs)


def is_bypassed(holder: KerasActivationQuantizationHolder) -> bool:
    """Whether a holder lets its input through."""
    return bool(getattr(holder, "quantization_bypass", False))


def weight_name(call: Call, key: int | str) -> str:
    """Name of a weight in the file."""
    return f"{call.path}.{key}"


def _stored_weights(call: Call) -> dict[int | str, StoredWeight]:
    """The weights of a wrapper as a file holds them, by their keys.

    Raises:
        ValueError: a quantizer is not frozen, or its integers do not fit in int8.
    """
    wrapper: KerasQuantizationWrapper = call.operation
    return {
        key: _stored_weight(weight_name(call, key), quantizer, variable)
        for key, variable, quantizer in wrapper.get_weights_vars()
    }


def _stored_weight(name: str, quantizer: Any, variable: Any) -> StoredWeight:
    params = _params_of(name, quantizer)
    codes = keras.ops.convert_to_numpy(quantizer.quantize(keras.ops.convert_to_tensor(variable)))
    axis = params.axis
    aligned = broadcast_shape(codes.ndim, axis)
    if isinstance(params, LookupTable):
        centered = params.lut_values[codes]
        scale = params.threshold / params.level_scale
    else:
        centered = codes - params.zero_point.reshape(aligned)
        scale = params.scale
    low, high = int(centered.min(initial=0)), int(centered.max(initial=0))
    if low < INT8_MIN or high > INT8_MAX:
        raise ValueError(
            f"{name} has integers from {low} to {high} around its zero point; LiteRT stores weights as int8, from "
            f"{INT8_MIN} to {INT8_MAX} with zero point 0. Quantize it symmetrically, with at most 8 bits. "
            f"Received: {type(quantizer).__name__} with {params.num_bits} bits"
        )
    scale = np.broadcast_to(scale.reshape(aligned), codes.shape).astype(np.float32)
    # Values stay the same to the last bit, and the steps of the accumulator, to which the bias is rounded, get finer.
    factors = (2**bits for bits in range(max(8 - params.num_bits, 0), -1, -1))
    factor = next(item for item in factors if low * item >= INT8_MIN and high * item <= INT8_MAX)
    centered, scale = centered * factor, scale / np.float32(factor)
    if axis is not None:
        others = tuple(index for index in range(codes.ndim) if index != axis % codes.ndim)
        is_dead = ~centered.any(axis=others, keepdims=True)
    else:
        is_dead = ~centered.any(keepdims=True)
    scale = np.where(is_dead, np.maximum(scale, np.float32(_SMALLEST_DEAD_SCALE)), scale)
    return StoredWeight(name, centered.astype(np.int8), scale.astype(np.float32))


def activation_params(call: Call) -> QuantParams:
    """The grid of a holder.

    Raises:
        ValueError: its quantizer is not frozen, or int8 cannot hold its codes.
    """
    name, quantizer = call.name, call.operation.activation_holder_quantizer
    params = _params_of(name, quantizer)
    if not isinstance(params, QuantParams):
        raise ValueError(
            f"{name} has the levels of a lookup table; activations in LiteRT lie on a grid of int8. Train it with a "
            f"power-of-two, symmetric or uniform quantizer, or export to another format. Received: {quantizer!r}"
        )
    if params.axis is not None or params.quant_max - params.quant_min > INT8_MAX - INT8_MIN:
        raise ValueError(
            f"{name} has {params.num_bits} bits; activations in LiteRT have at most 8 and one scale. Quantize it "
            f"with 8 bits or fewer, or export to another format. Received: {quantizer!r}"
        )
    return params


def _activation_grid(params: QuantParams) -> Grid:
    # The smallest code becomes -128, where int8 saturates by itself.
    shift = INT8_MIN - params.quant_min
    return Grid((float(params.scale[0]),), int(params.zero_point[0]) + shift, params.quant_max + shift)


def _params_of(name: str, quantizer: Any) -> QuantParams | LookupTable:
    params = getattr(quantizer, "params", None)
    if not isinstance(params, (QuantParams, LookupTable)) or not hasattr(quantizer, "quantize"):
        raise ValueError(
            f"{name} must have an inferable quantizer on a grid to be exported to LiteRT: finalize the model first; "
            f"quantizers of your own without `params` cannot be exported. Received: {type(quantizer).__name__}"
        )
    return params


def _numbered(graph: Graph, numbers: _Numbers) -> keras.Model:
    """The model with numbers for its weights and activations."""
    wrappers: dict[int, KerasQuantizationWrapper] = {}
    # All errors come first.
    weights = {id(c.operation): _stored_weights(c) for c in graph.calls if _is_wrapper(c.operation)}

    def numbered_wrapper(wrapper: KerasQuantizationWrapper) -> KerasQuantizationWrapper:
        if id(wrapper) not in wrappers:
            quantizers = {
                key: _NumberedWeight(numbers.of_weight(weight)) for key, weight in weights[id(wrapper)].items()
            }
            wrappers[id(wrapper)] = KerasQuantizationWrapper(
                wrapper.layer,
                quantizers,
                wrapper.weight_values,
                wrapper.op_call_args,
                wrapper.op_call_kwargs,
                wrapper.is_inputs_as_list,
                name=wrapper.name,
            )
        return wrappers[id(wrapper)]

    def call_of(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation = call.operation
        if _is_wrapper(operation):
            operation = numbered_wrapper(operation)
        elif isinstance(operation, KerasActivationQuantizationHolder) and not is_bypassed(operation):
            grid = _activation_grid(activation_params(call))
            operation = _NumberedActivation(numbers.of_activation(call.name, grid))
        elif _is_quantized_next(graph, call):
            operation = _average_as_product(call, numbers) or operation
        return operation(*args, **kwargs)

    return rebuild(graph, call_of)


def _is_quantized_next(graph: Graph, call: Call) -> bool:
    users = [user.operation for value in call.outputs for user in graph.users(value)]
    is_output = any(value in graph.outputs for value in call.outputs)
    return not is_output and all(isinstance(user, KerasActivationQuantizationHolder) for user in users)


def _average_as_product(call: Call, numbers: _Numbers) -> Callable[[Any], Any] | None:
    """An average as a depthwise convolution; None for another operation, an open shape or many elements.

    The integer kernel of average pooling rounds to the grid of its input first, and that of a mean rounds coarsely.
    """
    layer, shape = call.operation, call.inputs[0].shape if call.inputs else ()
    if len(call.inputs) != 1 or call.kwargs or getattr(layer, "data_format", "") != "channels_last":
        return None
    spatial, channels = shape[1:-1], shape[-1]
    is_global = isinstance(layer, (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D))
    if is_global:
        sizes, strides = tuple(spatial), (1,) * len(spatial)
    elif isinstance(layer, (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D)) and layer.padding == "valid":
        sizes, strides = layer.pool_size, layer.strides
    else:
        return None
    kernel = [size for size in (*sizes, *(1,) * (2 - len(sizes)), channels, 1) if size is not None]
    if len(kernel) < 4 or len(set(strides)) > 1:
        return None
    count = math.prod(kernel[:2])
    if count > _MOST_AVERAGED:
        return None
    weight = StoredWeight(
        f"{call.name}.mean",
        np.full(kernel, _AVERAGE_CODE, np.int8),
        np.full(kernel, 1 / (count * _AVERAGE_CODE), np.float32),
    )
    values = numbers.of_weight(weight)

    def average(x: Any) -> Any:
        image = keras.ops.expand_dims(x, 2) if len(spatial) == 1 else x
        image = keras.ops.depthwise_conv(image, values, strides[0], "valid", data_format="channels_last")
        if len(spatial) == 1:
            image = keras.ops.squeeze(image, 2)
        if is_global and not layer.keepdims:
            image = keras.ops.squeeze(image, tuple(range(1, len(spatial) + 1)))
        return image

    return average


def _is_wrapper(operation: Any) -> bool:
    return isinstance(operation, KerasQuantizationWrapper)


def _float_file(model: keras.Model) -> bytes:
    import tensorflow as tf

    try:
        # The converter prints where it saves its intermediate files.
        with contextlib.redirect_stdout(io.StringIO()):
            content: bytes = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    except Exception as error:  # the converter runs layers of the user's own, which may raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # What comes before it, over many lines, is where the converter's own code was called.
        about_operation = re.search(r"'[\w.]+' op [^\n]+", str(error))
        reason = about_operation[0] if about_operation else lines[0]
        raise ValueError(f"The model cannot be converted to LiteRT. Reason: {reason}") from error
    return content


class _Rewriting:
    """Turns the float file into one of integers.

    Args:
        content: the float file.
        numbers: what its numbers stand for.
        input_names: names of the model's inputs, in their order.
    """

    def __init__(self, content: bytes, numbers: _Numbers, input_names: Sequence[str]) -> None:
        from tensorflow.lite.tools import flatbuffer_utils

        self._flatbuffers = flatbuffer_utils
        self._schema = flatbuffer_utils.schema_fb
        self._numbers = numbers
        self._model = flatbuffer_utils.convert_bytearray_to_object(content)
        self._graph = self._model.subgraphs[0]
        self._tensors: list[Any] = self._graph.tensors
        self._operators: list[Operator] = []
        self._users: dict[int, list[Operator]] = {}
        for operator in self._graph.operators:
            # Read as arrays that cannot be written.
            operator.inputs = [int(index) for index in operator.inputs]
            operator.outputs = [int(index) for index in operator.outputs]
            for index in set(operator.inputs):
                self._users.setdefault(index, []).append(operator)
        self._integers: dict[int, tuple[int, Grid]] = {}
        """For a float tensor the tensor of its codes, and their grid."""
        self._dequantized: set[int] = set()
        self._named: set[int] = set()
        self._order_ends(input_names)

    def result(self) -> bytes:
        """The file of integers."""
        self._place_weights()
        for operator in self._graph.operators:
            code = self._code(operator)
            if code is Code.QUANTIZE:
                self._quantize(operator)
            elif code is Code.DEQUANTIZE:
                self._integers[int(operator.outputs[0])] = self._integers[int(operator.inputs[0])]
            elif not self._in_integers(operator, code):
                operator.inputs = [self._float(int(index)) for index in operator.inputs]
                self._operators.append(operator)
        self._graph.outputs = [self._float(int(index)) for index in self._graph.outputs]
        self._graph.operators = self._operators
        self._drop_unused()
        # It speaks of the float operators.
        self._model.metadata = [item for item in self._model.metadata or [] if item.name != b"min_runtime_version"]
        return bytes(self._flatbuffers.convert_object_to_bytearray(self._model))

    def _order_ends(self, input_names: Sequence[str]) -> None:
        """Inputs and outputs in the order of the model; the converter gives them any."""
        signature = self._model.signatureDefs[0]
        inputs = {item.name.decode(): int(item.tensorIndex) for item in signature.inputs}
        outputs = {item.name.decode(): int(item.tensorIndex) for item in signature.outputs}
        self._graph.inputs = [inputs[name] for name in input_names]
        self._graph.outputs = [outputs[f"output_{index}"] for index in range(len(outputs))]

    def _place_weights(self) -> None:
        found = set()
        for index, tensor in enumerate(list(self._tensors)):
            data = self._data(tensor)
            number = None
            if data is not None and tensor.type == TensorType.FLOAT32:
                number = self._numbers.find(data.view(np.int32))
            if data is not None and number is not None:
                found.add(number)
                weight = self._numbers.weights[number]
                order = data.view(np.int32) - self._numbers.starts[number]
                self._place_weight(index, weight, order.reshape(tensor.shape))
        for number, weight in enumerate(self._numbers.weights):
            if number not in found:
                raise ValueError(
                    f"{weight.name} cannot be exported: the converter of LiteRT does not take it over as it is, "
                    "because an operation changes it, such as a batch norm after its layer, which must be folded "
                    "before. Finalize the model, or leave this layer in float"
                )

    def _place_weight(self, index: int, weight: StoredWeight, order: Array) -> None:
        scale = weight.scale.reshape(-1)[order]
        axis = _axis_of(scale)
        if axis is None:
            raise ValueError(
                f"{weight.name} has a scale that varies along several axes as LiteRT lays the weight out. Quantize it "
                "per tensor, or along the axis of the layer's output channels"
            )
        vector = np.moveaxis(scale, axis, 0).reshape(scale.shape[axis], -1)[:, 0]
        if scale.size and (scale == scale.flat[0]).all():
            vector = vector[:1]
        grid = Grid(tuple(vector.tolist()), axis=axis)
        codes = self._add(self._tensors[index], grid, weight.codes.reshape(-1)[order])
        self._tensors[codes].name = weight.name.encode()
        self._tensors[index].buffer = 0
        self._integers[index] = codes, grid

    def _quantize(self, operator: Operator) -> None:
        """A holder."""
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        name, grid = self._activation(target)
        codes, present = self._integers.get(source, (None, None))
        if codes is None or present != grid or codes in self._named:
            codes = self._requantized(source, grid)
        self._named.add(codes)
        self._tensors[codes].name = name.encode()
        self._integers[target] = codes, grid

    def _in_integers(self, operator: Operator, code: Code | None) -> bool:
        """Append an operator in integers, if it can be."""
        if code in PRESERVING:
            return self._preserve(operator, code)
        if code not in (*PRODUCTS, *_ARITHMETIC, Code.CONCATENATION):
            return False
        output = int(operator.outputs[0])
        grid = self._grid_after(output)
        if code is Code.CONCATENATION:
            inputs = self._concatenated(operator, grid)
            if grid is None and inputs is not None:
                grid = self._integers[int(operator.inputs[0])][1]
        elif code in PRODUCTS:
            inputs = self._product(operator, PRODUCTS[code])
        else:
            inputs = self._operands(operator, _ARITHMETIC[code])
            if inputs is not None and grid is not None and not self._is_accurate(operator, code, grid):
                inputs = None
        if inputs is None or grid is None:
            return False
        operator.inputs = inputs
        self._integers[output] = self._append(operator, output, grid), grid
        return True

    def _preserve(self, operator: Operator, code: Code) -> bool:
        position = PRESERVING[code]
        codes, grid = self._integers.get(int(operator.inputs[position]), (None, None))
        if codes is None or grid is None or not grid.is_per_tensor:
            return False
        operator.inputs[position] = codes
        if code is not Code.SHAPE:
            for place, output in enumerate(operator.outputs):
                operator.outputs[place] = self._add(self._tensors[output], grid)
                self._integers[int(output)] = int(operator.outputs[place]), grid
        self._emit(operator, code)
        return True

    def _product(self, operator: Operator, places: Product) -> list[int] | None:
        inputs = [int(index) for index in operator.inputs]
        data, weight = self._integers.get(inputs[places.data]), self._integers.get(inputs[places.weight])
        if data is None or weight is None or self._grid_after(int(operator.outputs[0])) is None:
            return None
        # A product of two activations has no bias in steps of its own, and its weight has a zero point.
        is_constant = self._data(self._tensors[weight[0]]) is not None
        if (
            not is_constant
            or not data[1].is_per_tensor
            or not (weight[1].is_per_tensor or weight[1].axis == places.axis)
        ):
            return None
        inputs[places.data], inputs[places.weight] = data[0], weight[0]
        if len(inputs) > places.bias and inputs[places.bias] >= 0:
            bias = self._tensors[inputs[places.bias]]
            values = self._data(bias)
            if values is None or bias.type != TensorType.FLOAT32:
                return None
            inputs[places.bias] = self._bias(bias, values.view(np.float32), data[1], weight)
        return inputs

    def _bias(self, like: Any, values: Array, data: Grid, weight: tuple[int, Grid]) -> int:
        # In float32, as the runtime computes the scale of the accumulator.
        scale = np.float32(data.scale[0]) * np.array(weight[1].scale, np.float32)
        codes = np.round(values.astype(np.float64) / scale.astype(np.float64))
        if not (np.abs(codes) < 2.0**31).all():
            raise ValueError(
                f"The bias of the layer of {self._tensors[weight[0]].name.decode()} does not fit in 32 bits in steps "
                f"of the accumulator, {float(scale.min())}. Its weight's scale is too small for it: raise the weight's "
                f"threshold, or leave the layer in float. Received: a bias of up to {float(np.abs(values).max())}"
            )
        index = self._add(like, Grid(tuple(scale.tolist())), codes.astype(np.int32))
        self._tensors[index].type = TensorType.INT32
        return index

    def _operands(self, operator: Operator, count: int) -> list[int] | None:
        inputs = [int(index) for index in operator.inputs]
        operands = [self._integers.get(index) for index in inputs[:count]]
        if any(operand is None or not operand[1].is_per_tensor for operand in operands):
            return None
        return [*(operand[0] for operand in operands if operand is not None), *inputs[count:]]

    def _is_accurate(self, operator: Operator, code: Code | None, grid: Grid) -> bool:
        """Whether the integer kernel gives the codes of the model but for values next to a tie."""
        present = [self._integers[index][1] for index in operator.inputs if index in self._integers]
        ratio = present[0].scale[0] / grid.scale[0]
        if code is Code.AVERAGE_POOL_2D:
            # The kernel keeps the scale.
            return present[0] == grid
        if code in (Code.RELU, Code.RELU6):
            return ratio >= _SINGLE_ROUNDING
        if code is Code.MUL:
            return ratio * present[-1].scale[0] < _LARGEST_MULTIPLIER
        if code is Code.MEAN:
            sizes = [math.prod(self._tensors[i].shape) for i in (operator.inputs[0], operator.outputs[0])]
            return bool(ratio * sizes[1] / sizes[0] < _LARGEST_MULTIPLIER)
        return True

    def _concatenated(self, operator: Operator, grid: Grid | None) -> list[int] | None:
        inputs = [int(index) for index in operator.inputs]
        if any(self._tensors[index].type != TensorType.FLOAT32 for index in inputs):
            return None
        if operator.builtinOptions.fusedActivationFunction:
            return None
        if grid is not None:
            return [self._on_grid(index, grid) for index in inputs]
        grids = {self._integers[index][1] if index in self._integers else None for index in inputs}
        if len(grids) > 1 or not all(item is not None and item.is_per_tensor for item in grids):
            return None
        return [self._integers[index][0] for index in inputs]

    def _on_grid(self, index: int, grid: Grid) -> int:
        codes, present = self._integers.get(index, (None, None))
        return codes if codes is not None and present == grid else self._requantized(index, grid)

    def _requantized(self, index: int, grid: Grid) -> int:
        """Codes of a tensor on another grid."""
        codes, present = self._integers.get(index, (None, None))
        operator = self._schema.OperatorT()
        if codes is None or present is None or not present.is_per_tensor:
            operator.inputs = [self._float(index)]
            return self._append(operator, index, grid, Code.QUANTIZE)
        operator.inputs = [codes]
        if present.scale[0] / grid.scale[0] >= _SINGLE_ROUNDING:
            # Version 2 goes from integers to integers.
            return self._append(operator, index, grid, Code.QUANTIZE, version=2)
        # Its kernel would round twice; that of an addition has 20 bits more. 0.0 is added.
        operator.inputs.append(self._add(self._tensors[index], present, np.array([present.zero_point], np.int8)))
        operator.builtinOptions = self._schema.AddOptionsT()
        operator.builtinOptionsType = self._schema.BuiltinOptions.AddOptions
        return self._append(operator, index, grid, Code.ADD)

    def _append(self, operator: Operator, output: int, grid: Grid, code: Code | None = None, version: int = 1) -> int:
        """Append an operator whose result lies on `grid`; its tensor."""
        result = self._add(self._tensors[output], grid)
        operator.outputs = [result]
        self._emit(operator, self._code(operator) if code is None else code, version)
        if grid.high == INT8_MAX:
            return result
        # A grid of fewer codes: the kernel saturates at those of int8.
        highest = self._add(self._tensors[output], grid, np.array([grid.high], np.int8))
        limit = self._schema.OperatorT()
        limit.inputs, limit.outputs = [result, highest], [self._add(self._tensors[output], grid)]
        self._emit(limit, Code.MINIMUM)
        return int(limit.outputs[0])

    def _float(self, index: int) -> int:
        """The tensor itself, made of its codes where it was left to them."""
        if index in self._integers and index not in self._dequantized:
            self._dequantized.add(index)
            operator = self._schema.OperatorT()
            operator.inputs, operator.outputs = [self._integers[index][0]], [index]
            self._emit(operator, Code.DEQUANTIZE)
        return index

    def _grid_after(self, index: int) -> Grid | None:
        """The grid to which a tensor is rounded before anything else is done with it."""
        if index in self._graph.outputs:
            return None
        users = [user for user in self._users.get(index, []) if self._code(user) is not Code.SHAPE]
        if len(users) != 1:
            return None
        code = self._code(users[0])
        if code is Code.QUANTIZE:
            return self._activation(int(users[0].outputs[0]))[1]
        if code in PRESERVING and len(users[0].outputs) == 1 and users[0].inputs[PRESERVING[code]] == index:
            return self._grid_after(int(users[0].outputs[0]))
        return None

    def _activation(self, index: int) -> tuple[str, Grid]:
        """Name and grid of the holder that makes a tensor."""
        number = round(float(self._tensors[index].quantization.scale[0]))
        return self._numbers.activations[number - 1]

    def _code(self, operator: Operator) -> Code | None:
        return code_of(self._model, operator)

    def _emit(self, operator: Operator, code: Code | None, version: int = 1) -> None:
        if code is None:
            raise ValueError("Expected an operator that has a kernel of integers.")
        codes = self._model.operatorCodes
        if self._code(operator) is code:
            version = max(version, codes[operator.opcodeIndex].version)
        version = max(version, _VERSIONS.get(code, 1))
        for index, item in enumerate(codes):
            if max(item.builtinCode, item.deprecatedBuiltinCode) == code and item.version == version:
                operator.opcodeIndex = index
                break
        else:
            item = self._schema.OperatorCodeT()
            item.builtinCode = item.deprecatedBuiltinCode = int(code)
            item.version = version
            operator.opcodeIndex = len(codes)
            codes.append(item)
        self._operators.append(operator)

    def _add(self, like: Any, grid: Grid, values: Array | None = None) -> int:
        """A tensor of codes; a constant where there are values."""
        tensor = copy.copy(like)
        tensor.type = TensorType.INT8
        tensor.buffer = 0
        quantization = self._schema.QuantizationParametersT()
        quantization.scale = list(grid.scale)
        quantization.zeroPoint = [grid.zero_point] * len(grid.scale)
        quantization.quantizedDimension = grid.axis
        tensor.quantization = quantization
        if values is not None:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            tensor.buffer = len(self._model.buffers)
            tensor.shape, tensor.shapeSignature = list(values.shape), None
            self._model.buffers.append(buffer)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _data(self, tensor: Any) -> Array | None:
        data = self._model.buffers[tensor.buffer].data
        return None if data is None or not len(data) else np.frombuffer(bytes(data), np.uint8)

    def _drop_unused(self) -> None:
        """Leave out the tensors, buffers and operator codes that nothing refers to any more."""
        ends = [*self._graph.inputs, *self._graph.outputs]
        used = {int(i) for o in self._operators for i in (*o.inputs, *o.outputs, *(o.intermediates or []))}
        place = _renumber(self._tensors, used | {int(i) for i in ends})
        self._graph.tensors = [self._tensors[index] for index in place]
        place[-1] = -1
        for operator in self._operators:
            operator.inputs = [place[int(index)] for index in operator.inputs]
            operator.outputs = [place[int(index)] for index in operator.outputs]
            operator.intermediates = [place[int(index)] for index in operator.intermediates or []]
        self._graph.inputs = [place[int(index)] for index in self._graph.inputs]
        self._graph.outputs = [place[int(index)] for index in self._graph.outputs]
        for signature in self._model.signatureDefs:
            for item in (*signature.inputs, *signature.outputs):
                item.tensorIndex = place[int(item.tensorIndex)]
        graphs = self._model.subgraphs
        tensors = [tensor for graph in graphs for tensor in graph.tensors]
        metadata = self._model.metadata or []
        # The first buffer is the empty one.
        buffers = _renumber(
            self._model.buffers, {0, *(tensor.buffer for tensor in tensors), *(item.buffer for item in metadata)}
        )
        self._model.buffers = [self._model.buffers[index] for index in buffers]
        for holder in (*tensors, *metadata):
            holder.buffer = buffers[holder.buffer]
        operators = [operator for graph in graphs for operator in graph.operators]
        codes = _renumber(self._model.operatorCodes, {operator.opcodeIndex for operator in operators})
        self._model.operatorCodes = [self._model.operatorCodes[index] for index in codes]
        for operator in operators:
            operator.opcodeIndex = codes[operator.opcodeIndex]


def code_of(model: Any, operator: Operator) -> Code | None:
    """Which operator it is; None for one that only runs in float.

    Args:
        model: a `tflite.ModelT`.
        operator: one of its operators.
    """
    code = model.operatorCodes[operator.opcodeIndex]
    value = max(code.builtinCode, code.deprecatedBuiltinCode)
    return Code(value) if value in iter(Code) else None


def _renumber(items: Sequence[Any], used: set[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(index for index in range(len(items)) if index in used)}


def _axis_of(scale: Array) -> int | None:
    """The axis along which a scale varies; 0 where it does not, None where it varies along several."""
    varies = [axis for axis in range(scale.ndim) if (scale != scale.take([0], axis)).any()] if scale.size else []
    if len(varies) > 1:
        return None
    return varies[0] if varies else 0

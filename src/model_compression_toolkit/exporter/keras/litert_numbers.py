# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that stand for the weights and activations of a model while TensorFlow's converter works on it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.keras.graph import Call, Graph, Value, evaluated, rebuild
from model_compression_toolkit.exporter.keras.litert_functions import convertible
from model_compression_toolkit.exporter.keras.litert_schema import Grid
from model_compression_toolkit.exporter.keras.litert_storage import (
    StoredWeight,
    activation_grid,
    activation_params,
    is_bypassed,
    stored_weights,
)

__all__ = ["Numbers", "numbered_model"]

_MOST_AVERAGED = 256
"""Number of elements up to which an average becomes a product with a weight, which the file must hold."""
_AVERAGE_CODE = 64
"""Weight of an average that is a product: the larger it is, the less the kernel's first rounding counts."""
_FIRST_NUMBER = 0x00800000
_LAST_NUMBER = 0x7F000000
"""Bits of the float32 numbers that stand for the elements of weights: normal, each one once."""


@dataclass
class Numbers:
    """What the numbers in the float file stand for.

    Attributes:
        weights: the weights whose elements have numbers.
        starts: the bits of the number of each weight's first element; ascending.
        activations: name and grid of each activation; the number of the first is 1. A barrier has no grid.
        end: the bits of the first number that is still free.
    """

    weights: list[StoredWeight] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    activations: list[tuple[str, Grid | None]] = field(default_factory=list)
    end: int = _FIRST_NUMBER

    def of_weight(self, weight: StoredWeight) -> npt.NDArray[np.float32]:
        """A number for each element, in the shape of the weight.

        Raises:
            ValueError: there are not that many numbers left.
        """
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

    def of_barrier(self) -> int:
        """A number for a tensor without a grid, which keeps the converter from merging what stands at both sides."""
        self.activations.append(("", None))
        return len(self.activations)

    def is_barrier(self, number: int) -> bool:
        """Whether a number of an activation is that of a barrier."""
        return self.activations[number - 1][1] is None

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

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Dense also where Keras takes a product with a number for sparse, which the function above refuses."""
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class _NumberedWeight:
    """Stands for the quantizer of a weight: gives the numbers."""

    def __init__(self, numbers: npt.NDArray[np.float32]) -> None:
        self._numbers = numbers

    def __call__(self, weight: Any) -> Any:
        return keras.ops.convert_to_tensor(self._numbers)

    def initialize_quantization(self, shape: Any, name: str, layer: Any) -> None:
        """It has no variables."""


def numbered_model(graph: Graph, numbers: Numbers) -> keras.Model:
    """A copy of the model with numbers for its weights and activations.

    Args:
        graph: the calls of the model.
        numbers: takes in what the numbers stand for.

    Raises:
        ValueError: a quantizer is not frozen, or int8 cannot represent it.
    """
    wrappers: dict[int, KerasQuantizationWrapper] = {}
    # All errors come first.
    weights = {id(c.operation): stored_weights(c) for c in graph.calls if _is_wrapper(c.operation)}

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
        args = _kept_apart(call, args, numbers)
        if _is_wrapper(operation):
            operation = numbered_wrapper(operation)
        elif isinstance(operation, KerasActivationQuantizationHolder) and not is_bypassed(operation):
            grid = activation_grid(activation_params(call))
            operation = _NumberedActivation(numbers.of_activation(call.name, grid))
        elif _is_quantized_next(graph, call):
            operation = _average_as_product(call, numbers) or operation
        return convertible(operation)(*args, **evaluated(operation, kwargs))

    return rebuild(graph, call_of)


def _is_merged(operation: Any) -> bool:
    """Whether the converter multiplies the weight of a layer before or behind an operation by its constants."""
    if isinstance(operation, (keras.layers.BatchNormalization, keras.layers.Normalization, keras.layers.Rescaling)):
        return True
    return type(operation).__name__ in ("Multiply", "Divide", "TrueDivide")


def _kept_apart(call: Call, args: tuple[Any, ...], numbers: Numbers) -> tuple[Any, ...]:
    """The arguments, with barriers between layers with quantized weights and what would be merged with these."""
    if _is_wrapper(call.operation):
        is_beyond = _is_merged
    elif _is_merged(call.operation):
        is_beyond = _is_wrapper
    else:
        return args

    def apart(value: Any, tensor: Any) -> Any:
        is_kept = isinstance(value, Value) and value.call is not None and is_beyond(value.call.operation)
        return _NumberedActivation(numbers.of_barrier())(tensor) if is_kept else tensor

    kept: tuple[Any, ...] = keras.tree.map_structure(apart, call.args, args)
    return kept


def _is_quantized_next(graph: Graph, call: Call) -> bool:
    users = [user.operation for value in call.outputs for user in graph.users(value)]
    is_output = any(value in graph.outputs for value in call.outputs)
    return not is_output and all(isinstance(user, KerasActivationQuantizationHolder) for user in users)


def _average_as_product(call: Call, numbers: Numbers) -> Callable[[Any], Any] | None:
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

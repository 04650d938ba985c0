# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a translator gets: one call of a layer or function, the values it takes, and the graph it adds nodes to."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.keras.graph import Call, Value
from model_compression_toolkit.exporter.keras.onnx_builder import OnnxBuilder, element_type
from model_compression_toolkit.exporter.keras.onnx_quantization import Layout, params_of, weight

__all__ = ["Site", "Translator", "WeightRecord", "Weights", "as_array"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class WeightRecord:
    """A quantized weight of the file.

    Attributes:
        name: `layer.tensor`.
        path: path of the layer in the model.
        variable: its float values, a variable of Keras.
        quantizer: its quantizer.
        params: its grid or table.
        layout: brings it into the order of axes of the file.
    """

    name: str
    path: str
    variable: Any
    quantizer: Any
    params: QuantParams | LookupTable
    layout: Layout


@dataclass(slots=True)
class Weights:
    """The weights that were written so far: a layer that is called twice has one.

    Attributes:
        records: the quantized ones, by name.
    """

    records: dict[str, WeightRecord] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Site:
    """One call.

    Attributes:
        builder: the graph.
        call: the call.
        operation: the layer, without the wrapper that quantizes its weights, or the function.
        quantizers: quantizers of its weights by name.
        names: what stands for each value in the graph so far.
        weights: the weights that were written so far.
        planned: names of tensors in the plan, by path of the layer and weight.
        arguments: what the layer takes besides its first input, by name.
        prefix: what the names of its weights begin with, where it is a layer inside the one that is called.
    """

    builder: OnnxBuilder
    call: Call
    operation: Any
    quantizers: dict[Any, Any]
    names: dict[Value, str]
    weights: Weights
    planned: Mapping[tuple[str, str], str]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""

    @property
    def name(self) -> str:
        """Name of the call."""
        return self.call.name

    @property
    def first(self) -> Value:
        """The first tensor among the arguments."""
        return self.call.inputs[0]

    @property
    def x(self) -> str:
        """What stands for the first tensor."""
        return self.names[self.first]

    @property
    def rank(self) -> int:
        """Number of axes of the first tensor."""
        return len(self.first.shape)

    @property
    def result(self) -> Value:
        """The first result."""
        return self.call.outputs[0]

    def operand(self, argument: Any, dtype: str | None = None) -> str:
        """What stands for an argument, a tensor or a constant, in a dtype; in its own unless given."""
        if isinstance(argument, Value):
            name = self.names[argument]
            return name if dtype in (None, argument.dtype) else self.cast(name, str(dtype))
        array = as_array(argument)
        return self.builder.constant(array.astype(dtype or self.result.dtype), f"{self.name}/constant")

    def cast(self, x: str, dtype: str) -> str:
        """`x` in another dtype."""
        return self.builder.elementwise("Cast", [x], f"{self.name}/cast", to=element_type(dtype))

    def constant(self, array: Any, part: str) -> str:
        """A new constant, named after the call."""
        return self.builder.constant(array, f"{self.name}/{part}")

    def int_constant(self, numbers: Sequence[int] | Array, part: str) -> str:
        """A new constant of 64-bit integers."""
        return self.constant(np.array(numbers, np.int64), part)

    def apply(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A new node that keeps the order of the axes."""
        return self.builder.elementwise(op_type, inputs, f"{self.name}/{op_type.lower()}", **attributes)

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """A new node of any other operator."""
        return self.builder.add(op_type, inputs, f"{self.name}/{op_type.lower()}", **attributes)

    def reduce(self, op_type: str, x: str, axes: Sequence[int], keepdims: bool) -> str:
        """A new node that makes one number of those along axes, which are not negative."""

        def emit(source: str, axis_of: Callable[[int], int]) -> str:
            chosen = self.int_constant([axis_of(axis) for axis in axes], "axes")
            return self.add(op_type, source, chosen, keepdims=int(keepdims))

        return self.builder.moved(x, emit) if keepdims else emit(x, lambda axis: axis)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """`x` in another shape: 0 keeps the size of an axis, -1 stands for the rest."""
        return self.add("Reshape", x, self.int_constant(shape, "shape"))

    def tensor_name(self, key: str) -> str:
        """Name of a weight: that of the plan, or `path.weight`."""
        key = self.prefix + key
        return self.planned.get((self.call.path, key), f"{self.call.path}.{key}")

    def weight(self, key: str, layout: Layout = lambda array: array) -> str:
        """What stands for a weight of the layer, quantized where it has a quantizer.

        Args:
            key: name of the weight; of a layer inside the layer its path, such as "cell.kernel".
            layout: brings it into the order of axes of the file.
        """
        name = self.tensor_name(key)
        if name not in self.weights.written:
            variable: Any = functools.reduce(getattr, key.split("."), self.operation)
            values = as_array(variable)
            if key in self.quantizers:
                params = params_of(self.quantizers[key], name)
                self.weights.records[name] = WeightRecord(
                    name, self.call.path, variable, self.quantizers[key], params, layout
                )
                self.weights.written[name] = weight(self.builder, values, params, name, layout)
            else:
                self.weights.written[name] = self.builder.constant(layout(values), name)
        return self.weights.written[name]

    def refuse(self, what: str, advice: str) -> NoReturn:
        """Say that this call cannot be exported.

        Raises:
            ValueError: always.
        """
        kind = type(self.operation).__name__
        raise ValueError(f"{self.name}, of class {kind}, cannot be exported to ONNX with {what}. {advice}")


Translator = Callable[[Site], str | list[str]]
"""Adds the nodes of a call; what stands for its results."""


def as_array(value: Any) -> Array:
    """A constant, a tensor or a variable of Keras as an array."""
    if isinstance(value, keras.Variable) or keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    return np.array(value)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Turns the float file of a numbered model into one of integers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model_compression_toolkit.exporter.common.bias import fits_accumulator
from model_compression_toolkit.exporter.keras.litert_codes import TensorCodes
from model_compression_toolkit.exporter.keras.litert_flatbuffer import Flatbuffer
from model_compression_toolkit.exporter.keras.litert_numbers import Numbers
from model_compression_toolkit.exporter.keras.litert_schema import (
    ARITHMETIC,
    LARGEST_MULTIPLIER,
    PRESERVING,
    PRODUCTS,
    SINGLE_ROUNDING,
    Code,
    Grid,
    Operator,
    Product,
    TensorType,
)
from model_compression_toolkit.exporter.keras.litert_storage import StoredWeight

__all__ = ["Rewriting"]

Array = npt.NDArray[Any]

_FUSED_RELU, _FUSED_RELU6 = 1, 3
"""Activation functions of an operator, as numbered in the schema of the format."""
_RELU6_END = 6.0


class Rewriting:
    """Turns the float file into one of integers.

    Args:
        content: the float file.
        numbers: what its numbers stand for.
        input_names: names of the model's inputs, in their order.

    Attributes:
        float_layers: names of the weights whose layers are computed in float, because their biases do not fit.
    """

    def __init__(self, content: bytes, numbers: Numbers, input_names: Sequence[str]) -> None:
        self._file = Flatbuffer(content, input_names)
        self._numbers = numbers
        self._codes = TensorCodes(self._file, numbers)
        self._named: set[int] = set()
        self.float_layers: list[str] = []

    def result(self) -> bytes:
        """The file of integers.

        Raises:
            ValueError: the converter did not take over a weight as it is, or the scale of one varies along several
                axes.
        """
        self._remove_barriers()
        self._place_weights()
        for operator in self._file.graph.operators:
            code = self._file.code(operator)
            if code is Code.QUANTIZE:
                self._quantize(operator)
            elif code is Code.DEQUANTIZE:
                self._codes.integers[int(operator.outputs[0])] = self._codes.integers[int(operator.inputs[0])]
            elif not self._in_integers(operator, code):
                operator.inputs = [self._codes.as_float(int(index)) for index in operator.inputs]
                self._file.operators.append(operator)
        self._file.graph.outputs = [self._codes.as_float(int(index)) for index in self._file.graph.outputs]
        return self._file.content()

    def _remove_barriers(self) -> None:
        """Take out the marks that kept the converter from merging operators."""
        kept: list[Operator] = []
        sources: dict[int, int] = {}
        for operator in self._file.graph.operators:
            code, output = self._file.code(operator), int(operator.outputs[0])
            is_marked = any(index in sources for index in operator.inputs)
            operator.inputs = [sources.get(index, index) for index in operator.inputs]
            if (code is Code.QUANTIZE and self._codes.is_barrier(output)) or (code is Code.DEQUANTIZE and is_marked):
                sources[output] = operator.inputs[0]
                continue
            if is_marked and code in PRESERVING and self._file.tensors[output].type == TensorType.INT8:
                # The converter has moved it to between the two halves of a mark.
                for index in operator.outputs:
                    self._file.tensors[index].type, self._file.tensors[index].quantization = TensorType.FLOAT32, None
                    sources[index] = index
            kept.append(operator)
        self._file.replace_operators(kept, sources)

    def _place_weights(self) -> None:
        found = set()
        for index, tensor in enumerate(list(self._file.tensors)):
            data = self._file.data(tensor)
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
                    "because an operation changes it, such as a product with a constant in a layer of your own. "
                    "Quantize what the layer makes, or leave its weights in float"
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
        codes = self._file.add(self._file.tensors[index], grid, weight.codes.reshape(-1)[order])
        self._file.tensors[codes].name = weight.name.encode()
        self._file.tensors[index].buffer = 0
        self._codes.integers[index] = codes, grid

    def _quantize(self, operator: Operator) -> None:
        """A holder."""
        source, target = int(operator.inputs[0]), int(operator.outputs[0])
        name, grid = self._codes.activation(target)
        codes, present = self._codes.integers.get(source, (None, None))
        if codes is None or present != grid or codes in self._named:
            codes = self._codes.requantized(source, grid)
        self._named.add(codes)
        self._file.tensors[codes].name = name.encode()
        self._codes.integers[target] = codes, grid

    def _in_integers(self, operator: Operator, code: Code | None) -> bool:
        """Append an operator in integers, if it can be."""
        if code in PRESERVING:
            return self._preserve(operator, code)
        if code not in (*PRODUCTS, *ARITHMETIC, Code.CONCATENATION):
            return False
        output = int(operator.outputs[0])
        grid = self._codes.grid_after(output)
        if code is Code.CONCATENATION:
            inputs = self._concatenated(operator, grid)
            if grid is None and inputs is not None:
                grid = self._codes.integers[int(operator.inputs[0])][1]
        elif code in PRODUCTS:
            inputs = self._product(operator, PRODUCTS[code])
        else:
            inputs = self._operands(operator, ARITHMETIC[code])
            if inputs is not None and grid is not None and not self._is_accurate(operator, code, grid):
                inputs = None
        if inputs is None or grid is None:
            return False
        operator.inputs = inputs
        code = self._without_idle_clipping(operator, code, grid)
        self._codes.integers[output] = self._codes.append(operator, output, grid, code), grid
        return True

    def _without_idle_clipping(self, operator: Operator, code: Code | None, grid: Grid) -> Code | None:
        """The operator without an upper end that lies above its grid, where codes saturate before.

        Kernels count that end in steps of the grid as an int32, and refuse a file in which it overflows.
        """
        highest = (grid.high - grid.zero_point) * grid.scale[0]
        if highest > _RELU6_END:
            return code
        if code is Code.RELU6:
            return Code.RELU
        if getattr(operator.builtinOptions, "fusedActivationFunction", 0) == _FUSED_RELU6:
            operator.builtinOptions.fusedActivationFunction = _FUSED_RELU
        return code

    def _preserve(self, operator: Operator, code: Code) -> bool:
        position = PRESERVING[code]
        codes, grid = self._codes.integers.get(int(operator.inputs[position]), (None, None))
        if codes is None or grid is None or not grid.is_per_tensor:
            return False
        operator.inputs[position] = codes
        if code is not Code.SHAPE:
            for place, output in enumerate(operator.outputs):
                operator.outputs[place] = self._file.add(self._file.tensors[output], grid)
                self._codes.integers[int(output)] = int(operator.outputs[place]), grid
        self._file.emit(operator, code)
        return True

    def _product(self, operator: Operator, places: Product) -> list[int] | None:
        inputs = [int(index) for index in operator.inputs]
        data, weight = self._codes.integers.get(inputs[places.data]), self._codes.integers.get(inputs[places.weight])
        if data is None or weight is None or self._codes.grid_after(int(operator.outputs[0])) is None:
            return None
        # A product of two activations has no bias in steps of its own, and its weight has a zero point.
        is_constant = self._file.data(self._file.tensors[weight[0]]) is not None
        if (
            not is_constant
            or not data[1].is_per_tensor
            or not (weight[1].is_per_tensor or weight[1].axis == places.axis)
        ):
            return None
        inputs[places.data], inputs[places.weight] = data[0], weight[0]
        if len(inputs) > places.bias and inputs[places.bias] >= 0:
            bias = self._file.tensors[inputs[places.bias]]
            values = self._file.data(bias)
            if values is None or bias.type != TensorType.FLOAT32:
                return None
            index = self._bias(bias, values.view(np.float32), data[1], weight[1])
            if index is None:
                self.float_layers.append(self._file.tensors[weight[0]].name.decode())
                return None
            inputs[places.bias] = index
        return inputs

    def _bias(self, like: Any, values: Array, data: Grid, weight: Grid) -> int | None:
        """The tensor of a bias in steps of the accumulator; None where it does not fit in 32 bits."""
        # In float32, as the runtime computes the scale of the accumulator.
        scale = np.float32(data.scale[0]) * np.array(weight.scale, np.float32)
        if not fits_accumulator(values, scale):
            return None
        codes = np.round(values.astype(np.float64) / scale.astype(np.float64))
        index = self._file.add(like, Grid(tuple(scale.tolist())), codes.astype(np.int32))
        self._file.tensors[index].type = TensorType.INT32
        return index

    def _operands(self, operator: Operator, count: int) -> list[int] | None:
        inputs = [int(index) for index in operator.inputs]
        operands = [self._codes.integers.get(index) for index in inputs[:count]]
        if any(operand is None or not operand[1].is_per_tensor for operand in operands):
            return None
        return [*(operand[0] for operand in operands if operand is not None), *inputs[count:]]

    def _is_accurate(self, operator: Operator, code: Code | None, grid: Grid) -> bool:
        """Whether the integer kernel gives the codes of the model but for values next to a tie."""
        present = [self._codes.integers[index][1] for index in operator.inputs if index in self._codes.integers]
        ratio = present[0].scale[0] / grid.scale[0]
        if code is Code.AVERAGE_POOL_2D:
            # The kernel keeps the scale.
            return present[0] == grid
        if code in (Code.RELU, Code.RELU6):
            return ratio >= SINGLE_ROUNDING
        if code is Code.MUL:
            return ratio * present[-1].scale[0] < LARGEST_MULTIPLIER
        if code is Code.MEAN:
            sizes = [math.prod(self._file.tensors[i].shape) for i in (operator.inputs[0], operator.outputs[0])]
            return bool(ratio * sizes[1] / sizes[0] < LARGEST_MULTIPLIER)
        return True

    def _concatenated(self, operator: Operator, grid: Grid | None) -> list[int] | None:
        inputs = [int(index) for index in operator.inputs]
        if any(self._file.tensors[index].type != TensorType.FLOAT32 for index in inputs):
            return None
        if operator.builtinOptions.fusedActivationFunction:
            return None
        if grid is not None:
            return [self._codes.on_grid(index, grid) for index in inputs]
        grids = {self._codes.integers[index][1] if index in self._codes.integers else None for index in inputs}
        if len(grids) > 1 or not all(item is not None and item.is_per_tensor for item in grids):
            return None
        return [self._codes.integers[index][0] for index in inputs]


def _axis_of(scale: Array) -> int | None:
    """The axis along which a scale varies; 0 where it does not, None where it varies along several."""
    varies = [axis for axis in range(scale.ndim) if (scale != scale.take([0], axis)).any()] if scale.size else []
    if len(varies) > 1:
        return None
    return varies[0] if varies else 0

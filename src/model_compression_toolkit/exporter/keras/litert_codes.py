# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The codes that stand for the float tensors of a LiteRT file, and the ways from one to the other."""

import numpy as np

from model_compression_toolkit.exporter.keras.litert_flatbuffer import Flatbuffer
from model_compression_toolkit.exporter.keras.litert_numbers import Numbers
from model_compression_toolkit.exporter.keras.litert_schema import (
    INT8_MAX,
    PRESERVING,
    SINGLE_ROUNDING,
    Code,
    Grid,
    Operator,
)

__all__ = ["TensorCodes"]


class TensorCodes:
    """Knows which tensors have codes, and appends the operators that make others.

    Args:
        file: the file, to which operators are appended.
        numbers: what the numbers in it stand for.

    Attributes:
        integers: for a float tensor the tensor of its codes, and their grid.
    """

    def __init__(self, file: Flatbuffer, numbers: Numbers) -> None:
        self._file = file
        self._numbers = numbers
        self.integers: dict[int, tuple[int, Grid]] = {}
        self._dequantized: set[int] = set()

    def on_grid(self, index: int, grid: Grid) -> int:
        """The tensor of codes of a tensor on `grid`, made where there is none."""
        codes, present = self.integers.get(index, (None, None))
        return codes if codes is not None and present == grid else self.requantized(index, grid)

    def requantized(self, index: int, grid: Grid) -> int:
        """A new tensor of codes of a tensor, on `grid`, from its codes on another grid or from its floats."""
        codes, present = self.integers.get(index, (None, None))
        operator = self._file.schema.OperatorT()
        if codes is None or present is None or not present.is_per_tensor:
            operator.inputs = [self.as_float(index)]
            return self.append(operator, index, grid, Code.QUANTIZE)
        operator.inputs = [codes]
        if present.scale[0] / grid.scale[0] >= SINGLE_ROUNDING:
            # Version 2 goes from integers to integers.
            return self.append(operator, index, grid, Code.QUANTIZE, version=2)
        # Its kernel would round twice; that of an addition has 20 bits more. 0.0 is added.
        operator.inputs.append(
            self._file.add(self._file.tensors[index], present, np.array([present.zero_point], np.int8))
        )
        operator.builtinOptions = self._file.schema.AddOptionsT()
        operator.builtinOptionsType = self._file.schema.BuiltinOptions.AddOptions
        return self.append(operator, index, grid, Code.ADD)

    def append(self, operator: Operator, output: int, grid: Grid, code: Code | None = None, version: int = 1) -> int:
        """Append an operator whose result lies on a grid.

        Args:
            operator: with its inputs.
            output: the tensor of which the result is the codes.
            grid: of the result.
            code: which operator it is to be; the one that it is by default.
            version: of its kernel, at the least.

        Returns:
            The tensor of the result.
        """
        result = self._file.add(self._file.tensors[output], grid)
        operator.outputs = [result]
        self._file.emit(operator, self._file.code(operator) if code is None else code, version)
        if grid.high == INT8_MAX:
            return result
        # A grid of fewer codes: the kernel saturates at those of int8.
        highest = self._file.add(self._file.tensors[output], grid, np.array([grid.high], np.int8))
        limit = self._file.schema.OperatorT()
        limit.inputs, limit.outputs = [result, highest], [self._file.add(self._file.tensors[output], grid)]
        self._file.emit(limit, Code.MINIMUM)
        return int(limit.outputs[0])

    def as_float(self, index: int) -> int:
        """The tensor itself, made of its codes where it was left to them."""
        if index in self.integers and index not in self._dequantized:
            self._dequantized.add(index)
            operator = self._file.schema.OperatorT()
            operator.inputs, operator.outputs = [self.integers[index][0]], [index]
            self._file.emit(operator, Code.DEQUANTIZE)
        return index

    def grid_after(self, index: int) -> Grid | None:
        """The grid to which a tensor is rounded before anything else is done with it."""
        if index in self._file.graph.outputs:
            return None
        users = [user for user in self._file.users.get(index, []) if self._file.code(user) is not Code.SHAPE]
        if len(users) != 1:
            return None
        code = self._file.code(users[0])
        if code is Code.QUANTIZE:
            return self.activation(int(users[0].outputs[0]))[1]
        if code in PRESERVING and len(users[0].outputs) == 1 and users[0].inputs[PRESERVING[code]] == index:
            return self.grid_after(int(users[0].outputs[0]))
        return None

    def activation(self, index: int) -> tuple[str, Grid]:
        """Name and grid of the holder that makes a tensor.

        Raises:
            ValueError: no holder makes it.
        """
        name, grid = self._numbers.activations[self._number(index) - 1]
        if grid is None:
            raise ValueError(f"Expected the tensor of a holder. Received: tensor {index}, which is a barrier")
        return name, grid

    def is_barrier(self, index: int) -> bool:
        """Whether a tensor stands only for what the converter must not merge."""
        return self._numbers.is_barrier(self._number(index))

    def _number(self, index: int) -> int:
        return round(float(self._file.tensors[index].quantization.scale[0]))

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The format of LiteRT files as far as models of int8 need it: operators, types of tensors, grids of codes."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

__all__ = [
    "ARITHMETIC",
    "INT8_MAX",
    "INT8_MIN",
    "LARGEST_MULTIPLIER",
    "PRESERVING",
    "PRODUCTS",
    "SINGLE_ROUNDING",
    "VERSIONS",
    "Code",
    "Grid",
    "Operator",
    "Product",
    "TensorType",
    "code_of",
]

Operator = Any
"""A `tflite.OperatorT`."""

INT8_MIN, INT8_MAX = -128, 127
LARGEST_MULTIPLIER = 2.0**-4
"""Kernels multiply by `m · 2**-k`, 1/2 <= m < 1: they round after `m` and again after `2**-k`, which is off by up to
`2**-(k + 1)` steps. From this multiplier on an operation without a weight is computed in float."""
SINGLE_ROUNDING = 0.5
"""Multiplier from which on they round once."""


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
ARITHMETIC = {
    Code.ADD: 2, Code.SUB: 2, Code.MUL: 2, Code.RELU: 1, Code.RELU6: 1, Code.MEAN: 1,
    Code.AVERAGE_POOL_2D: 1,
}  # fmt: skip
"""Number of the first inputs that are data, of operators whose integer kernels go from grid to grid."""
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
"""Position of the data of operators that move or select values: rounding before them or after them is the same."""
VERSIONS = {
    Code.ADD: 2, Code.SUB: 2, Code.MUL: 2, Code.AVERAGE_POOL_2D: 2, Code.CONCATENATION: 2, Code.CONV_2D: 3,
    Code.DEPTHWISE_CONV_2D: 3, Code.DEPTH_TO_SPACE: 1, Code.DEQUANTIZE: 2, Code.FULLY_CONNECTED: 4,
    Code.MAX_POOL_2D: 2, Code.RELU: 2, Code.RELU6: 2, Code.SPACE_TO_DEPTH: 2, Code.PAD: 2, Code.GATHER: 2,
    Code.BATCH_TO_SPACE_ND: 2, Code.SPACE_TO_BATCH_ND: 2, Code.TRANSPOSE: 2, Code.MEAN: 2, Code.SQUEEZE: 2,
    Code.STRIDED_SLICE: 2, Code.SPLIT: 2, Code.MINIMUM: 2, Code.SLICE: 2, Code.TRANSPOSE_CONV: 2, Code.TILE: 2,
    Code.UNPACK: 2, Code.RESIZE_NEAREST_NEIGHBOR: 2, Code.REVERSE_V2: 1,
}  # fmt: skip
"""First version of each operator with int8."""


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


def code_of(model: Any, operator: Operator) -> Code | None:
    """Which operator it is; None for one that only runs in float.

    Args:
        model: a `tflite.ModelT`.
        operator: one of its operators.
    """
    code = model.operatorCodes[operator.opcodeIndex]
    value = max(code.builtinCode, code.deprecatedBuiltinCode)
    return Code(value) if value in iter(Code) else None

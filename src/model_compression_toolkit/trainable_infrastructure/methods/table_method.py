# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the methods share that freeze to a lookup table."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.constants import EPS, MAX_NUM_BITS
from mct_quantizers.common.lookup_table import FineGrid, LookupTable
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams, integer_range
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    Learned,
    Method,
    learned_scale,
)

TABLE_GRIDS = frozenset({QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC})
"""The grids whose calibrated threshold a table takes over."""
LARGEST_TABLE_BITS = 8
"""Tables of more levels than 2**8 are no use: a uniform grid is as good."""
_COMPARED_LEVELS = 32


class TableMethod(Method):
    """A method whose levels are integers of `level_bits` bits, in steps of `threshold / 2**(level_bits - signed)`.

    Each element goes to the nearest level. Its gradient is that of the straight-through estimator, zero outside of the
    range of the levels; the levels get the gradients of their elements; the threshold is learned as `scale`, with
    threshold = scale · 2**(num_bits - signed), with the gradient of LSQ. For activations the threshold is rounded to a
    power of two, because the one table quantizer of activations has such.

    A subclass defines `levels`.
    """

    level_bits = MAX_NUM_BITS

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`.

        Raises:
            ValueError: more than 8 bits.
        """
        del x_shape
        if params.num_bits > LARGEST_TABLE_BITS:
            raise ValueError(
                f"{self.name} trains tables of at most {LARGEST_TABLE_BITS} bits. Received: {params.num_bits} bits"
            )
        return {"scale": learned_scale(params.scale)}

    @abstractmethod
    def levels(self, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """The levels in rising order, whole numbers of `level_bits` bits, shape (K,), differentiable."""

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        grid = self.fine_grid(params)
        threshold = self.threshold(learned["scale"], params, ops)
        levels = self.levels(learned, params, ops) / grid.level_scale
        constant = ops.stop_gradient(threshold)
        # As the frozen table: its threshold is so much wider.
        ratio = ops.divide(ops.stop_gradient(x), constant + grid.eps)
        level = assigned(ratio, levels, ops)
        ends = ops.stop_gradient(levels)
        inside = (ratio >= ends[:1]) & (ratio <= ends[-1:])
        # NaN has no level.
        number = ops.absolute(ratio) <= math.inf
        value = ops.where(number, ops.stop_gradient(level) * constant, ops.stop_gradient(x))
        within = ops.where(inside, x, 0.0)
        slope = ops.stop_gradient(level) - ops.where(inside, ratio, 0.0)
        factor = self.gradient_factor(x, learned["scale"], params, ops)
        to_threshold = slope * arithmetic.scale_gradient(threshold, factor, ops)
        surrogate = ops.where(number, within + level * constant + to_threshold, 0.0)
        return arithmetic.with_gradient_of(value, surrogate, ops)

    def evaluate(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.evaluate`; as `quantize`, but for numbers on the edge between two levels, to the last bit."""
        grid = self.fine_grid(params)
        threshold = self.threshold(learned["scale"], params, ops)
        levels = self.levels(learned, params, ops)
        u = arithmetic.grid_position(x, threshold, grid, ops)
        level = ops.take(ops.divide(levels, grid.level_scale), nearest(u, levels, ops))
        return ops.where(ops.absolute(u) <= math.inf, level * threshold, x)

    def freeze(self, learned: Mapping[str, npt.NDArray[Any]], params: QuantParams) -> LookupTable:
        """See `Method.freeze`."""
        state = {name: np.asarray(value, np.float32) for name, value in learned.items()}
        return LookupTable(
            lut_values=self.levels(state, params, numpy_ops),
            threshold=self.threshold(state["scale"], params, numpy_ops),
            num_bits=params.num_bits,
            signed=params.signed,
            lut_values_bitwidth=self.level_bits,
            eps=EPS,
            axis=params.axis,
        )

    def effective_scale(self, scale: Tensor, ops: Ops) -> Tensor:
        """See `Method.effective_scale`."""
        positive = super().effective_scale(scale, ops)
        if self.is_weight or self.quantization_method is QuantizationMethod.POWER_OF_TWO:
            return positive
        return arithmetic.with_gradient_of(arithmetic.power_of_two(positive, ops), positive, ops)

    def threshold(self, scale: Tensor, params: QuantParams, ops: Ops) -> Tensor:
        """The threshold that a learned scale stands for."""
        return self.effective_scale(scale, ops) * 2.0 ** (params.num_bits - params.signed)

    def fine_grid(self, params: QuantParams) -> FineGrid:
        """The grid of integers to which the levels belong."""
        low, high = integer_range(self.level_bits, params.signed)
        return FineGrid(params.axis, EPS, 2.0 ** (self.level_bits - params.signed), low, high)

    def whole(self, levels: Tensor, params: QuantParams, ops: Ops) -> Tensor:
        """Levels in units of the threshold as sorted whole numbers of the fine grid; straight-through gradient."""
        grid = self.fine_grid(params)
        scaled = levels * grid.level_scale
        return ops.sort(arithmetic.with_gradient_of(ops.clip(ops.round(scaled), grid.low, grid.high), scaled, ops))


def assigned(u: Tensor, levels: Tensor, ops: Ops) -> Tensor:
    """The level nearest to each element, with the gradients that the levels get from their elements.

    Few levels are compared with, one after the other: faster than a search, whose result must be looked up.
    """
    constant = ops.stop_gradient(levels)
    count = ops.shape(levels)[0]
    if count > _COMPARED_LEVELS:
        return ops.take(levels, nearest(u, constant, ops))
    result = levels[:1]
    for upper in range(1, count):
        lower = upper - 1
        is_above = u > 0.5 * (constant[lower:upper] + constant[upper : upper + 1])
        result = result + ops.where(is_above, levels[upper : upper + 1] - levels[lower:upper], 0.0)
    return result


def nearest(u: Tensor, levels: Tensor, ops: Ops) -> Tensor:
    """Index of the level that is nearest to each element, the lower of two that are equally near.

    The distances are compared as `LookupTable` compares them, so that both choose alike down to the last bit.
    """
    last = ops.shape(levels)[0] - 2
    lower = ops.clip(ops.search_sorted(levels, u) - 1, 0, last)
    to_lower = ops.absolute(u - ops.take(levels, lower))
    to_upper = ops.absolute(u - ops.take(levels, lower + 1))
    return ops.where(to_upper < to_lower, lower + 1, lower)

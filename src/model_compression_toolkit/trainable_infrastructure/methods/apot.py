# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""APoT: additive powers of two."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.common.validation import FloatArray
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned, learned_scale
from model_compression_toolkit.trainable_infrastructure.methods.table_method import TABLE_GRIDS, TableMethod

_BITS_OF_TERM = 2


class APoT(TableMethod, name="APOT", supports=TABLE_GRIDS):
    """Additive Powers-of-Two quantization (Li, Dong and Wang, ICLR 2020, arXiv:1909.13144).

    A level is a sum of powers of two, one from each of several sets (equation 4, two bits for each set), so that a
    product with it is a few shifts; levels are dense near zero. The clipping threshold is learned with the gradient of
    the reparameterized clipping function (equation 8). Differs: it starts with the calibrated range; weights are not
    normalized; an odd number of bits has one set of a single power.
    """

    _levels: FloatArray

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`.

        Raises:
            ValueError: one bit, which is taken by the sign, or more than 8.
        """
        state = super().parameters(params, x_shape)
        if params.num_bits - params.signed < 1:
            raise ValueError(f"{self.name} trains tables of at least 2 bits with sign. Received: 1 bit")
        grid = self.fine_grid(params)
        self._levels = additive_levels(params.num_bits, params.signed, grid.high)
        # The threshold at which the largest level is the largest value of the calibrated grid.
        threshold = params.quant_max * params.scale / (self._levels[-1] / grid.level_scale)
        scale = threshold / 2.0 ** (params.num_bits - params.signed)
        return {**state, "scale": learned_scale(scale)}

    def levels(self, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `TableMethod.levels`."""
        del params
        return ops.constant(self._levels, learned["scale"])


def additive_levels(num_bits: int, signed: bool, largest: int) -> FloatArray:
    """The levels as whole numbers in rising order, at most `largest`.

    Args:
        num_bits: width of the code; signed codes have one bit for the sign.
        signed: whether the levels are mirrored.
        largest: bound of the levels; their common factor is the largest power of two that keeps to it.
    """
    bits = num_bits - signed
    sets = [_BITS_OF_TERM] * (bits // _BITS_OF_TERM) + [1] * (bits % _BITS_OF_TERM)
    # Set i has the powers 2**-i, 2**-(i + n), …, of n sets, and zero.
    terms = [
        [0.0, *(2.0 ** -(index + power * len(sets)) for power in range(2**width - 1))]
        for index, width in enumerate(sets)
    ]
    positive = np.unique([sum(combination) for combination in product(*terms)])
    levels = np.concatenate([-positive[:0:-1], positive]) if signed else positive
    factor = 2.0 ** np.floor(np.log2(largest / positive[-1]))
    whole: FloatArray = levels * factor
    if (whole != np.round(whole)).any():
        raise ValueError(f"{num_bits} bits need finer levels than {largest} has.")
    return whole

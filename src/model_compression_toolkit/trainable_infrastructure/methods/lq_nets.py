# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""LQ-Nets: a learned basis of the levels."""

from collections.abc import Mapping, Sequence

import numpy as np

from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned
from model_compression_toolkit.trainable_infrastructure.methods.table_method import TABLE_GRIDS, TableMethod


class LQNets(TableMethod, name="LQ_NETS", supports=TABLE_GRIDS):
    """LQ-Nets (Zhang et al., ECCV 2018, arXiv:1807.10029): a level is the sum of the numbers that its bits choose.

    Few learned numbers, `basis` of shape (num_bits,), make 2**num_bits levels that are not uniform and can still be
    computed with bit operations (equation 4). Differs: bits are 0 and 1 with a negative number for the sign bit, as in
    two's complement, not -1 and 1, so that zero is a level and the start is the calibrated grid; the basis is learned
    by gradient, not by alternating least squares (algorithm 1); a threshold, learned as in LSQ, scales the levels.
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        basis = 2.0 ** (np.arange(params.num_bits) - params.num_bits + params.signed)
        if params.signed:
            basis[-1] = -basis[-1]
        state = super().parameters(params, x_shape)
        return {**state, "basis": Learned(basis.astype(np.float32), per_scale=False)}

    def levels(self, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `TableMethod.levels`."""
        basis, codes = learned["basis"], np.arange(2**params.num_bits)
        levels = 0.0
        for bit in range(params.num_bits):
            levels = levels + ops.constant((codes >> bit & 1).astype(np.float32), basis) * basis[bit : bit + 1]
        return self.whole(levels, params, ops)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""LUT: a learned codebook."""

from collections.abc import Mapping, Sequence

import numpy as np

from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned
from model_compression_toolkit.trainable_infrastructure.methods.table_method import TABLE_GRIDS, TableMethod


class LUT(TableMethod, name="LUT", supports=TABLE_GRIDS):
    """A codebook whose levels are learned: the gradient of a level is the sum over the elements that it stands for.

    That is the training of a codebook after Han, Mao and Dally (ICLR 2016, arXiv:1510.00149, section 3, figure 3), with
    one codebook for the tensor. Differs: elements are assigned anew at every step; the levels start from the calibrated
    grid, not from k-means; the level zero stays; a threshold for each channel, learned as in LSQ, scales the codebook.
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        levels = np.arange(params.quant_min, params.quant_max + 1) / 2.0 ** (params.num_bits - params.signed)
        state = super().parameters(params, x_shape)
        return {**state, "levels": Learned(levels.astype(np.float32), per_scale=False)}

    def levels(self, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `TableMethod.levels`."""
        levels = learned["levels"]
        is_free = (np.arange(params.quant_min, params.quant_max + 1) != 0).astype(np.float32)
        return self.whole(levels * ops.constant(is_free, levels), params, ops)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""STE: the straight-through estimator."""

from collections.abc import Mapping, Sequence

from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import GRIDS, Learned, Method


class STE(Method, name="STE", supports=GRIDS):
    """Straight-through estimator (Bengio et al. 2013, arXiv:1308.3432): rounding has gradient 1.

    Weights: learns nothing itself; the grid stays as calibrated and the tensor adapts to it. Activations: learns
    `scale`, with the gradient that the estimator gives, unless it is frozen. Differs from the plain estimator in that
    the gradient to the tensor is zero outside the range (Jacob et al. 2018, arXiv:1712.05877, section 3).
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        return self.grid(params, trainable=not self.is_weight)

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        return self.rounded(x, learned, params, ops)

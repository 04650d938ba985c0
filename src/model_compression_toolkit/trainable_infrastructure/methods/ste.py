# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""STE: the straight-through estimator on the calibrated grid."""

from collections.abc import Mapping, Sequence

from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned, Method


class STE(
    Method,
    name="STE",
    supports={QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM},
):
    """Straight-through estimator (Bengio et al. 2013, arXiv:1308.3432): rounding has gradient 1, clipping has none.

    Learns nothing itself: the grid stays as calibrated and the tensor adapts to it. Differs from the plain estimator in
    that the gradient is zero outside the range (Jacob et al. 2018, arXiv:1712.05877, section 3).
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        return self.grid(params, trainable=False)

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        scale = self.effective_scale(learned["scale"], ops)
        return ops.fake_quantize_learned(
            x, scale, learned.get("zero_point"), params.quant_min, params.quant_max, gradient_factor=1.0
        )

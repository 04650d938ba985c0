# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""DoReFa: weights squeezed by a hyperbolic tangent."""

from collections.abc import Mapping, Sequence

import numpy as np

from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import GRIDS, Learned, Method

_TINY = float(np.finfo(np.float32).tiny)


class DoReFa(Method, name="DOREFA", supports=GRIDS):
    """DoReFa-Net (Zhou et al. 2016, arXiv:1606.06160).

    Weights: `tanh(w) / max|tanh(w)|` (equation 9), which has no outliers, stretched to the calibrated range, is rounded
    to the nearest level. Activations: clipped to a fixed range and rounded (section 2.5). Differs: the levels are those
    of the calibrated grid, which has an exact zero, not the odd multiples of 1/(2**bits - 1); the range is the
    calibrated one, not [-1, 1] or [0, 1]; the maximum counts as a constant for differentiation; gradients are not
    quantized.
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        return self.grid(params, trainable=False)

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        values = self.frozen_weight(x, learned, params, ops) if self.is_weight else x
        return self.rounded(values, learned, params, ops)

    def frozen_weight(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.frozen_weight`."""
        scale, zero_point = self.effective_scale(learned["scale"], ops), learned.get("zero_point", 0.0)
        below, above = zero_point - params.quant_min, params.quant_max - zero_point
        steps = max(below, above) if isinstance(zero_point, float) else ops.where(below > above, below, above)
        squeezed = ops.tanh(x)
        largest = ops.largest(ops.absolute(ops.stop_gradient(squeezed)), params.axis)
        return squeezed * ops.divide(steps * scale, ops.maximum(largest, _TINY))

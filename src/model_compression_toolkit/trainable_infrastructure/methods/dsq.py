# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""DSQ: differentiable soft quantization."""

from collections.abc import Mapping, Sequence

import numpy as np

from mct_quantizers.common import arithmetic
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import GRIDS, Learned, Method

_INITIAL_ALPHA, _SMALLEST_ALPHA, _LARGEST_ALPHA = 0.2, 0.01, 0.49


class DSQ(Method, name="DSQ", supports=GRIDS):
    """Differentiable Soft Quantization (Gong et al., ICCV 2019, arXiv:1908.05033).

    The output is that of rounding; the gradient is that of a soft staircase, in each cell a hyperbolic tangent
    (equations 3 to 6) whose distance `alpha` from the hard one is learned (section 3.2), kept from 0.01 to 0.49.
    `scale` is learned too, which moves both ends of the range (section 3.3 learns each end); its gradient is multiplied
    by 1/sqrt(N · quant_max), that of `alpha` too.
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        alpha = np.full(params.scale.shape, _INITIAL_ALPHA, np.float32)
        return {**self.grid(params, trainable=True), "alpha": Learned(alpha)}

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        hard = ops.stop_gradient(self.rounded(x, learned, params, ops))
        factor = self.gradient_factor(x, learned["scale"], params, ops)
        scale = arithmetic.scale_gradient(self.effective_scale(learned["scale"], ops), factor, ops)
        alpha = arithmetic.scale_gradient(self.effective_alpha(learned["alpha"], ops), factor, ops)
        zero_point = learned.get("zero_point")
        position = arithmetic.position(x, scale, zero_point, ops)
        end = ops.clip(position, params.quant_min, params.quant_max)
        inside = position == end
        steps = end if zero_point is None else end - zero_point
        # Clipped elements are left out before anything is computed of them: infinity has no cell.
        ratio = self.quotient(ops.where(inside, x, 0.0), scale, ops)
        soft = ops.where(inside, self.staircase(ratio, alpha, ops), steps)
        return arithmetic.with_gradient_of(hard, soft * scale, ops)

    @staticmethod
    def quotient(x: Tensor, scale: Tensor, ops: Ops) -> Tensor:
        """`x / scale` with its gradients, without the square of the scale, which may be below all float32 numbers."""
        constant = ops.stop_gradient(scale)
        ratio = ops.divide(x, constant)
        return ratio - ops.stop_gradient(ratio) * (ops.divide(scale, constant) - 1.0)

    @staticmethod
    def effective_alpha(alpha: Tensor, ops: Ops) -> Tensor:
        """`alpha` inside of its bounds, with a straight-through gradient."""
        return arithmetic.with_gradient_of(ops.clip(alpha, _SMALLEST_ALPHA, _LARGEST_ALPHA), alpha, ops)

    @staticmethod
    def staircase(ratio: Tensor, alpha: Tensor, ops: Ops) -> Tensor:
        """Equations 3 to 6 with steps of 1: from `floor(ratio)` to the next integer along a hyperbolic tangent."""
        middle = ops.stop_gradient(ops.floor(ratio)) + 0.5
        steepness = ops.log(ops.divide(2.0 + 0.0 * alpha, alpha) - 1.0)
        return middle + ops.divide(ops.tanh(steepness * (ratio - middle)), 2.0 * (1.0 - alpha))

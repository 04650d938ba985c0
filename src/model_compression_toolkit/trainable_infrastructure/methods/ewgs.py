# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""EWGS: element-wise gradient scaling."""

from collections.abc import Mapping, Sequence
from typing import Any

from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    GRIDS,
    Learned,
    Method,
    checked_number,
)


class EWGS(Method, name="EWGS", supports=GRIDS):
    """Element-wise Gradient Scaling (Lee, Kim and Ham, CVPR 2021, arXiv:2104.00903).

    The gradient g to an element becomes `g · (1 + δ · sign(g) · e)` (equation 4), where e is how far the element lies
    above its level: elements that a step pushes towards their level's edge move faster. `scale` is learned as in LSQ.
    Differs: e is measured in steps of the grid, -0.5 to 0.5; δ is constant, not updated from the Hessian's trace.

    Args:
        factor: δ.
    """

    def __init__(self, *args: Any, factor: float = 0.2) -> None:
        super().__init__(*args)
        self.factor = checked_number("factor", factor, low=0.0)

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        return self.grid(params, trainable=True)

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        scale = ops.stop_gradient(self.effective_scale(learned["scale"], ops))
        ratio = ops.divide(ops.stop_gradient(x), scale)
        # Where it is clipped there is no gradient to scale; infinity minus infinity would be NaN.
        error = ops.where(ops.absolute(ratio) < float(2**16), ratio - ops.round(ratio), 0.0)
        scaled = ops.scale_gradient_by_error(x, error, self.factor)
        return self.rounded(scaled, learned, params, ops, self.gradient_factor(x, learned["scale"], params, ops))

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""PACT: parameterized clipping."""

from collections.abc import Mapping, Sequence
from typing import Any

from mct_quantizers.common import arithmetic
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    GRIDS,
    Learned,
    Method,
    checked_number,
)


class PACT(Method, name="PACT", supports=GRIDS):
    """PACT: Parameterized Clipping Activation (Choi et al. 2018, arXiv:1805.06085).

    Learns the clipping value, here as `scale`: it gets a gradient from clipped elements only (equation 3, with
    α = scale · quant_max), and an L2 penalty keeps it small (section 3.2). Differs: signed and uniform grids are
    clipped at both ends; weights may be trained so too.

    Args:
        decay: factor of the penalty, decay · Σ α².
    """

    def __init__(self, *args: Any, decay: float = 1e-4) -> None:
        super().__init__(*args)
        self.decay = checked_number("decay", decay, low=0.0)

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        return self.grid(params, trainable=True)

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        scale, zero_point = self.effective_scale(learned["scale"], ops), learned.get("zero_point")
        constant = ops.stop_gradient(scale)
        result = ops.fake_quantize_learned(x, constant, zero_point, params.quant_min, params.quant_max, 1.0)
        position = arithmetic.position(x, scale, zero_point, ops)
        end = ops.clip(position, params.quant_min, params.quant_max)
        steps = end if zero_point is None else end - zero_point
        to_scale = ops.where(position == end, 0.0, steps) * scale
        return arithmetic.add_gradient_of(result, to_scale, ops)

    def regularization(
        self, x: Tensor | None, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops
    ) -> Tensor | None:
        """See `Method.regularization`."""
        del x
        clipping = self.effective_scale(learned["scale"], ops) * float(params.quant_max)
        return self.decay * ops.total(clipping * clipping)

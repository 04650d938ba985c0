# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Soft rounding: whether a weight is rounded up or down is learned."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mct_quantizers.common import arithmetic
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    GRIDS,
    STEP,
    Learned,
    Method,
    checked_count,
    checked_number,
)

_STRETCH_LOW, _STRETCH_HIGH = -0.1, 1.1
_TINY = float(np.finfo(np.float32).tiny)
_LARGEST_RATIO = 2.0**24


class SoftRounding(Method, name="SOFT_ROUNDING", supports=GRIDS, targets={QuantizationTarget.Weights}):
    """AdaRound (Nagel et al., ICML 2020, arXiv:2004.10568), in the training loop.

    A weight becomes `scale · clip(floor(w / scale) + h)` (equation 22), where h, from 0 to 1, is the rectified sigmoid
    (equation 23) of a learned number for each element. The penalty `penalty · Σ (1 - |2h - 1|**β)` (equation 24), with
    β falling from 20 to 2 in `steps` steps after the first fifth of them, drives h to 0 or 1; evaluation and what is
    frozen take the nearer of both. Differs: the learned number counts from the one at which h is the fraction of
    `w / scale`, so that it starts at zero and training starts with the float weight; the weight itself is trained on,
    with a straight-through gradient; the loss is that of the training, not layer by layer.

    Args:
        steps: steps of training until β is 2.
        penalty: factor of the penalty.
    """

    def __init__(self, *args: Any, steps: int = 1000, penalty: float = 0.01) -> None:
        super().__init__(*args)
        self.steps = checked_count("steps", steps)
        self.penalty = checked_number("penalty", penalty, low=0.0)

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`.

        Raises:
            ValueError: the shape of the weight is not given.
        """
        if not x_shape:
            raise ValueError(f"{self.name} needs the shape of the weight. Received: {x_shape!r}")
        return {
            **self.grid(params, trainable=False),
            "rounding": Learned(np.zeros(tuple(x_shape), np.float32), per_scale=False),
            **self.counter(),
        }

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        scale, zero_point = self.effective_scale(learned["scale"], ops), learned.get("zero_point")
        low, share = self._floor_and_share(x, learned, ops)
        position = low + share if zero_point is None else low + share + zero_point
        end = ops.clip(position, params.quant_min, params.quant_max)
        inside = position == end
        steps = end if zero_point is None else end - zero_point
        surrogate = ops.where(inside, x + share * scale, 0.0)
        return arithmetic.with_gradient_of(steps * scale, surrogate, ops)

    def evaluate(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.evaluate`."""
        scale, zero_point = self.effective_scale(learned["scale"], ops), learned.get("zero_point")
        low, share = self._floor_and_share(x, learned, ops)
        position = ops.where(share >= 0.5, low + 1.0, low)
        if zero_point is None:
            return ops.clip(position, params.quant_min, params.quant_max) * scale
        return (ops.clip(position + zero_point, params.quant_min, params.quant_max) - zero_point) * scale

    def frozen_weight(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.frozen_weight`."""
        return self.evaluate(x, learned, params, ops)

    def regularization(
        self, x: Tensor | None, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops
    ) -> Tensor | None:
        """See `Method.regularization`."""
        del params
        _, share = self._floor_and_share(x, learned, ops)
        progress = learned[STEP] / float(self.steps)
        beta = 20.0 - 18.0 * ops.clip((progress - 0.2) / 0.8, 0.0, 1.0)
        distance = ops.maximum(ops.absolute(2.0 * share - 1.0), _TINY)
        penalty = ops.total(1.0 - ops.exp(beta * ops.log(distance)))
        return ops.total(ops.where(progress > 0.2, self.penalty, 0.0)) * penalty

    def _floor_and_share(self, x: Tensor, learned: Mapping[str, Tensor], ops: Ops) -> tuple[Tensor, Tensor]:
        """`floor(x / scale)` and h."""
        scale = self.effective_scale(learned["scale"], ops)
        ratio = ops.stop_gradient(ops.divide(x, scale))
        low = ops.floor(ratio)
        stretch = _STRETCH_HIGH - _STRETCH_LOW
        # Infinity has no fraction, and is clipped anyway.
        fraction = ops.where(ops.absolute(ratio) < _LARGEST_RATIO, ratio - low, 0.0)
        # Where the sigmoid, stretched, is the fraction; half of the logit, because of the hyperbolic tangent.
        sigmoid = (fraction - _STRETCH_LOW) / stretch
        start = 0.5 * ops.log(ops.divide(sigmoid, 1.0 - sigmoid))
        stretched = (0.5 + 0.5 * ops.tanh(start + 0.5 * learned["rounding"])) * stretch + _STRETCH_LOW
        clipped = ops.clip(ops.stop_gradient(stretched), 0.0, 1.0)
        free = ops.where(clipped == stretched, stretched, 0.0)
        return low, arithmetic.with_gradient_of(clipped, free, ops)

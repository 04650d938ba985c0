# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""DQA: attention over bit widths."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mct_quantizers.common.constants import MAX_NUM_BITS
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams, integer_range
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    GRIDS,
    SMALLEST_SCALE,
    STEP,
    Learned,
    Method,
    checked_count,
    checked_number,
)


class DQA(Method, name="DQA", supports=GRIDS):
    """DNN Quantization with Attention (Hacene et al. 2021, arXiv:2103.13322).

    In training the tensor is a mixture, `Σ p_i · q_i`, of its quantizations q_i at n, 2n and 4n bits (at most 16) over
    one range, with `p = softmax(t · a / std(a))`, where the attention `a` is learned, from (4, 2, 1)/7 on. The
    temperature t rises from 0 to `temperature` in `steps` steps, which makes the mixture a choice (as in
    Wu et al. 2018, arXiv:1812.00090, section 4), and a penalty, `penalty · Σ p_i · (bits_i / n - 1)`, makes n bits that
    choice. Evaluation and what is frozen have n bits. The range stays as calibrated.

    The paper's idea: a learned mixture of a low, a medium and a high precision becomes the low one, by attention with
    a temperature schedule. The formulas and the first attention are those of the interface. Differs: the schedule is
    linear, the penalty weighs a share by its excess of bits, and all widths share one grid of this package.

    Args:
        temperature: t at the end.
        steps: steps of training until then.
        penalty: factor of the penalty.
    """

    def __init__(self, *args: Any, temperature: float = 10.0, steps: int = 1000, penalty: float = 0.1) -> None:
        super().__init__(*args)
        self.temperature = checked_number("temperature", temperature, low=0.0)
        self.steps = checked_count("steps", steps)
        self.penalty = checked_number("penalty", penalty, low=0.0)

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        attention = np.array([4.0, 2.0, 1.0])[: len(bit_widths(params))] / 7.0
        return {
            **self.grid(params, trainable=False),
            "attention": Learned(attention.astype(np.float32), per_scale=False),
            **self.counter(),
        }

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        shares = self.shares(learned, ops)
        scale = self.effective_scale(learned["scale"], ops)
        result = None
        for index, num_bits in enumerate(bit_widths(params)):
            # As many steps of a finer grid over the same range.
            zero_point = None
            if self.quantization_method is QuantizationMethod.UNIFORM:
                quant_min, quant_max = integer_range(num_bits, signed=False)
                finer = quant_max / params.quant_max
                zero_point = ops.round(learned["zero_point"] * finer)
            else:
                quant_min, quant_max = integer_range(num_bits, params.signed)
                finer = 2.0 ** (num_bits - params.num_bits)
            # Of the smallest scales there is no finer one.
            finer_scale = ops.maximum(scale * (1.0 / finer), SMALLEST_SCALE)
            part = ops.fake_quantize_learned(x, finer_scale, zero_point, quant_min, quant_max, 1.0)
            part = part * shares[index : index + 1]
            result = part if result is None else result + part
        return result

    def evaluate(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.evaluate`."""
        return self.rounded(x, learned, params, ops)

    def regularization(
        self, x: Tensor | None, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops
    ) -> Tensor | None:
        """See `Method.regularization`."""
        del x
        shares = self.shares(learned, ops)
        excess = np.array([bits / params.num_bits - 1.0 for bits in bit_widths(params)], np.float32)
        return self.penalty * ops.total(shares * ops.constant(excess, shares))

    def shares(self, learned: Mapping[str, Tensor], ops: Ops) -> Tensor:
        """The share of each bit width in the mixture, positive, with sum 1."""
        attention = learned["attention"]
        count = float(ops.shape(attention)[0])
        centered = attention - ops.total(attention) / count
        # The floor keeps equal attentions, whose deviation is zero, from dividing by it.
        variance = ops.maximum(ops.total(centered * centered) / max(count - 1.0, 1.0), 1e-12)
        temperature = self.temperature * ops.clip(learned[STEP] / float(self.steps), 0.0, 1.0)
        logits = temperature * attention * variance**-0.5
        weights = ops.exp(logits - ops.stop_gradient(ops.largest(logits, None)))
        return weights / ops.total(weights)


def bit_widths(params: QuantParams) -> list[int]:
    """n, 2n and 4n bits, those of them that a quantizer can have, each once."""
    return list(dict.fromkeys(min(params.num_bits * factor, MAX_NUM_BITS) for factor in (1, 2, 4)))

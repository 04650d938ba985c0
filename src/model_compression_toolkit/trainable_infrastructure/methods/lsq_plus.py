# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""LSQ+: learned step size and learned offset."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    Learned,
    Method,
    learned_scale,
    power_of_two_unit,
)


class LSQPlus(Method, name="LSQ_PLUS", supports={QuantizationMethod.UNIFORM}):
    """LSQ+ (Bhalgat et al., CVPR workshops 2020, arXiv:2004.09576).

    Learns `scale` as LSQ does, and `offset`, the real value of the code zero (β of equation 5), which gets the gradient
    of equation 7: 1 where the value is clipped, 0 elsewhere; both gradients are multiplied by 1/sqrt(N · quant_max).
    Differs: the offset is rounded to a multiple of `scale` inside of the range, so that zero stays exact and the zero
    point an integer; both start from calibration.
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        return {
            "scale": learned_scale(params.scale),
            "offset": Learned(
                (-params.zero_point * params.scale).astype(np.float32),
                unit=power_of_two_unit(params.scale * params.quant_max),
            ),
        }

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        factor = self.gradient_factor(x, learned["scale"], params, ops)
        scale, offset = self.effective_scale(learned["scale"], ops), learned["offset"]
        zero_point = self._zero_point(scale, offset, params, ops)
        result = ops.fake_quantize_learned(x, scale, zero_point, params.quant_min, params.quant_max, factor)
        position = arithmetic.position(x, scale, zero_point, ops)
        clipped = (position < params.quant_min) | (position > params.quant_max)
        to_offset = ops.where(clipped, arithmetic.scale_gradient(offset, factor, ops), 0.0)
        return arithmetic.add_gradient_of(result, to_offset, ops)

    def freeze(self, learned: Mapping[str, npt.NDArray[Any]], params: QuantParams) -> QuantParams:
        """See `Method.freeze`."""
        scale = self.effective_scale(np.asarray(learned["scale"], np.float32), numpy_ops)
        zero_point = self._zero_point(scale, np.asarray(learned["offset"], np.float32), params, numpy_ops)
        return dataclasses.replace(params, scale=scale, zero_point=zero_point)

    @staticmethod
    def _zero_point(scale: Tensor, offset: Tensor, params: QuantParams, ops: Ops) -> Tensor:
        ratio = ops.divide(ops.stop_gradient(offset), ops.stop_gradient(scale))
        return ops.clip(-ops.round(ratio), params.quant_min, params.quant_max)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""LSQ: learned step size quantization."""

from collections.abc import Mapping, Sequence

from mct_quantizers.common.ops import Ops, Tensor
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.methods.method import GRIDS, Learned, Method


class LSQ(Method, name="LSQ", supports=GRIDS):
    """Learned Step Size Quantization (Esser et al., ICLR 2020, arXiv:1902.08153).

    Learns `scale` with the gradient of equation 3, multiplied by 1/sqrt(N · quant_max), where N elements share the
    scale: of the weight, or of one sample of an activation, the paper's number of features (section 2.2). Axis 0 of an
    activation counts its samples. Differs: an optimizer counts the scale in units of its own size (`Learned.unit`); it
    starts from calibration, not from 2·mean|x|/sqrt(quant_max); on uniform grids the zero point stays as calibrated; on
    power-of-two grids the scale is rounded to a power of two with a straight-through gradient.
    """

    def parameters(self, params: QuantParams, x_shape: Sequence[int] | None) -> dict[str, Learned]:
        """See `Method.parameters`."""
        del x_shape
        return self.grid(params, trainable=True)

    def quantize(self, x: Tensor, learned: Mapping[str, Tensor], params: QuantParams, ops: Ops) -> Tensor:
        """See `Method.quantize`."""
        return self.rounded(x, learned, params, ops, self.gradient_factor(x, learned["scale"], params, ops))

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What all quantizers on an integer grid share."""

from typing import Any

from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.common.quantizers.configurable import ConfigurableQuantizer


class GridQuantizer(ConfigurableQuantizer):
    """A quantizer whose parameters are `QuantParams`.

    Attributes:
        num_bits: width of the integer.
        signed: whether the integers are signed.
        quant_min: smallest integer.
        quant_max: largest integer.
    """

    num_bits: int
    signed: bool
    quant_min: int
    quant_max: int

    def __init__(self, params: QuantParams, **arguments: Any) -> None:
        super().__init__(params, **arguments)
        self.num_bits, self.signed = params.num_bits, params.signed
        self.quant_min, self.quant_max = params.quant_min, params.quant_max

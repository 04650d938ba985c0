# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Weight quantizers of PyTorch. Arguments, errors and formulas: `mct_quantizers.common.quantizers`."""

from mct_quantizers.common.base_inferable_quantizer import mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget, QuantizerID
from mct_quantizers.common.quantizers.lut import WeightsLUTPOT, WeightsLUTSymmetric
from mct_quantizers.common.quantizers.symmetric import WeightsPOT, WeightsSymmetric
from mct_quantizers.common.quantizers.uniform import WeightsUniform
from mct_quantizers.pytorch.quantizers.base import PytorchGridQuantizer, PytorchTableQuantizer


@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.POWER_OF_TWO], QuantizerID.INFERABLE)
class WeightsPOTInferableQuantizer(WeightsPOT, PytorchGridQuantizer):
    """Power-of-two weight quantizer; see `WeightsPOT`."""


@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.SYMMETRIC], QuantizerID.INFERABLE)
class WeightsSymmetricInferableQuantizer(WeightsSymmetric, PytorchGridQuantizer):
    """Symmetric weight quantizer; see `WeightsSymmetric`."""


@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.UNIFORM], QuantizerID.INFERABLE)
class WeightsUniformInferableQuantizer(WeightsUniform, PytorchGridQuantizer):
    """Uniform weight quantizer; see `WeightsUniform`."""


@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.LUT_SYM_QUANTIZER], QuantizerID.INFERABLE)
class WeightsLUTSymmetricInferableQuantizer(WeightsLUTSymmetric, PytorchTableQuantizer):
    """Lookup-table weight quantizer; see `WeightsLUTSymmetric`."""


@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.LUT_POT_QUANTIZER], QuantizerID.INFERABLE)
class WeightsLUTPOTInferableQuantizer(WeightsLUTPOT, PytorchTableQuantizer):
    """Lookup-table weight quantizer with power-of-two thresholds; see `WeightsLUTPOT`."""

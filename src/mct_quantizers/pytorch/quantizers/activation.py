# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Activation quantizers of PyTorch. Arguments, errors and formulas: `mct_quantizers.common.quantizers`."""

from mct_quantizers.common.base_inferable_quantizer import mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget, QuantizerID
from mct_quantizers.common.quantizers.lut import ActivationLutPOT
from mct_quantizers.common.quantizers.symmetric import ActivationPOT, ActivationSymmetric
from mct_quantizers.common.quantizers.uniform import ActivationUniform
from mct_quantizers.pytorch.quantizers.base import PytorchGridQuantizer, PytorchTableQuantizer


@mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.POWER_OF_TWO], QuantizerID.INFERABLE)
class ActivationPOTInferableQuantizer(ActivationPOT, PytorchGridQuantizer):
    """Power-of-two activation quantizer; see `ActivationPOT`."""


@mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.SYMMETRIC], QuantizerID.INFERABLE)
class ActivationSymmetricInferableQuantizer(ActivationSymmetric, PytorchGridQuantizer):
    """Symmetric activation quantizer; see `ActivationSymmetric`."""


@mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.UNIFORM], QuantizerID.INFERABLE)
class ActivationUniformInferableQuantizer(ActivationUniform, PytorchGridQuantizer):
    """Uniform activation quantizer; see `ActivationUniform`."""


@mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.LUT_POT_QUANTIZER], QuantizerID.INFERABLE)
class ActivationLutPOTInferableQuantizer(ActivationLutPOT, PytorchTableQuantizer):
    """Lookup-table activation quantizer with a power-of-two threshold; see `ActivationLutPOT`."""

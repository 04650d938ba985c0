# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Activation quantizers of Keras. Arguments, errors and formulas: `mct_quantizers.common.quantizers`."""

import keras

from mct_quantizers.common.base_inferable_quantizer import mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget, QuantizerID
from mct_quantizers.common.quantizers.lut import ActivationLutPOT
from mct_quantizers.common.quantizers.symmetric import ActivationPOT, ActivationSymmetric
from mct_quantizers.common.quantizers.uniform import ActivationUniform
from mct_quantizers.keras.quantizers.base import PACKAGE, KerasGridQuantizer, KerasTableQuantizer


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.POWER_OF_TWO], QuantizerID.INFERABLE)
class ActivationPOTInferableQuantizer(ActivationPOT, KerasGridQuantizer):
    """Power-of-two activation quantizer; see `ActivationPOT`."""


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.SYMMETRIC], QuantizerID.INFERABLE)
class ActivationSymmetricInferableQuantizer(ActivationSymmetric, KerasGridQuantizer):
    """Symmetric activation quantizer; see `ActivationSymmetric`."""


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.UNIFORM], QuantizerID.INFERABLE)
class ActivationUniformInferableQuantizer(ActivationUniform, KerasGridQuantizer):
    """Uniform activation quantizer; see `ActivationUniform`."""


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Activation, [QuantizationMethod.LUT_POT_QUANTIZER], QuantizerID.INFERABLE)
class ActivationLutPOTInferableQuantizer(ActivationLutPOT, KerasTableQuantizer):
    """Lookup-table activation quantizer with a power-of-two threshold; see `ActivationLutPOT`."""

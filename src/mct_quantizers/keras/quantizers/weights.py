# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Weight quantizers of Keras. Arguments, errors and formulas: `mct_quantizers.common.quantizers`."""

import keras

from mct_quantizers.common.base_inferable_quantizer import mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget, QuantizerID
from mct_quantizers.common.quantizers.lut import WeightsLUTPOT, WeightsLUTSymmetric
from mct_quantizers.common.quantizers.symmetric import WeightsPOT, WeightsSymmetric
from mct_quantizers.common.quantizers.uniform import WeightsUniform
from mct_quantizers.keras.quantizers.base import PACKAGE, KerasGridQuantizer, KerasTableQuantizer


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.POWER_OF_TWO], QuantizerID.INFERABLE)
class WeightsPOTInferableQuantizer(WeightsPOT, KerasGridQuantizer):
    """Power-of-two weight quantizer; see `WeightsPOT`."""


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.SYMMETRIC], QuantizerID.INFERABLE)
class WeightsSymmetricInferableQuantizer(WeightsSymmetric, KerasGridQuantizer):
    """Symmetric weight quantizer; see `WeightsSymmetric`."""


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.UNIFORM], QuantizerID.INFERABLE)
class WeightsUniformInferableQuantizer(WeightsUniform, KerasGridQuantizer):
    """Uniform weight quantizer; see `WeightsUniform`."""


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.LUT_SYM_QUANTIZER], QuantizerID.INFERABLE)
class WeightsLUTSymmetricInferableQuantizer(WeightsLUTSymmetric, KerasTableQuantizer):
    """Lookup-table weight quantizer; see `WeightsLUTSymmetric`."""


@keras.saving.register_keras_serializable(PACKAGE)
@mark_quantizer(QuantizationTarget.Weights, [QuantizationMethod.LUT_POT_QUANTIZER], QuantizerID.INFERABLE)
class WeightsLUTPOTInferableQuantizer(WeightsLUTPOT, KerasTableQuantizer):
    """Lookup-table weight quantizer with power-of-two thresholds; see `WeightsLUTPOT`."""

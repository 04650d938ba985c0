# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which quantizer trains a tensor of a Keras model; the dictionaries may be changed."""

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from model_compression_toolkit.qat.common.quantizer_selection import ClassTable, QuantizerSelection, class_table
from model_compression_toolkit.trainable_infrastructure.keras.base_keras_quantizer import BaseKerasTrainableQuantizer
from model_compression_toolkit.trainable_infrastructure.keras.method_quantizers import CLASSES

__all__ = [
    "METHOD2ACTQUANTIZER",
    "METHOD2WEIGHTQUANTIZER",
    "SELECTION",
    "get_activation_quantizer_holder",
    "quantization_builder",
]

METHOD2WEIGHTQUANTIZER: ClassTable = class_table(CLASSES, QuantizationTarget.Weights)
"""Weight quantizer class of each training method and grid: what is put in here is used."""
METHOD2ACTQUANTIZER: ClassTable = class_table(CLASSES, QuantizationTarget.Activation)
"""Activation quantizer class of each training method and grid: what is put in here is used."""

SELECTION = QuantizerSelection(
    {QuantizationTarget.Weights: METHOD2WEIGHTQUANTIZER, QuantizationTarget.Activation: METHOD2ACTQUANTIZER},
    CLASSES,
    BaseKerasTrainableQuantizer,
    KerasActivationQuantizationHolder,
)
quantization_builder = SELECTION.quantization_builder
get_activation_quantizer_holder = SELECTION.get_activation_quantizer_holder

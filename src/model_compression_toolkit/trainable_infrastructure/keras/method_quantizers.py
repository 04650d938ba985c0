# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The Keras quantizer classes of all training methods: `STEWeightQATQuantizer`, `LSQUniformWeightQATQuantizer`, ….

Each method that is registered, the user's own too, has one for weights and one for activations on symmetric grids,
power-of-two ones among them, and one of each on uniform grids: `<NAME>WeightQATQuantizer`,
`<NAME>UniformWeightQATQuantizer`, `<NAME>SymmetricActivationTrainableQuantizer` and
`<NAME>UniformActivationTrainableQuantizer`.
"""

from typing import Any

import keras

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.keras.package import PACKAGE
from model_compression_toolkit.trainable_infrastructure.common.method_classes import MethodClasses
from model_compression_toolkit.trainable_infrastructure.keras.base_keras_quantizer import (
    BaseKerasActivationTrainableQuantizer,
    BaseKerasQATWeightTrainableQuantizer,
)
from model_compression_toolkit.trainable_infrastructure.keras.method_quantizer import KerasMethodQuantizer

CLASSES = MethodClasses(
    globals(),
    {
        QuantizationTarget.Weights: (KerasMethodQuantizer, BaseKerasQATWeightTrainableQuantizer),
        QuantizationTarget.Activation: (KerasMethodQuantizer, BaseKerasActivationTrainableQuantizer),
    },
    finish=keras.saving.register_keras_serializable(PACKAGE),
)
CLASSES.make_all()
DQAUniformWeightQuantizer = CLASSES.find("DQAUniformWeightQATQuantizer")
"""The name of the interface."""

keras_trainable_quantizer = CLASSES.quantizer


def __getattr__(name: str) -> Any:
    """A class of a method that was registered after this module was imported."""
    return CLASSES.find(name)

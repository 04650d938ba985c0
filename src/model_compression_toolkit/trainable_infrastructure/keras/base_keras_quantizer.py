# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Bases of the Keras quantizers in training."""

from typing import Any, Self

import keras

from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import BaseTrainableQuantizer
from model_compression_toolkit.trainable_infrastructure.keras.config_serialization import (
    config_deserialization,
    config_serialization,
)

__all__ = [
    "QUANTIZATION_CONFIG",
    "BaseKerasActivationTrainableQuantizer",
    "BaseKerasQATTrainableQuantizer",
    "BaseKerasQATWeightTrainableQuantizer",
    "BaseKerasTrainableQuantizer",
]

QUANTIZATION_CONFIG = "quantization_config"
FREEZE_QUANT_PARAMS = "freeze_quant_params"


class BaseKerasTrainableQuantizer(BaseTrainableQuantizer):
    """Base of the Keras quantizers in training; see `BaseTrainableQuantizer` for its arguments and errors.

    Its variables are those that `initialize_quantization` creates on the layer, which trains and saves them. A subclass
    is found by its name when a file is loaded with `keras_load_quantized_model`.
    """

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments as plain values."""
        config: dict[str, Any] = {QUANTIZATION_CONFIG: config_serialization(self.quantization_config)}
        if self.freeze_quant_params:
            config[FREEZE_QUANT_PARAMS] = True
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The quantizer whose `get_config` was `config`."""
        arguments = dict(config)
        return cls(config_deserialization(arguments.pop(QUANTIZATION_CONFIG)), **arguments)

    def _is_trainable(self, variable: keras.Variable) -> bool:
        return bool(variable.trainable)


class BaseKerasActivationTrainableQuantizer(BaseKerasTrainableQuantizer):
    """Base of the Keras quantizers that train with an activation: a flow that looks for one looks here."""


class BaseKerasQATTrainableQuantizer(BaseKerasTrainableQuantizer):
    """Base of the Keras quantizers of quantization-aware training, under its older name: weights or activations."""


class BaseKerasQATWeightTrainableQuantizer(BaseKerasQATTrainableQuantizer):
    """Base of the Keras quantizers that train with a weight: quantization-aware training looks here."""

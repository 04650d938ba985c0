# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The oldest path to the interface, commonly imported as `qi`: names of other modules, nothing of its own."""

from typing import TYPE_CHECKING

from mct_quantizers import (
    BaseInferableQuantizer,
    QuantizationMethod,
    QuantizationTarget,
    _lazy,
    constants,
    mark_quantizer,
)
from mct_quantizers.common.constants import FOUND_KERAS, FOUND_TORCH
from model_compression_toolkit.trainable_infrastructure import (
    BaseTrainableQuantizer,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
    TrainingMethod,
)
from model_compression_toolkit.trainable_infrastructure.common.node_quantization_dispatcher import (
    NodeQuantizationDispatcher,
)
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    NodeActivationQuantizationConfig,
    NodeWeightsQuantizationConfig,
)

if TYPE_CHECKING:
    from mct_quantizers import (
        KerasActivationQuantizationHolder,
        KerasQuantizationWrapper,
        PytorchActivationQuantizationHolder,
        PytorchQuantizationWrapper,
    )
    from mct_quantizers.keras import quantizers as keras_inferable_quantizers
    from mct_quantizers.keras.quantizers import (
        ActivationPOTInferableQuantizer,
        ActivationSymmetricInferableQuantizer,
        ActivationUniformInferableQuantizer,
        BaseKerasInferableQuantizer,
        WeightsPOTInferableQuantizer,
        WeightsSymmetricInferableQuantizer,
        WeightsUniformInferableQuantizer,
    )
    from mct_quantizers.pytorch import quantizers as pytorch_inferable_quantizers
    from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
    from model_compression_toolkit.trainable_infrastructure import (
        BaseKerasTrainableQuantizer,
        BasePytorchTrainableQuantizer,
        KerasTrainableQuantizationWrapper,
    )
    from model_compression_toolkit.trainable_infrastructure.keras.load_model import keras_load_quantized_model

KerasNodeQuantizationDispatcher = NodeQuantizationDispatcher
PytorchNodeQuantizationDispatcher = NodeQuantizationDispatcher

__all__ = [
    "ActivationPOTInferableQuantizer",
    "ActivationSymmetricInferableQuantizer",
    "ActivationUniformInferableQuantizer",
    "BaseInferableQuantizer",
    "BaseKerasInferableQuantizer",
    "BaseKerasTrainableQuantizer",
    "BasePyTorchInferableQuantizer",
    "BasePytorchTrainableQuantizer",
    "BaseTrainableQuantizer",
    "KerasActivationQuantizationHolder",
    "KerasNodeQuantizationDispatcher",
    "KerasQuantizationWrapper",
    "KerasTrainableQuantizationWrapper",
    "NodeActivationQuantizationConfig",
    "NodeWeightsQuantizationConfig",
    "PytorchActivationQuantizationHolder",
    "PytorchNodeQuantizationDispatcher",
    "PytorchQuantizationWrapper",
    "QuantizationMethod",
    "QuantizationTarget",
    "TrainableQuantizerActivationConfig",
    "TrainableQuantizerWeightsConfig",
    "TrainingMethod",
    "WeightsPOTInferableQuantizer",
    "WeightsSymmetricInferableQuantizer",
    "WeightsUniformInferableQuantizer",
    "constants",
    "keras_inferable_quantizers",
    "keras_load_quantized_model",
    "mark_quantizer",
    "pytorch_inferable_quantizers",
]

_KERAS_QUANTIZERS = "mct_quantizers.keras.quantizers"
_TRAINABLE = "model_compression_toolkit.trainable_infrastructure"
_LAZY = {
    # The documents of the oldest form are those of Keras: the short names are its quantizers.
    "ActivationPOTInferableQuantizer": _KERAS_QUANTIZERS,
    "ActivationSymmetricInferableQuantizer": _KERAS_QUANTIZERS,
    "ActivationUniformInferableQuantizer": _KERAS_QUANTIZERS,
    "BaseKerasInferableQuantizer": _KERAS_QUANTIZERS,
    "BaseKerasTrainableQuantizer": f"{_TRAINABLE}.keras.base_keras_quantizer",
    "BasePyTorchInferableQuantizer": "mct_quantizers.pytorch.quantizers",
    "BasePytorchTrainableQuantizer": f"{_TRAINABLE}.pytorch.base_pytorch_quantizer",
    "KerasActivationQuantizationHolder": "mct_quantizers.keras.activation_quantization_holder",
    "KerasQuantizationWrapper": "mct_quantizers.keras.quantize_wrapper",
    "KerasTrainableQuantizationWrapper": f"{_TRAINABLE}.keras.quantize_wrapper",
    "PytorchActivationQuantizationHolder": "mct_quantizers.pytorch.activation_quantization_holder",
    "PytorchQuantizationWrapper": "mct_quantizers.pytorch.quantize_wrapper",
    "WeightsPOTInferableQuantizer": _KERAS_QUANTIZERS,
    "WeightsSymmetricInferableQuantizer": _KERAS_QUANTIZERS,
    "WeightsUniformInferableQuantizer": _KERAS_QUANTIZERS,
    "keras_inferable_quantizers": "mct_quantizers.keras.quantizers:",
    "keras_load_quantized_model": f"{_TRAINABLE}.keras.load_model",
    "pytorch_inferable_quantizers": "mct_quantizers.pytorch.quantizers:",
}

# What is not installed is left out of `from … import *`, which would stop there.
_FOUND = {".keras": FOUND_KERAS, ".pytorch": FOUND_TORCH}
__all__ = [name for name in __all__ if all(found or wing not in _LAZY.get(name, "") for wing, found in _FOUND.items())]

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What trains a quantizer: base classes, configurations, methods (one file each), their binding to the frameworks."""

from typing import TYPE_CHECKING

from mct_quantizers import _lazy
from mct_quantizers.common.constants import FOUND_TF, FOUND_TORCH
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import (
    BaseTrainableQuantizer,
    VariableGroup,
)
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.conformance import ConformanceReport, check_quantizer
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned, Method

if TYPE_CHECKING:
    from model_compression_toolkit.trainable_infrastructure.keras.base_keras_quantizer import (
        BaseKerasActivationTrainableQuantizer,
        BaseKerasQATWeightTrainableQuantizer,
        BaseKerasTrainableQuantizer,
    )
    from model_compression_toolkit.trainable_infrastructure.keras.method_quantizers import keras_trainable_quantizer
    from model_compression_toolkit.trainable_infrastructure.keras.quantize_wrapper import (
        KerasTrainableQuantizationWrapper,
    )
    from model_compression_toolkit.trainable_infrastructure.pytorch.base_pytorch_quantizer import (
        BasePytorchActivationTrainableQuantizer,
        BasePytorchQATWeightTrainableQuantizer,
        BasePytorchTrainableQuantizer,
    )
    from model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizers import pytorch_trainable_quantizer
    from model_compression_toolkit.trainable_infrastructure.pytorch.regularization import regularization_loss

__all__ = [
    "FOUND_TF",
    "FOUND_TORCH",
    "BaseKerasActivationTrainableQuantizer",
    "BaseKerasQATWeightTrainableQuantizer",
    "BaseKerasTrainableQuantizer",
    "BasePytorchActivationTrainableQuantizer",
    "BasePytorchQATWeightTrainableQuantizer",
    "BasePytorchTrainableQuantizer",
    "BaseTrainableQuantizer",
    "ConformanceReport",
    "KerasTrainableQuantizationWrapper",
    "LSQSymmetricActivationTrainableQuantizer",
    "LSQUniformActivationTrainableQuantizer",
    "Learned",
    "Method",
    "STESymmetricActivationTrainableQuantizer",
    "STEUniformActivationTrainableQuantizer",
    "TrainableQuantizerActivationConfig",
    "TrainableQuantizerWeightsConfig",
    "TrainingMethod",
    "VariableGroup",
    "check_quantizer",
    "keras_trainable_quantizer",
    "pytorch_trainable_quantizer",
    "regularization_loss",
]

_KERAS = "model_compression_toolkit.trainable_infrastructure.keras"
_PYTORCH = "model_compression_toolkit.trainable_infrastructure.pytorch"
_LAZY = {
    "BaseKerasActivationTrainableQuantizer": f"{_KERAS}.base_keras_quantizer",
    "BaseKerasQATWeightTrainableQuantizer": f"{_KERAS}.base_keras_quantizer",
    "BaseKerasTrainableQuantizer": f"{_KERAS}.base_keras_quantizer",
    "BasePytorchActivationTrainableQuantizer": f"{_PYTORCH}.base_pytorch_quantizer",
    "BasePytorchQATWeightTrainableQuantizer": f"{_PYTORCH}.base_pytorch_quantizer",
    "BasePytorchTrainableQuantizer": f"{_PYTORCH}.base_pytorch_quantizer",
    "KerasTrainableQuantizationWrapper": f"{_KERAS}.quantize_wrapper",
    "LSQSymmetricActivationTrainableQuantizer": f"{_PYTORCH}.method_quantizers",
    "LSQUniformActivationTrainableQuantizer": f"{_PYTORCH}.method_quantizers",
    "STESymmetricActivationTrainableQuantizer": f"{_PYTORCH}.method_quantizers",
    "STEUniformActivationTrainableQuantizer": f"{_PYTORCH}.method_quantizers",
    "keras_trainable_quantizer": f"{_KERAS}.method_quantizers",
    "pytorch_trainable_quantizer": f"{_PYTORCH}.method_quantizers",
    "regularization_loss": f"{_PYTORCH}.regularization",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

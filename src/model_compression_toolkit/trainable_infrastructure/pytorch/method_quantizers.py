# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The PyTorch quantizer classes of all training methods: `STEWeightQATQuantizer`, `LSQUniformWeightQATQuantizer`, ….

Each method that is registered, the user's own too, has one for weights and one for activations on symmetric grids,
power-of-two ones among them, and one of each on uniform grids: `<NAME>WeightQATQuantizer`,
`<NAME>UniformWeightQATQuantizer`, `<NAME>SymmetricActivationTrainableQuantizer` and
`<NAME>UniformActivationTrainableQuantizer`.
"""

from typing import Any

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.trainable_infrastructure.common.method_classes import MethodClasses
from model_compression_toolkit.trainable_infrastructure.pytorch.base_pytorch_quantizer import (
    BasePytorchActivationTrainableQuantizer,
    BasePytorchQATWeightTrainableQuantizer,
)
from model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizer import PytorchMethodQuantizer

CLASSES = MethodClasses(
    globals(),
    {
        QuantizationTarget.Weights: (PytorchMethodQuantizer, BasePytorchQATWeightTrainableQuantizer),
        QuantizationTarget.Activation: (PytorchMethodQuantizer, BasePytorchActivationTrainableQuantizer),
    },
)
CLASSES.make_all()
DQAUniformWeightQuantizer = CLASSES.find("DQAUniformWeightQATQuantizer")
"""The name of the interface."""

pytorch_trainable_quantizer = CLASSES.quantizer


def __getattr__(name: str) -> Any:
    """A class of a method that was registered after this module was imported."""
    return CLASSES.find(name)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The inferable quantizers of PyTorch."""

from mct_quantizers.pytorch.quantizers.activation import (
    ActivationLutPOTInferableQuantizer,
    ActivationPOTInferableQuantizer,
    ActivationSymmetricInferableQuantizer,
    ActivationUniformInferableQuantizer,
)
from mct_quantizers.pytorch.quantizers.base import BasePyTorchInferableQuantizer
from mct_quantizers.pytorch.quantizers.weights import (
    WeightsLUTPOTInferableQuantizer,
    WeightsLUTSymmetricInferableQuantizer,
    WeightsPOTInferableQuantizer,
    WeightsSymmetricInferableQuantizer,
    WeightsUniformInferableQuantizer,
)

__all__ = [
    "ActivationLutPOTInferableQuantizer",
    "ActivationPOTInferableQuantizer",
    "ActivationSymmetricInferableQuantizer",
    "ActivationUniformInferableQuantizer",
    "BasePyTorchInferableQuantizer",
    "WeightsLUTPOTInferableQuantizer",
    "WeightsLUTSymmetricInferableQuantizer",
    "WeightsPOTInferableQuantizer",
    "WeightsSymmetricInferableQuantizer",
    "WeightsUniformInferableQuantizer",
]

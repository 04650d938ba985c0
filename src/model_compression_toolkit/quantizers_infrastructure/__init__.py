# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The oldest path to the interface, commonly imported as `qi`: names of `mct_quantizers`, nothing of its own."""

from typing import TYPE_CHECKING

from mct_quantizers import (
    BaseInferableQuantizer,
    QuantizationMethod,
    QuantizationTarget,
    _lazy,
    constants,
    mark_quantizer,
)

if TYPE_CHECKING:
    from mct_quantizers import (
        KerasActivationQuantizationHolder,
        KerasQuantizationWrapper,
        PytorchActivationQuantizationHolder,
        PytorchQuantizationWrapper,
        keras_load_quantized_model,
    )
    from mct_quantizers.keras import quantizers as keras_inferable_quantizers
    from mct_quantizers.keras.quantizers import BaseKerasInferableQuantizer
    from mct_quantizers.pytorch import quantizers as pytorch_inferable_quantizers
    from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer

__all__ = [
    "BaseInferableQuantizer",
    "BaseKerasInferableQuantizer",
    "BasePyTorchInferableQuantizer",
    "KerasActivationQuantizationHolder",
    "KerasQuantizationWrapper",
    "PytorchActivationQuantizationHolder",
    "PytorchQuantizationWrapper",
    "QuantizationMethod",
    "QuantizationTarget",
    "constants",
    "keras_inferable_quantizers",
    "keras_load_quantized_model",
    "mark_quantizer",
    "pytorch_inferable_quantizers",
]

_LAZY = {
    "BaseKerasInferableQuantizer": "mct_quantizers.keras.quantizers",
    "BasePyTorchInferableQuantizer": "mct_quantizers.pytorch.quantizers",
    "KerasActivationQuantizationHolder": "mct_quantizers.keras.activation_quantization_holder",
    "KerasQuantizationWrapper": "mct_quantizers.keras.quantize_wrapper",
    "PytorchActivationQuantizationHolder": "mct_quantizers.pytorch.activation_quantization_holder",
    "PytorchQuantizationWrapper": "mct_quantizers.pytorch.quantize_wrapper",
    "keras_inferable_quantizers": "mct_quantizers.keras.quantizers:",
    "keras_load_quantized_model": "mct_quantizers.keras.load_model",
    "pytorch_inferable_quantizers": "mct_quantizers.pytorch.quantizers:",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The light runtime: inferable quantizers, wrappers and holders. Frameworks load on first use of their names."""

from typing import TYPE_CHECKING

from mct_quantizers import _lazy
from mct_quantizers._version import __version__
from mct_quantizers.common import constants
from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer, mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget

if TYPE_CHECKING:
    from mct_quantizers import common, keras, pytorch
    from mct_quantizers.keras import quantizers as keras_quantizers
    from mct_quantizers.keras.activation_quantization_holder import (
        KerasActivationQuantizationHolder,
        KerasFLNActivationQuantizationHolder,
        KerasPreservingActivationQuantizationHolder,
    )
    from mct_quantizers.keras.load_model import keras_load_quantized_model
    from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
    from mct_quantizers.pytorch import quantizers as pytorch_quantizers
    from mct_quantizers.pytorch.activation_quantization_holder import (
        PytorchActivationQuantizationHolder,
        PytorchFLNActivationQuantizationHolder,
        PytorchPreservingActivationQuantizationHolder,
    )
    from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper

__all__ = [
    "BaseInferableQuantizer",
    "KerasActivationQuantizationHolder",
    "KerasFLNActivationQuantizationHolder",
    "KerasPreservingActivationQuantizationHolder",
    "KerasQuantizationWrapper",
    "PytorchActivationQuantizationHolder",
    "PytorchFLNActivationQuantizationHolder",
    "PytorchPreservingActivationQuantizationHolder",
    "PytorchQuantizationWrapper",
    "QuantizationMethod",
    "QuantizationTarget",
    "__version__",
    "common",
    "constants",
    "keras",
    "keras_load_quantized_model",
    "keras_quantizers",
    "mark_quantizer",
    "pytorch",
    "pytorch_quantizers",
]

_HOLDERS = "mct_quantizers.pytorch.activation_quantization_holder"
_KERAS_HOLDERS = "mct_quantizers.keras.activation_quantization_holder"
_LAZY = {
    "KerasActivationQuantizationHolder": _KERAS_HOLDERS,
    "KerasFLNActivationQuantizationHolder": _KERAS_HOLDERS,
    "KerasPreservingActivationQuantizationHolder": _KERAS_HOLDERS,
    "KerasQuantizationWrapper": "mct_quantizers.keras.quantize_wrapper",
    "keras": "mct_quantizers.keras:",
    "keras_load_quantized_model": "mct_quantizers.keras.load_model",
    "keras_quantizers": "mct_quantizers.keras.quantizers:",
    "pytorch": "mct_quantizers.pytorch:",
    "PytorchActivationQuantizationHolder": _HOLDERS,
    "PytorchFLNActivationQuantizationHolder": _HOLDERS,
    "PytorchPreservingActivationQuantizationHolder": _HOLDERS,
    "PytorchQuantizationWrapper": "mct_quantizers.pytorch.quantize_wrapper",
    "pytorch_quantizers": "mct_quantizers.pytorch.quantizers:",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The light runtime: inferable quantizers, wrappers and holders. Frameworks load on first use of their names."""

from typing import TYPE_CHECKING

from mct_quantizers import _lazy, _paths
from mct_quantizers._version import __version__
from mct_quantizers.common import constants
from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer, mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget

if TYPE_CHECKING:
    from mct_quantizers import common, keras, logger, pytorch
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
    from mct_quantizers.pytorch.load_model import pytorch_load_quantized_model, pytorch_save_quantized_model
    from mct_quantizers.pytorch.onnx_ops import get_ort_session_options
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
    "get_ort_session_options",
    "keras",
    "keras_load_quantized_model",
    "keras_quantizers",
    "logger",
    "mark_quantizer",
    "pytorch",
    "pytorch_load_quantized_model",
    "pytorch_quantizers",
    "pytorch_save_quantized_model",
]

_HOLDERS = "mct_quantizers.pytorch.activation_quantization_holder"
_KERAS_HOLDERS = "mct_quantizers.keras.activation_quantization_holder"
_LAZY = {
    "KerasActivationQuantizationHolder": _KERAS_HOLDERS,
    "KerasFLNActivationQuantizationHolder": _KERAS_HOLDERS,
    "KerasPreservingActivationQuantizationHolder": _KERAS_HOLDERS,
    "KerasQuantizationWrapper": "mct_quantizers.keras.quantize_wrapper",
    "get_ort_session_options": "mct_quantizers.pytorch.onnx_ops",
    "keras": "mct_quantizers.keras:",
    "keras_load_quantized_model": "mct_quantizers.keras.load_model",
    "keras_quantizers": "mct_quantizers.keras.quantizers:",
    "logger": "mct_quantizers.logger:",
    "pytorch": "mct_quantizers.pytorch:",
    "pytorch_load_quantized_model": "mct_quantizers.pytorch.load_model",
    "pytorch_save_quantized_model": "mct_quantizers.pytorch.load_model",
    "PytorchActivationQuantizationHolder": _HOLDERS,
    "PytorchFLNActivationQuantizationHolder": _HOLDERS,
    "PytorchPreservingActivationQuantizationHolder": _HOLDERS,
    "PytorchQuantizationWrapper": "mct_quantizers.pytorch.quantize_wrapper",
    "pytorch_quantizers": "mct_quantizers.pytorch.quantizers:",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)
_paths.install()

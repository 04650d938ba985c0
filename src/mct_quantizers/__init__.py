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
    from mct_quantizers.pytorch import quantizers as pytorch_quantizers
    from mct_quantizers.pytorch.activation_quantization_holder import (
        PytorchActivationQuantizationHolder,
        PytorchFLNActivationQuantizationHolder,
        PytorchPreservingActivationQuantizationHolder,
    )
    from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper

__all__ = [
    "BaseInferableQuantizer",
    "PytorchActivationQuantizationHolder",
    "PytorchFLNActivationQuantizationHolder",
    "PytorchPreservingActivationQuantizationHolder",
    "PytorchQuantizationWrapper",
    "QuantizationMethod",
    "QuantizationTarget",
    "__version__",
    "constants",
    "mark_quantizer",
    "pytorch_quantizers",
]

_HOLDERS = "mct_quantizers.pytorch.activation_quantization_holder"
_LAZY = {
    "PytorchActivationQuantizationHolder": _HOLDERS,
    "PytorchFLNActivationQuantizationHolder": _HOLDERS,
    "PytorchPreservingActivationQuantizationHolder": _HOLDERS,
    "PytorchQuantizationWrapper": "mct_quantizers.pytorch.quantize_wrapper",
    "pytorch_quantizers": "mct_quantizers.pytorch.quantizers:",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

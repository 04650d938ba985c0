# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training."""

from mct_quantizers import _lazy
from model_compression_toolkit.qat.common.qat_config import QATConfig, TrainingMethod

__all__ = [
    "QATConfig",
    "TrainingMethod",
    "pytorch_quantization_aware_training_finalize_experimental",
    "pytorch_quantization_aware_training_init_experimental",
]

_FACADE = "model_compression_toolkit.qat.pytorch.quantization_facade"
_LAZY = {
    "pytorch_quantization_aware_training_finalize_experimental": _FACADE,
    "pytorch_quantization_aware_training_init_experimental": _FACADE,
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

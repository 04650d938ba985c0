# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training."""

from mct_quantizers import _lazy
from model_compression_toolkit.qat.common.qat_config import QATConfig, TrainingMethod

__all__ = [
    "QATConfig",
    "TrainingMethod",
    "keras_quantization_aware_training_finalize_experimental",
    "keras_quantization_aware_training_init_experimental",
    "pytorch_quantization_aware_training_finalize_experimental",
    "pytorch_quantization_aware_training_init_experimental",
]

_LAZY = {
    f"{wing}_quantization_aware_training_{step}_experimental": f"{__name__}.{wing}.quantization_facade"
    for wing in ("keras", "pytorch")
    for step in ("init", "finalize")
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

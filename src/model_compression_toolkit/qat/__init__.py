# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training."""

from typing import Any

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


def __getattr__(name: str) -> Any:
    return _lazy.load(__name__, name, _LAZY)


def __dir__() -> list[str]:
    return __all__

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What trains a quantizer: methods, one file each, and their binding to the frameworks."""

from typing import Any

from mct_quantizers import _lazy
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned, Method

__all__ = ["Learned", "Method", "PytorchMethodQuantizer", "TrainingMethod"]

_LAZY = {
    "PytorchMethodQuantizer": "model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizer",
}


def __getattr__(name: str) -> Any:
    return _lazy.load(__name__, name, _LAZY)


def __dir__() -> list[str]:
    return __all__

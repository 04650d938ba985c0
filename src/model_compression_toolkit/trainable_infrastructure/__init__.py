# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What trains a quantizer: methods, one file each, and their binding to the frameworks."""

from mct_quantizers import _lazy
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned, Method

__all__ = ["Learned", "Method", "PytorchMethodQuantizer", "TrainingMethod"]

_LAZY = {
    "PytorchMethodQuantizer": "model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizer",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization."""

from mct_quantizers import _lazy

__all__ = ["keras_post_training_quantization", "pytorch_post_training_quantization"]

_LAZY = {
    "keras_post_training_quantization": "model_compression_toolkit.ptq.keras.quantization_facade",
    "pytorch_post_training_quantization": "model_compression_toolkit.ptq.pytorch.quantization_facade",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

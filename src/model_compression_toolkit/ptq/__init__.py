# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization."""

from typing import Any

from mct_quantizers import _lazy

__all__ = ["pytorch_post_training_quantization"]

_LAZY = {
    "pytorch_post_training_quantization": "model_compression_toolkit.ptq.pytorch.quantization_facade",
}


def __getattr__(name: str) -> Any:
    return _lazy.load(__name__, name, _LAZY)


def __dir__() -> list[str]:
    return __all__

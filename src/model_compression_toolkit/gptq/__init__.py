# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization that trains: the names of the interface. Not supported yet."""

from typing import Any, NoReturn

from model_compression_toolkit.core.common.interface import not_supported_yet

__all__ = [
    "get_keras_gptq_config",
    "get_pytorch_gptq_config",
    "keras_gradient_post_training_quantization",
    "pytorch_gradient_post_training_quantization",
]

_INSTEAD = "`mct.quantize`, or `mct.prepare_qat` with `mct.fine_tune`"


def get_keras_gptq_config(*args: Any, **kwargs: Any) -> NoReturn:
    """Not supported yet; the error says what to use instead.

    Raises:
        NotImplementedError: always.
    """
    del args, kwargs
    not_supported_yet("get_keras_gptq_config", _INSTEAD)


def get_pytorch_gptq_config(*args: Any, **kwargs: Any) -> NoReturn:
    """Not supported yet; the error says what to use instead.

    Raises:
        NotImplementedError: always.
    """
    del args, kwargs
    not_supported_yet("get_pytorch_gptq_config", _INSTEAD)


def keras_gradient_post_training_quantization(*args: Any, **kwargs: Any) -> NoReturn:
    """Not supported yet; the error says what to use instead.

    Raises:
        NotImplementedError: always.
    """
    del args, kwargs
    not_supported_yet("keras_gradient_post_training_quantization", _INSTEAD)


def pytorch_gradient_post_training_quantization(*args: Any, **kwargs: Any) -> NoReturn:
    """Not supported yet; the error says what to use instead.

    Raises:
        NotImplementedError: always.
    """
    del args, kwargs
    not_supported_yet("pytorch_gradient_post_training_quantization", _INSTEAD)

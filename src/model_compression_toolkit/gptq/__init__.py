# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization that trains: the names of the interface. Not supported yet."""

from model_compression_toolkit.core.common.interface import not_supported_yet

__all__ = [
    "get_keras_gptq_config",
    "get_pytorch_gptq_config",
    "keras_gradient_post_training_quantization",
    "pytorch_gradient_post_training_quantization",
]

_INSTEAD = "`mct.quantize`, or `mct.prepare_qat` with `mct.fine_tune`"

get_keras_gptq_config = not_supported_yet("get_keras_gptq_config", _INSTEAD)
get_pytorch_gptq_config = not_supported_yet("get_pytorch_gptq_config", _INSTEAD)
keras_gradient_post_training_quantization = not_supported_yet("keras_gradient_post_training_quantization", _INSTEAD)
pytorch_gradient_post_training_quantization = not_supported_yet("pytorch_gradient_post_training_quantization", _INSTEAD)

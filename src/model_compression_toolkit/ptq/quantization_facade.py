# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization of models of any framework."""

from typing import Any

from model_compression_toolkit.core.common.framework import wing_module
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig


def quantize(model: Any, data: Any, config: QuantizationConfig | None = None) -> Any:
    """Quantize a trained model without training it further.

    Args:
        model: the float model, a `torch.nn.Module` or a `keras.Model`; it is not changed.
        data: representative inputs: a tensor, an array, an iterable of batches, or a function that returns one.
        config: what to do; 8-bit weights and activations by default.

    Returns:
        The quantized model, of the same framework, for inference; `plan_of` tells what was quantized.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: unusable data, a model that is quantized already or has nothing to quantize, a Keras model that is
            not built.
    """
    return wing_module(model, "model_compression_toolkit.ptq.{}.quantization_facade").quantize(model, data, config)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The noise of one more rounding in each quantized activation of a Keras model."""

from typing import Any

import keras

from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from model_compression_toolkit.core.keras.graph import Call
from model_compression_toolkit.exporter.common.default_session import rounding_noise

__all__ = ["disturbed"]


def disturbed(call: Call, x: Any) -> Any:
    """What a holder makes of `x` with noise; None for a call that quantizes nothing."""
    holder = call.operation
    if not isinstance(holder, KerasActivationQuantizationHolder):
        return None
    noise = rounding_noise(tuple(x.shape), getattr(holder.activation_holder_quantizer, "params", None))
    return holder(x + keras.ops.convert_to_tensor(noise))

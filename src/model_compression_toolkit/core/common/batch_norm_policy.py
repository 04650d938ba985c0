# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which batch norms train along."""

from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import Granularity
from model_compression_toolkit.core.common.quantization_config import BatchNorm, QuantizationConfig


def stays_live(config: QuantizationConfig, has_scale_per_output: bool) -> bool:
    """Whether the batch norm behind a layer trains along.

    Folding it later multiplies the scale of each channel, which needs a scale per output channel that is free to take
    any value.

    Args:
        config: what the user asks for.
        has_scale_per_output: whether each output channel of the layer, quantized per channel, has a scale of its own.

    Raises:
        ValueError: the configuration wants it live, and that cannot be.
    """
    free = config.weights.granularity is Granularity.PER_CHANNEL
    free &= config.weights.method is not QuantizationMethod.POWER_OF_TWO
    free &= has_scale_per_output
    if config.batch_norm is BatchNorm.LIVE and not free:
        raise ValueError(
            "`batch_norm` 'live' needs weights that are quantized per channel on a symmetric or uniform grid, and no "
            "layer whose output channels share scales (a grouped transposed convolution, a depthwise one with several "
            "outputs for each input). Use 'auto' or 'fold'."
        )
    return free and config.batch_norm is not BatchNorm.FOLD

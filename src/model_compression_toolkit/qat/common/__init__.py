# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the flows of both frameworks share in quantization-aware training."""

from model_compression_toolkit.trainable_infrastructure.common.constants import (
    THRESHOLD_TENSOR,
    WEIGHTS_QUANTIZATION_PARAMS,
)

__all__ = ["THRESHOLD_TENSOR", "WEIGHTS_QUANTIZATION_PARAMS"]

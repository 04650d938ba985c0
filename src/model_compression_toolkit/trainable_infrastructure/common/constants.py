# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Words of the interface: keys of quantization parameters, names of variables."""

from mct_quantizers.common.constants import EPS, FOUND_TF, FOUND_TORCH, LUT_VALUES_BITWIDTH, TENSORFLOW

__all__ = [
    "EPS",
    "FOUND_TF",
    "FOUND_TORCH",
    "FQ_MAX",
    "FQ_MIN",
    "LUT_VALUES_BITWIDTH",
    "MIN_THRESHOLD",
    "PYTORCH",
    "RANGE_MAX",
    "RANGE_MIN",
    "SIGNED",
    "TENSORFLOW",
    "THRESHOLD",
    "THRESHOLD_TENSOR",
    "WEIGHTS_QUANTIZATION_PARAMS",
    "WEIGHTS_SIGNED",
]

PYTORCH = "pytorch"

FQ_MIN = "min"
FQ_MAX = "max"
THRESHOLD_TENSOR = "ptq_threshold_tensor"
WEIGHTS_QUANTIZATION_PARAMS = "weights_quantization_params"

THRESHOLD = "threshold"
SIGNED = "is_signed"
RANGE_MIN = "range_min"
RANGE_MAX = "range_max"

WEIGHTS_SIGNED = True

MIN_THRESHOLD = 2.0**-16
"""The smallest threshold that calibration gives."""

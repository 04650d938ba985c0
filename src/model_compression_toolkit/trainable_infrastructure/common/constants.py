# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Words of the interface: keys of quantization parameters, names of variables."""

__all__ = [
    "FQ_MAX",
    "FQ_MIN",
    "MIN_THRESHOLD",
    "RANGE_MAX",
    "RANGE_MIN",
    "SIGNED",
    "THRESHOLD",
    "THRESHOLD_TENSOR",
    "WEIGHTS_QUANTIZATION_PARAMS",
]

FQ_MIN = "min"
FQ_MAX = "max"
THRESHOLD_TENSOR = "ptq_threshold_tensor"
WEIGHTS_QUANTIZATION_PARAMS = "weights_quantization_params"

THRESHOLD = "threshold"
SIGNED = "is_signed"
RANGE_MIN = "range_min"
RANGE_MAX = "range_max"

MIN_THRESHOLD = 2.0**-16
"""The smallest threshold that calibration gives."""

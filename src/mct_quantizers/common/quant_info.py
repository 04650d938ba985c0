# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The closed sets that mark a quantizer: what it quantizes, on which grid, for which task."""

from enum import Enum


class QuantizationTarget(Enum):
    """What a quantizer quantizes."""

    Activation = "Activation"
    Weights = "Weights"


class QuantizationMethod(Enum):
    """The grid that a quantizer rounds to."""

    POWER_OF_TWO = 0
    LUT_POT_QUANTIZER = 1
    SYMMETRIC = 2
    UNIFORM = 3
    LUT_SYM_QUANTIZER = 4


class QuantizerID(Enum):
    """The task of a quantizer; training methods use their own identifiers."""

    INFERABLE = "inferable_quantizer_id"

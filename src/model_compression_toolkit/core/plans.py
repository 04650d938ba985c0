# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The plan of a quantized model of any framework."""

from typing import Any

from model_compression_toolkit.core.common.framework import wing_module
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan


def plan_of(model: Any) -> QuantizationPlan:
    """The plan of a quantized model: what is quantized and how, and what is not, and why.

    Args:
        model: a `torch.nn.Module` or `keras.Model` that `quantize`, `prepare_qat` or `finalize` returned.

    Raises:
        TypeError: no model.
        ValueError: the model is not quantized.
    """
    plan: QuantizationPlan = wing_module(model, "model_compression_toolkit.core.{}.surgery").plan_of(model)
    return plan

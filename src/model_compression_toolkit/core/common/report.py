# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a plan says, for people and machines."""

from typing import Any

from rich.table import Table

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.common.tensor_table import tensor_table


def plan_table(plan: QuantizationPlan, show_all: bool = False) -> Table:
    """One row for each quantized tensor, in the order of execution; `×C` are C scales, or thresholds of a table.

    Args:
        plan: the plan.
        show_all: list the tensors in float too, with their reasons.
    """
    return tensor_table(plan.tensors if show_all else plan.quantized())


def plan_totals(plan: QuantizationPlan) -> dict[str, Any]:
    """Number of quantized tensors and bytes of all listed weights, packed."""
    weights = [tensor for tensor in plan.tensors if tensor.is_weight]
    return {
        "quantized_weights": len(plan.quantized(QuantizationTarget.Weights)),
        "quantized_activations": len(plan.quantized(QuantizationTarget.Activation)),
        "weight_bytes": plan.weight_bytes,
        "compression": 4.0 * sum(tensor.num_elements for tensor in weights) / max(plan.weight_bytes, 1),
    }

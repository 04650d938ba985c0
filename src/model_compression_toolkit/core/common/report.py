# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a plan says, for people and machines."""

from typing import Any

from rich.table import Table

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan


def plan_table(plan: QuantizationPlan, show_all: bool = False) -> Table:
    """One row for each quantized tensor, in the order of execution.

    Args:
        plan: the plan.
        show_all: list the tensors in float too, with their reasons.
    """
    table = Table(title="Quantization plan")
    for header in ("layer", "tensor", "type", "bits", "grid", "scales", "scale", "zero point", "bytes"):
        table.add_column(header, justify="left" if header in ("layer", "tensor", "type", "grid") else "right")
    for tensor in plan.tensors if show_all else plan.quantized():
        table.add_row(*_cells(tensor))
    return table


def plan_totals(plan: QuantizationPlan) -> dict[str, Any]:
    """Number of quantized tensors and bytes of all listed weights, packed."""
    weights = [tensor for tensor in plan.tensors if tensor.is_weight]
    return {
        "quantized_weights": len(plan.quantized(QuantizationTarget.Weights)),
        "quantized_activations": len(plan.quantized(QuantizationTarget.Activation)),
        "weight_bytes": plan.weight_bytes,
        "compression": 4.0 * sum(tensor.num_elements for tensor in weights) / max(plan.weight_bytes, 1),
    }


def _cells(tensor: TensorPlan) -> list[str]:
    name = [tensor.site.layer, tensor.site.tensor, tensor.site.type]
    size = f"{tensor.num_bytes:,}" if tensor.is_weight else ""
    config, params = tensor.config, tensor.params
    if config is None:
        return [*name, "float", tensor.reason, "", "", "", size]
    grid = f"{config.method.name.lower()}, {config.granularity.value}"
    if params is None:
        return [*name, str(config.num_bits), grid, "", "not calibrated", "", size]
    count = len(params.scale)
    scale = f"{params.scale[0]:.3g}" if count == 1 else f"{params.scale.min():.3g} … {params.scale.max():.3g}"
    low, high = int(params.zero_point.min()), int(params.zero_point.max())
    zero_point = str(low) if low == high else f"{low} … {high}"
    return [*name, str(config.num_bits), grid, str(count), scale, zero_point, size]

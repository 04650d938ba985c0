# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a plan says, for people and machines."""

from typing import Any

from rich.table import Table

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan


def plan_table(plan: QuantizationPlan, show_all: bool = False) -> Table:
    """One row for each quantized tensor, in the order of execution; `×C` are C scales, or thresholds of a table.

    Args:
        plan: the plan.
        show_all: list the tensors in float too, with their reasons.
    """
    table = Table(title="Quantization plan")
    table.add_column("tensor", overflow="fold")
    for header in ("type", "bits", "grid", "scale", "zero", "bytes"):
        is_text = header in ("type", "grid", "scale")
        table.add_column(header, justify="left" if is_text else "right", overflow="fold")
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
    size = f"{tensor.num_bytes:,}" if tensor.is_weight else ""
    config, params = tensor.config, tensor.params
    if config is None:
        return [tensor.name, tensor.site.type, "float", tensor.reason, "", "", size]
    grid = config.method.name.lower().replace("_", " ")
    if params is None:
        return [tensor.name, tensor.site.type, str(config.num_bits), grid, tensor.reason or "not calibrated", "", size]
    if isinstance(params, LookupTable):
        threshold = _span(f"{params.threshold.min():.2g}", f"{params.threshold.max():.2g}")
        levels = f"table of {len(params.lut_values)}" + ("" if params.axis is None else f" ×{len(params.threshold)}")
        return [tensor.name, tensor.site.type, str(config.num_bits), levels, f"threshold {threshold}", "", size]
    if params.axis is not None:
        grid += f" ×{len(params.scale)}"
    scale = _span(f"{params.scale.min():.2g}", f"{params.scale.max():.2g}")
    zero_point = _span(str(params.zero_point.min()), str(params.zero_point.max()))
    return [tensor.name, tensor.site.type, str(config.num_bits), grid, scale, zero_point, size]


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low}…{high}"

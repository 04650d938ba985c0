# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The tensors of a plan as a table for people."""

import io
import shutil
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from mct_quantizers.common.lookup_table import LookupTable
from model_compression_toolkit.core.common.tensor_plan import TensorPlan

__all__ = ["table_text", "tensor_table"]

_WIDTH = 120
"""Columns of the text where no terminal says otherwise."""


def tensor_table(tensors: Iterable[TensorPlan]) -> Table:
    """One row for each tensor; `×C` are C scales, or thresholds of a table."""
    tensors = tuple(tensors)
    table = Table(title="Quantization plan")
    table.add_column("tensor", overflow="fold")
    for header in ("type", "bits", "grid", "scale", "zero", "bytes"):
        is_text = header in ("type", "grid", "scale")
        table.add_column(header, justify="left" if is_text else "right", overflow="fold")
    is_trained = any(tensor.training_method for tensor in tensors)
    if is_trained:
        table.add_column("trained by", overflow="fold")
    for tensor in tensors:
        table.add_row(*_cells(tensor), *([tensor.training_method] if is_trained else []))
    return table


def table_text(tensors: Iterable[TensorPlan]) -> str:
    """The table as plain text, as wide as the terminal allows."""
    file = io.StringIO()
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    Console(file=file, width=width, color_system=None, force_terminal=False).print(tensor_table(tensors))
    return file.getvalue().rstrip("\n")


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

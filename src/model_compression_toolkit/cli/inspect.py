# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`mct inspect`: the plan of an exported or saved model."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model_compression_toolkit.core.common.report import plan_table, plan_totals


def inspect(
    file: Annotated[Path, typer.Argument(help="An exported .onnx file or a saved .safetensors file.")],
    show_all: Annotated[bool, typer.Option("--all", help="List what stays in float too, with the reasons.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print layers, bits, scales and sizes of a quantized model."""
    from model_compression_toolkit.exporter import read_plan

    plan, info = read_plan(file)
    totals = {
        "file": str(file),
        "format": info.format.value,
        "file_size": info.file_size,
        "package_version": info.package_version,
        **plan_totals(plan),
    }
    if as_json:
        typer.echo(json.dumps({**totals, "plan": plan.to_dict()}, indent=2))
        return
    console = Console()
    console.print(plan_table(plan, show_all))
    for note in plan.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"{totals['quantized_weights']} weights and {totals['quantized_activations']} activations quantized; "
        f"weights take {totals['weight_bytes']:,} bytes, {totals['compression']:.1f} times less than in float32; "
        f"{len(plan.skipped())} tensors in float"
        + ("" if show_all or not plan.skipped() else " (--all lists them with the reasons)")
    )

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`mct quantize`: the user's own network and data."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mct_quantizers import _lazy
from model_compression_toolkit.cli.user_files import load_config, load_data, load_network
from model_compression_toolkit.core.common.report import plan_table, plan_totals


def quantize(
    model: Annotated[str, typer.Option(help="package.module:factory, a function that returns the float network.")],
    data: Annotated[Path, typer.Option(help="An .npz file with x and, for classes, y; or a folder of .npz or .npy.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    weights: Annotated[Path | None, typer.Option(help="Trained weights, a .safetensors state dict.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with fields of QuantizationConfig.")] = None,
    bits: Annotated[str | None, typer.Option(help="Widths such as w4a4; stands above --config.")] = None,
    qat_epochs: Annotated[int, typer.Option(min=0, help="Epochs of training with quantization; 0 for none.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Quantize your own network with your own data, export it to ONNX and safetensors, and prove the export."""
    _lazy.import_optional("torch", needed_by="mct quantize")
    from mct_quantizers.common.files import check_writable, write_atomically
    from model_compression_toolkit.core.pytorch.surgery import plan_of
    from model_compression_toolkit.exporter import export

    settings = load_config(config, bits)
    inputs, labels = load_data(data)
    network = load_network(model, weights)
    out.mkdir(parents=True, exist_ok=True)
    targets = {name: out / name for name in ("model.onnx", "model.safetensors", "report.json")}
    for target in targets.values():
        check_writable(target)

    quantized = _quantized(network, inputs, labels, settings, qat_epochs, seed)
    plan = plan_of(quantized)
    console = Console(quiet=as_json)
    console.print(plan_table(plan))
    exported = export(quantized, targets["model.onnx"], verify=inputs, quiet=as_json)
    export(quantized, targets["model.safetensors"], quiet=True)
    accuracy = None
    if labels is not None:
        accuracy = {"float": _accuracy(network, inputs, labels), "quantized": _accuracy(quantized, inputs, labels)}
    report = {
        "accuracy": accuracy,
        "files": [str(target) for target in targets.values()],
        **plan_totals(plan),
        "notes": [*plan.notes, *exported.notes],
        "parity": None if exported.parity is None else exported.parity.to_dict(),
        "plan": plan.to_dict(),
    }
    text = json.dumps(report, indent=2)
    write_atomically(targets["report.json"], lambda file: file.write(text.encode()))
    if as_json:
        typer.echo(text)
    if accuracy is not None:
        console.print(f"on this data: float {accuracy['float']:.2f} %, quantized {accuracy['quantized']:.2f} %")
    for note in [*plan.notes, *exported.notes]:
        console.print(f"note: {note}", markup=False)
    console.print(f"wrote {', '.join(str(target) for target in targets.values())}")
    if exported.parity is not None and not exported.parity.passed:
        raise typer.Exit(1)


def _accuracy(network: Any, inputs: Any, labels: Any) -> float:
    """Share of correct classes in percent, on the data that was given."""
    import torch

    from model_compression_toolkit.core.pytorch.data import batches_of

    with torch.no_grad():
        classes = torch.cat([network(*batch).argmax(dim=1) for batch in batches_of(inputs)])
    return 100.0 * float((classes == torch.tensor(labels)).double().mean())


def _quantized(network: Any, inputs: Any, labels: Any, settings: Any, qat_epochs: int, seed: int) -> Any:
    import numpy as np
    import torch

    from model_compression_toolkit import FineTuning, fine_tune
    from model_compression_toolkit.core.pytorch.data import as_tensor
    from model_compression_toolkit.ptq.pytorch import quantization_facade as ptq
    from model_compression_toolkit.qat.pytorch import quantization_facade as qat

    if qat_epochs == 0:
        return ptq.quantize(network, inputs, settings)
    torch.manual_seed(seed)
    prepared = qat.prepare_qat(network, inputs, settings)
    samples = as_tensor(inputs)
    classes = None if labels is None else torch.tensor(labels.astype(np.int64))
    tuning = FineTuning(epochs=qat_epochs, batch_size=min(64, len(samples)), seed=seed)
    fine_tune(prepared, network, samples, classes, tuning)
    return qat.finalize(prepared)

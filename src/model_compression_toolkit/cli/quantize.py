# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`mct quantize`: the user's own network and data."""

import importlib
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

import model_compression_toolkit as mct
from mct_quantizers import _lazy
from model_compression_toolkit.cli.user_files import load_config, load_data
from model_compression_toolkit.core.common.report import plan_table, plan_totals
from model_compression_toolkit.exporter.common.parity import ParityReport


def quantize(
    model: Annotated[
        str,
        typer.Option(help="package.module:factory, a function that returns the float network; or a .keras file."),
    ],
    data: Annotated[Path, typer.Option(help="An .npz file with x and, for classes, y; or a folder of .npz or .npy.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    weights: Annotated[Path | None, typer.Option(help="Trained weights, a .safetensors state dict.")] = None,
    config: Annotated[Path | None, typer.Option(help="A JSON file with fields of QuantizationConfig.")] = None,
    bits: Annotated[str | None, typer.Option(help="Widths such as w4a4; stands above --config.")] = None,
    qat_epochs: Annotated[int, typer.Option(min=0, help="Epochs of training with quantization; 0 for none.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Quantize your own network with your own data, export it, and prove the export.

    A PyTorch network is written to .onnx and .safetensors; a Keras model to .onnx and .keras, and on the TensorFlow
    backend to .tflite.
    """
    is_keras = model.endswith(".keras")
    _lazy.import_optional("keras" if is_keras else "torch", needed_by="mct quantize")
    from mct_quantizers.common.files import check_writable, write_atomically

    settings = load_config(config, bits)
    inputs, labels = load_data(data)
    wing = importlib.import_module(f"model_compression_toolkit.cli.{'keras' if is_keras else 'pytorch'}_network")
    network = wing.load_network(model, weights)
    out.mkdir(parents=True, exist_ok=True)
    model_files = ("model.onnx", *wing.other_files())
    targets = {name: out / name for name in (*model_files, "report.json")}
    for target in targets.values():
        check_writable(target)

    if qat_epochs == 0:
        quantized = mct.quantize(network, inputs, settings)
    else:
        wing.set_seed(seed)
        prepared = mct.prepare_qat(network, inputs, settings)
        tuning = mct.FineTuning(epochs=qat_epochs, batch_size=min(64, len(inputs)), seed=seed)
        samples, classes = wing.samples(inputs, labels)
        mct.fine_tune(prepared, network, samples, classes, tuning)
        quantized = mct.finalize(prepared)
    plan = mct.plan_of(quantized)
    console = Console(quiet=as_json)
    console.print(plan_table(plan))
    parities: dict[str, ParityReport] = {}
    notes = list(plan.notes)
    for name in model_files:
        # The other files hold the model itself.
        verify = inputs if name.endswith((".onnx", ".tflite")) else None
        report = mct.export(quantized, targets[name], verify=verify, quiet=as_json or verify is None)
        notes += report.notes
        if report.parity is not None:
            parities[name] = report.parity
    accuracy = None
    if labels is not None:
        networks = {"float": network, "quantized": quantized}
        accuracy = {key: 100.0 * float(np.mean(wing.classes(net, inputs) == labels)) for key, net in networks.items()}
    litert = parities.get("model.tflite")
    result = {
        "accuracy": accuracy,
        "files": [str(target) for target in targets.values()],
        **plan_totals(plan),
        "notes": notes,
        "parity": parities["model.onnx"].to_dict(),
        "litert_parity": None if litert is None else litert.to_dict(),
        "plan": plan.to_dict(),
    }
    text = json.dumps(result, indent=2)
    write_atomically(targets["report.json"], lambda file: file.write(text.encode()))
    if as_json:
        typer.echo(text)
    if accuracy is not None:
        console.print(f"on this data: float {accuracy['float']:.2f} %, quantized {accuracy['quantized']:.2f} %")
    for note in notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"wrote {', '.join(str(target) for target in targets.values())}")
    if not all(parity.passed for parity in parities.values()):
        raise typer.Exit(1)

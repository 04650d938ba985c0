# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`mct quantize`: the user's own network and data."""

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import model_compression_toolkit as mct
from mct_quantizers import _lazy
from model_compression_toolkit.cli.accuracy import accuracy_of
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
    first_last_bits: Annotated[
        int | None,
        typer.Option(help="Another width for the first and last layers and what feeds them; stands above --config."),
    ] = None,
    qat_epochs: Annotated[int, typer.Option(min=0, help="Epochs of training with quantization; 0 for none.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Quantize your own network with your own data, export it, and prove the export.

    A PyTorch network is written to .onnx and .safetensors; a Keras model to .onnx and .keras, and on the TensorFlow
    backend to .tflite. Exit code 1 says that something failed, or that a file does not compute what the model computes.
    """
    is_keras = model.endswith(".keras")
    _lazy.import_optional("keras" if is_keras else "torch", needed_by="mct quantize")
    from mct_quantizers.common.files import check_writable, write_atomically

    settings = load_config(config, bits, first_last_bits)
    inputs, labels = load_data(data)
    wing = importlib.import_module(f"model_compression_toolkit.cli.{'keras' if is_keras else 'pytorch'}_network")
    network = wing.load_network(model, weights)
    out.mkdir(parents=True, exist_ok=True)
    model_files = ("model.onnx", *wing.other_files())
    targets = {name: out / name for name in (*model_files, "report.json")}
    for target in targets.values():
        check_writable(target)

    wing.set_seed(seed)
    quantized = (mct.prepare_qat if qat_epochs else mct.quantize)(network, inputs, settings)
    float_accuracy, why_not = accuracy_of(wing, network, inputs, labels)
    if qat_epochs:
        tuning = mct.FineTuning(epochs=qat_epochs, batch_size=min(64, len(inputs)), seed=seed)
        mct.fine_tune(quantized, network, inputs, None if why_not else labels, tuning)
        quantized = mct.finalize(quantized)
    plan = mct.plan_of(quantized)
    console = Console(quiet=as_json)
    console.print(plan_table(plan))
    # No report of another model stands beside these files, whatever happens from here on.
    targets["report.json"].unlink(missing_ok=True)
    parities, failures, more_notes = _export_all(quantized, [targets[name] for name in model_files], inputs, as_json)
    accuracy = None
    if float_accuracy is not None:
        quantized_accuracy, _ = accuracy_of(wing, quantized, inputs, labels)
        accuracy = {"float": float_accuracy, "quantized": quantized_accuracy}
    notes = [*plan.notes, *more_notes, *([why_not] if why_not else [])]
    litert = parities.get("model.tflite")
    result = {
        "proven": not failures,
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
    if failures:
        raise RuntimeError(" ".join(failures))


def _export_all(
    model: Any, targets: list[Path], inputs: Any, quiet: bool
) -> tuple[dict[str, ParityReport], list[str], list[str]]:
    """The comparisons by the names of the files, what failed, and notes."""
    parities: dict[str, ParityReport] = {}
    failures: list[str] = []
    notes: list[str] = []
    for target in targets:
        # The other files hold the model itself: compared as well, and told only where they differ.
        is_shown = target.suffix in (".onnx", ".tflite")
        try:
            report = mct.export(model, target, verify=inputs, quiet=quiet or not is_shown)
        except mct.ParityError as error:
            report = error.report
            failures.append(str(error).splitlines()[0])
        notes += report.notes
        if report.parity is not None:
            parities[target.name] = report.parity
    return parities, failures, notes

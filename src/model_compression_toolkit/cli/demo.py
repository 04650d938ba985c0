# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`mct demo`: the whole path on handwritten digits."""

import importlib
import json
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import model_compression_toolkit as mct
from mct_quantizers import _lazy
from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.exporter.common.export_report import ExportReport
from model_compression_toolkit.exporter.common.parity import ParityReport

FLOAT_EPOCHS = 120
QAT_EPOCHS = {"w4a4": 30, "w2a4": 30, "w2a2": 40}
FIRST_LAST_BITS = 8
"""The protocol of most papers on narrow networks: first and last layers, and what feeds them, stay wider."""


class Framework(StrEnum):
    """Of the demonstration's network."""

    PYTORCH = "pytorch"
    KERAS = "keras"


_DIGITS = {
    Framework.PYTORCH: "model_compression_toolkit.cli.digits",
    Framework.KERAS: "model_compression_toolkit.cli.keras_digits",
}
_LEGEND = (
    f"First and last layers, and what feeds them, have {FIRST_LAST_BITS} bits (first_last_bits={FIRST_LAST_BITS}).\n"
    "file: ONNX (float: weights as float32). packed: the frozen model as safetensors (PyTorch), LiteRT or .keras.\n"
    "Against the model on all held-out images: same class in ONNX Runtime as it comes; integer weights in the "
    "file; steps: largest difference of an activation's integer."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, for one seed.

    Attributes:
        model: name of the model.
        seed: of the split, the initial weights and the training.
        accuracy: on the held-out images, in percent.
        file_size: bytes of the ONNX file on disk; of the weights in float32 for float.
        frozen_size: bytes of the frozen model (safetensors, LiteRT or .keras); None for float.
        agreement: share of held-out images on which ONNX Runtime gives the class of the model; None for float.
        max_steps: largest difference of an activation's integer code in ONNX Runtime; None for float.
        weights_equal: whether every integer weight in the file is that of the model; None for float.
        proven: whether every file that was compared computes what the model computes; None for float.
        seconds: time to make the model.
    """

    model: str
    seed: int
    accuracy: float
    file_size: int
    frozen_size: int | None
    agreement: float | None
    max_steps: int | None
    weights_equal: bool | None
    proven: bool | None
    seconds: float


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the exported files.")] = Path("mct_demo"),
    seed: Annotated[int, typer.Option(help="Seed of the split and of the training.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on; the table shows the mean.")] = 1,
    float_epochs: Annotated[int, typer.Option(min=1, help="Epochs of the float training.")] = FLOAT_EPOCHS,
    framework: Annotated[Framework, typer.Option(help="Of the network.")] = Framework.PYTORCH,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Train a network in float, quantize it, fine-tune it at 4 and 2 bits, export it, and prove the export."""
    _lazy.import_optional("torch" if framework is Framework.PYTORCH else "keras", needed_by="mct demo")
    digits = importlib.import_module(_DIGITS[framework])
    out.mkdir(parents=True, exist_ok=True)
    console = Console(quiet=as_json)
    start = time.monotonic()
    rows: list[Row] = []
    for current in range(seed, seed + seeds):
        rows += _run(digits, current, out, float_epochs, console)
    seconds = time.monotonic() - start
    if as_json:
        typer.echo(json.dumps({"rows": [asdict(row) for row in rows], "seconds": seconds}, indent=2))
    else:
        console.print(_table(rows, seeds))
        console.print(_LEGEND)
        console.print(f"{seconds:.0f} s. The files are in {out}. Look into one: mct inspect {out / 'w4a4.onnx'}")
    if unproven := [f"{row.model} of seed {row.seed}" for row in rows if row.proven is False]:
        raise RuntimeError(f"A file does not compute what its model computes: {', '.join(unproven)}")


def _run(digits: Any, seed: int, out: Path, float_epochs: int, console: Console) -> list[Row]:
    """Every model of one seed."""
    images, labels, test_images, test_labels = digits.load_split(seed)
    console.print(f"[bold]seed {seed}[/]: {len(images)} training and {len(test_images)} held-out images of digits")
    start = time.monotonic()
    model = digits.train_float(images, labels, seed, float_epochs)
    size = digits.save_float(model, out).stat().st_size
    accuracy = digits.accuracy(model, test_images, test_labels)
    rows = [Row("float", seed, accuracy, size, None, None, None, None, None, time.monotonic() - start)]
    console.print(f"float: {accuracy:.2f} %")

    start = time.monotonic()
    quantized = mct.quantize(model, images, config_of("w8a8"))
    rows.append(_export(digits, "w8a8", seed, quantized, out, test_images, test_labels, start, console))
    for bits, epochs in QAT_EPOCHS.items():
        start = time.monotonic()
        prepared = mct.prepare_qat(model, images, config_of(bits))
        mct.fine_tune(prepared, model, images, labels, mct.FineTuning(epochs=epochs, seed=seed), digits.augment)
        rows.append(_export(digits, bits, seed, mct.finalize(prepared), out, test_images, test_labels, start, console))
    return rows


def config_of(bits: str) -> QuantizationConfig:
    """The widths of a model of the demonstration."""
    return QuantizationConfig.from_bits(bits, first_last_bits=FIRST_LAST_BITS)


def _export(
    digits: Any, name: str, seed: int, model: Any, out: Path, images: Any, labels: Any, start: float, console: Console
) -> Row:
    seconds = time.monotonic() - start
    accuracy = digits.accuracy(model, images, labels)
    report = _written(model, out / f"{name}.onnx", images)
    suffix = digits.packed_suffix()
    frozen = _written(model, out / f"{name}{suffix}", images if suffix == ".tflite" else None)
    if frozen.parity is not None:
        console.print(f"{name}{suffix}: passed={frozen.parity.passed}, same class: {_percent(frozen.parity)}")
    parity = report.parity
    if parity is None:
        raise RuntimeError("The exporter was asked to verify and returned no parity report.")
    if name == "w4a4":
        console.print(parity.render())
    console.print(f"{name}: {accuracy:.2f} %, {report.file_size / 1000:.0f} kB, passed={parity.passed}")
    activations = [t.max_steps for t in parity.tensors if t.target is QuantizationTarget.Activation]
    weights_equal = all(t.num_different == 0 for t in parity.tensors if t.target is QuantizationTarget.Weights)
    agreement = parity.default_session_argmax_agreement
    sizes = report.file_size, frozen.file_size
    proven = parity.passed and (frozen.parity is None or frozen.parity.passed)
    return Row(name, seed, accuracy, *sizes, agreement, max(activations), weights_equal, proven, seconds)


def _written(model: Any, path: Path, verify: Any) -> ExportReport:
    """What was exported, proven or not: the table of all models comes first."""
    try:
        return mct.export(model, path, verify=verify, quiet=True)
    except mct.ParityError as error:
        return error.report


def _percent(parity: ParityReport) -> str:
    return "–" if parity.argmax_agreement is None else f"{parity.argmax_agreement:.2%}"


def _table(rows: list[Row], seeds: int) -> Table:
    title = "Handwritten digits" + (f", mean of {seeds} seeds" if seeds > 1 else "")
    table = Table(title=title)
    headers = ("model", "accuracy %", "vs float", "file", "packed", "same class", "weights", "steps")
    for header in headers:
        table.add_column(header, justify="left" if header == "model" else "right")
    names = list(dict.fromkeys(row.model for row in rows))
    baseline = _mean([row.accuracy for row in rows if row.model == names[0]])
    for name in names:
        chosen = [row for row in rows if row.model == name]
        accuracy = _mean([row.accuracy for row in chosen])
        cells = [name, f"{accuracy:.2f}", f"{accuracy - baseline:+.2f}", f"{chosen[0].file_size / 1000:.0f} kB"]
        if chosen[0].frozen_size is None:
            cells += ["–", "–", "–", "–"]
        else:
            cells += [
                f"{chosen[0].frozen_size / 1000:.0f} kB",
                f"{100 * _mean([row.agreement or 0.0 for row in chosen]):.2f} %",
                "equal" if all(row.weights_equal for row in chosen) else "DIFFER",
                str(max(row.max_steps or 0 for row in chosen)),
            ]
        table.add_row(*cells)
    return table


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

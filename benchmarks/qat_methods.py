# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of every training method at several widths: writes JSON, and the table in docs/results.md.

Each method trains the weights and, where it can, the activations too (else LSQ does). All runs have the same data,
float network, loss (distillation), schedule and learning rate. What was run before with the same settings is taken from
the JSON file, so that an interrupted run goes on where it was.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import model_compression_toolkit as mct
from mct_quantizers.common.files import write_atomically
from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.cli import digits
from model_compression_toolkit.cli.demo import FLOAT_EPOCHS
from model_compression_toolkit.trainable_infrastructure.methods.method import method_class, registered_names

ROOT = Path(__file__).parents[1]
BITS = ("w4a4", "w3a3", "w2a2")
LEARNING_RATE = 1e-3
DEFAULT_EPOCHS = {"digits": 15, "cifar10": 4}


@dataclass(frozen=True)
class Task:
    """A float network and its data.

    Attributes:
        model: trained.
        images: for training.
        labels: classes of `images`.
        calibration: for calibration.
        augment: changes a batch at random.
        accuracy: of a model on the held-out images, in percent.
        batch_size: of training.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    calibration: Tensor
    augment: Callable[[Tensor, torch.Generator], Tensor]
    accuracy: Callable[[nn.Module], float]
    batch_size: int


def digits_task(seed: int, options: argparse.Namespace) -> Task:
    """Handwritten digits, a split of their own for each seed."""
    del options
    images, labels, test_images, test_labels = digits.load_split(seed)
    model = digits.train_float(images, labels, seed, FLOAT_EPOCHS)
    return Task(
        *(model, images, labels, images, digits.augment),
        accuracy=lambda model: digits.accuracy(model, test_images, test_labels),
        batch_size=digits.BATCH_SIZE,
    )


def cifar10_task(seed: int, options: argparse.Namespace) -> Task:
    """ResNet-20 on CIFAR-10; see examples/cifar10_resnet20.py for the two files."""
    sys.path.insert(0, str(ROOT / "examples"))
    import cifar10_resnet20 as example
    from safetensors.torch import load_file

    if options.images is None or options.weights is None:
        raise SystemExit("--dataset cifar10 needs --images and --weights")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (tensor.to(device) for tensor in example.load_images(options.images, "train"))
    test_images, test_labels = (tensor.to(device) for tensor in example.load_images(options.images, "test"))
    model = example.ResNet20().to(device).eval()
    model.load_state_dict(load_file(options.weights))
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: example.CALIBRATION_IMAGES]
    return Task(
        *(model, images, labels, images[chosen.to(device)], example.augment),
        accuracy=lambda model: example.accuracy(model, test_images, test_labels),
        batch_size=128,
    )


TASKS = {"digits": digits_task, "cifar10": cifar10_task}


def settings_of(method: str, steps: int) -> dict[str, Any]:
    """Schedules that fit the length of the training."""
    return {
        "DQA": {"steps": steps // 2},
        "GRADUAL": {"end": steps // 2},
        "SOFT_ROUNDING": {"steps": steps},
        "STOCHASTIC": {"end": steps // 2},
    }.get(method, {})


def train(task: Task, method: str, bits: str, epochs: int, seed: int) -> float:
    """Accuracy of the frozen model, in percent."""
    config = mct.QuantizationConfig.from_bits(bits, first_last_bits=8)
    weights, activations = method, method
    grids = method_class(method).supports
    if config.weights.method not in grids:
        # LSQ+ is for uniform grids; its weights are those of LSQ.
        weights = "LSQ"
    if config.activations.method not in grids:
        # Tables have a threshold.
        symmetric = dataclasses.replace(config.activations, method=mct.QuantizationMethod.SYMMETRIC)
        config = dataclasses.replace(config, activations=symmetric)
    if QuantizationTarget.Activation not in method_class(method).targets:
        activations = "LSQ"
    steps = epochs * (len(task.images) // task.batch_size)
    overrides = {
        f"{kind}_quantizer_params_override": settings_of(name, steps)
        for kind, name in (("weight", weights), ("activation", activations))
    }
    torch.manual_seed(seed)
    prepared = mct.prepare_qat(task.model, task.calibration, config, mct.QATConfig(weights, activations, **overrides))
    tuning = mct.FineTuning(epochs=epochs, learning_rate=LEARNING_RATE, batch_size=task.batch_size, seed=seed)
    mct.fine_tune(prepared, task.model, task.images, task.labels, tuning, task.augment)
    return task.accuracy(mct.finalize(prepared))


def table(runs: dict[str, dict[str, float]], bits: list[str], seeds: int) -> str:
    """Markdown: mean ± standard deviation over the seeds."""

    def cell(key: str) -> str:
        values = [run[key] for run in runs.values() if key in run]
        if len(values) < seeds:
            return f"{len(values)} of {seeds} seeds run"
        deviation = statistics.stdev(values) if seeds > 1 else 0.0
        return f"{statistics.mean(values):.2f} ± {deviation:.2f}"

    names = dict.fromkeys(key.split(" ")[0] for run in runs.values() for key in run if key != "float")
    lines = ["| method | " + " | ".join(width.upper() for width in bits) + " |", "|---" * (len(bits) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(cell(f"{name} {width}") for width in bits) + " |" for name in names]
    return "\n".join([f"Float: {cell('float')}.", "", *lines])


def put_into(document: Path, marker: str, text: str) -> None:
    """Replace what stands between the two comments that carry `marker`."""
    begin, end = f"<!-- begin {marker} -->", f"<!-- end {marker} -->"
    content = document.read_text(encoding="utf-8")
    head, found, rest = content.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{document} has no place for the table: {begin} … {end}")
    changed = f"{head}{begin}\n{text}\n{end}{tail}"
    write_atomically(document, lambda file: file.write(changed.encode()))


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=sorted(TASKS), default="digits")
    parser.add_argument("--images", type=Path, help="CIFAR-10 as .npz of JPEG files")
    parser.add_argument("--weights", type=Path, help="the float ResNet-20 as .safetensors")
    parser.add_argument("--methods", nargs="+", default=registered_names(), choices=registered_names())
    parser.add_argument("--bits", nargs="+", default=list(BITS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/qat_methods_<dataset>.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "results.md", help="document with the table")
    options = parser.parse_args()
    epochs = options.epochs or DEFAULT_EPOCHS[options.dataset]
    target = options.json or ROOT / "benchmarks" / "results" / f"qat_methods_{options.dataset}.json"
    settings = {"dataset": options.dataset, "epochs": epochs, "learning_rate": LEARNING_RATE}
    versions = {
        **{"torch": torch.__version__, "python": platform.python_version(), "mct": mct.__version__},
        "threads": torch.get_num_threads(),
    }
    runs: dict[str, dict[str, float]] = {}
    if target.is_file():
        former = json.loads(target.read_text(encoding="utf-8"))
        if former["settings"] == settings and former["versions"] == versions:
            runs = former["runs"]
    put_into(options.docs, marker := f"qat_methods {options.dataset}", "Being run.")
    target.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        run = runs.setdefault(str(seed), {})
        missing = [(m, b) for m in options.methods for b in options.bits if f"{m} {b}" not in run]
        if not missing:
            continue
        task = TASKS[options.dataset](seed, options)
        run["float"] = task.accuracy(task.model)
        for method, bits in missing:
            run[f"{method} {bits}"] = train(task, method, bits, epochs, seed)
            print(f"seed {seed} {method} {bits}: {run[f'{method} {bits}']:.2f}", flush=True)
            content = json.dumps({"settings": settings, "versions": versions, "runs": runs}, indent=2) + "\n"
            write_atomically(target, lambda file, content=content: file.write(content.encode()))
    runs = {seed: dict(sorted(run.items())) for seed, run in runs.items()}
    text = table(runs, options.bits, options.seeds)
    print(text)
    put_into(options.docs, marker, text)


if __name__ == "__main__":
    main()

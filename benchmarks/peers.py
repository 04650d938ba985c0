# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A training step at W4A4 over the step in float, ResNet-20: this project and other packages.

    make peers

Each row runs in a process of its own, where the step in float and the quantized one take turns; the packages that
share names with this project are in an environment of their own, `.venv-peers`. Rows quantize what their package
documents, so they show the number of quantizers with their widths: equal ratios are not equal work. The step in float
is the same work in every row: where its times differ much, something else ran, most harmfully with several threads.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peer_networks
import torch
from interleaved import environment, median_seconds
from networks import ResNet20, step_of
from peer_networks import Prepared
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
SEED, BATCH = 0, 128
MINUTES = 10
Prepare = Callable[[nn.Module, Tensor], Prepared]


@dataclass(frozen=True, slots=True)
class Row:
    """How a network is prepared, the packages whose versions matter, and what the numbers do not say."""

    prepare: Prepare
    packages: tuple[str, ...]
    note: str
    is_peer: bool = True


TOOLKIT = ("model-compression-toolkit", "mct-quantizers", "edge-mdt-cl")
OWN_TARGET = "target described here, batch norm folded"
ROWS = {
    "this project, LSQ": Row(peer_networks.project, ("quantizers-infrastructure",), "batch norm live", is_peer=False),
    "formula of LSQ in eager torch": Row(peer_networks.eager_lsq, (), "outputs of ReLU", is_peer=False),
    "model-compression-toolkit, STE": Row(peer_networks.model_compression_toolkit("STE"), TOOLKIT, OWN_TARGET),
    "model-compression-toolkit, LSQ": Row(peer_networks.model_compression_toolkit("LSQ"), TOOLKIT, OWN_TARGET),
    "brevitas": Row(peer_networks.brevitas, ("brevitas",), "input and outputs of ReLU, learned scales"),
    "nncf": Row(peer_networks.nncf, ("nncf",), "target NPU, pooling left out, learned scales"),
    "torchao": Row(peer_networks.torchao, ("torchao",), "linear layer only: no convolutions in torchao's QAT"),
}


def measure(name: str, repetitions: int) -> dict[str, Any]:
    """The row of `name`, times in ms."""
    row = ROWS[name]
    torch.manual_seed(SEED)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    model = ResNet20()
    prepared = row.prepare(ResNet20().eval(), images)
    steps = {kind: step_of(net, images, labels) for kind, net in (("float", model), ("QAT", prepared.network))}
    times = median_seconds(steps, repetitions)
    return {
        "QAT / float": times["QAT"] / times["float"],
        "float step, ms": 1e3 * times["float"],
        "weight quantizers of each width": Counter(prepared.weights),
        "activation quantizers of each width": Counter(prepared.activations),
        "note": row.note,
        "versions": {package: version(package) for package in ("torch", *row.packages)},
    }


def collect(name: str, python: Path, repetitions: int, threads: int) -> dict[str, Any]:
    """The row of `name` from a process of its own, or how it failed."""
    arguments = ["--run", name, "--repetitions", str(repetitions), "--threads", str(threads), "--json"]
    # `-E`: a PYTHONPATH that leads to this project would hide the package of the same name.
    command = [python, *(["-E"] if ROWS[name].is_peer else []), __file__, *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
        # Packages print to the same stream, before.
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"failed": first_line(error)}
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit status {done.returncode}"}
    return found


def first_line(error: Exception) -> str:
    """The class of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {' '.join(lines[0].split())}" if lines else type(error).__name__


def quantizers(counts: dict[str, int]) -> str:
    """As "18 × 4 bits, 2 × 8 bits"."""
    return ", ".join(f"{count} × {num_bits} bits" for num_bits, count in sorted(counts.items())) or "none"


def table(results: dict[str, dict[str, Any]]) -> str:
    """The rows as text, columns lined up."""
    rows = [("", "QAT / float", "float step, ms", "weight quantizers", "activation quantizers", "note")]
    for name, found in results.items():
        if "failed" in found:
            rows.append((name, "failed", "", "", "", found["failed"]))
            continue
        counts = (quantizers(found[f"{kind} quantizers of each width"]) for kind in ("weight", "activation"))
        rows.append((name, f"{found['QAT / float']:.2f}", f"{found['float step, ms']:.1f}", *counts, found["note"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    parser.add_argument("--run", choices=list(ROWS), metavar="NAME", help="measure one row in this process")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers/bin/python")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.run:
        try:
            found = measure(options.run, options.repetitions)
        except Exception as error:  # another package may raise anything; its row says so
            found = {"failed": first_line(error)}
        print(json.dumps(found) if options.json else table({options.run: found}))
        return
    results = {}
    for name in options.only:
        python = options.peers_python.absolute() if ROWS[name].is_peer else Path(sys.executable)
        results[name] = collect(name, python, options.repetitions, options.threads)
    where = {**environment(SEED), "batch": BATCH, "repetitions": options.repetitions}
    if options.json:
        print(json.dumps({**where, "results": results}, indent=2))
        return
    print(f"{where}, medians of interleaved repetitions\n{table(results)}")
    versions = {package: number for found in results.values() for package, number in found.get("versions", {}).items()}
    print("; ".join(f"{package} {number}" for package, number in versions.items()))


if __name__ == "__main__":
    main()

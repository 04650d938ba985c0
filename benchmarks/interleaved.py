# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: their options, taking turns, and telling what they found and where."""

import argparse
import ctypes
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Candidates = dict[str, Callable[[], object]]
# Seconds of a turn at least: a clock is a small part of it.
_SHORT = 5e-3


def median_seconds(candidates: Candidates, repetitions: int, warm_ups: int = 2) -> dict[str, float]:
    """Median time of each candidate; the candidates take turns, so that a slow moment of the machine hits all.

    Before its turn each runs untimed: none pays for memory that another has given back to the system, or that lies in
    no cache. A short one runs several times, untimed and then in its turn, and the mean of these counts.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repetition in range(repetitions + warm_ups):
        for name, run in candidates.items():
            runs = round(_SHORT / _seconds(run))
            if runs > 1:
                _seconds(run, runs)
            seconds = _seconds(run, max(1, runs))
            if repetition >= warm_ups:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(run: Callable[[], object], runs: int = 1) -> float:
    """Of one run, the mean of `runs`."""
    start = time.perf_counter()
    for _ in range(runs):
        run()
    return (time.perf_counter() - start) / runs


class PeakMemory:
    """How far the resident memory of this process rises above what it holds at the start, in MB (Linux)."""

    def __init__(self) -> None:
        gc.collect()
        # What is freed already goes back to the system: taken again, it counts.
        ctypes.CDLL(None).malloc_trim(0)
        # Sets the peak to what is held now.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _status("VmRSS")

    def read(self) -> float:
        """The rise so far."""
        return (_status("VmHWM") - self._before) / 1024


def _status(name: str) -> int:
    """A line of the process's status, in kB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def environment(seed: int) -> dict[str, Any]:
    """Versions, hardware and seed."""
    # Here, so that the rest runs where the project is not installed.
    import mct_quantizers

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__,
        "mct_quantizers": mct_quantizers.__version__,
        "python": platform.python_version(),
        "processor": models[0] if models else platform.processor(),
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


def options_of(description: str, repetitions: int | None) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes; without repetitions for None."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    if repetitions is not None:
        parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--json", action="store_true")
    return parser


def report(results: Mapping[str, Any], options: argparse.Namespace, seed: int, **more: Any) -> None:
    """Print what was found, numbers or numbers by name, and where: as JSON on request."""
    repetitions = vars(options).get("repetitions")
    where = {**environment(seed), **more} | ({} if repetitions is None else {"medians of": repetitions})
    if options.json:
        print(json.dumps({**where, "results": results}, indent=2))
        return
    print(where)
    for name, found in results.items():
        numbers = found if isinstance(found, Mapping) else {"": found}
        print(f"{name}: " + "; ".join(f"{what} {number:,.2f}".strip() for what, number in numbers.items()))

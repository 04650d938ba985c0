# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: taking turns, and telling where they ran."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mct_quantizers

Candidates = dict[str, Callable[[], object]]


def median_seconds(candidates: Candidates, repetitions: int, warm_ups: int = 2) -> dict[str, float]:
    """Median time of each candidate; the candidates take turns, so that a slow moment of the machine hits all."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repetition in range(repetitions + warm_ups):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if repetition >= warm_ups:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def environment(seed: int) -> dict[str, Any]:
    """Versions, hardware and seed."""
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

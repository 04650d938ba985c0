# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A step of quantization-aware training over the same step in float: W4A4, LSQ, weights per channel.

    python benchmarks/qat_step.py

The steps take turns in one process; peak memory is that of a process each, less what it holds before the first step.
"""

import multiprocessing
import time
from collections.abc import Callable

import torch
from interleaved import PeakMemory, median_seconds, options_of, report
from networks import ResNet20, VisionTransformer, mobile_net, step_of
from torch import Tensor, nn

import model_compression_toolkit as mct

SEED = 0


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-20": (ResNet20, 128),
    "MobileNetV2-like": (mobile_net, 64),
    "ViT-tiny": (VisionTransformer, 32),
}


def networks(name: str) -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """The float and the prepared network, images and labels."""
    torch.manual_seed(SEED)
    make, batch = MODELS[name]
    model, images, labels = make(), torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    prepared = mct.prepare_qat(model, images, mct.QuantizationConfig.from_bits("w4a4", first_last_bits=8))
    return {"float": model, "QAT": prepared}, images, labels


def peak_memory(name: str, kind: str, compiled: bool) -> float:
    """What the steps add to the resident memory of a process, in MB."""
    found, images, labels = networks(name)
    step = step_of(found[kind], images, labels, compiled)
    if compiled:
        # Compilers need memory of their own.
        step()
    memory = PeakMemory()
    for _ in range(3):
        step()
    return memory.read()


def seconds(step: Callable[[], object]) -> float:
    """Of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    """Run and print."""
    parser = options_of(__doc__, repetitions=9)
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--compiled", action="store_true", help="compile both networks with torch.compile")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    context = multiprocessing.get_context("spawn")
    for name in options.model:
        memory = {}
        for kind in ("float", "QAT"):
            with context.Pool(1) as pool:
                memory[kind] = pool.apply(peak_memory, (name, kind, options.compiled))
        found, images, labels = networks(name)
        steps = {kind: step_of(net, images, labels, options.compiled) for kind, net in found.items()}
        first = {kind: seconds(step) for kind, step in steps.items()}
        times = median_seconds(steps, options.repetitions)
        results[name] = {
            "time, QAT / float": times["QAT"] / times["float"],
            "float step, ms": 1e3 * times["float"],
            "first step, QAT, s": first["QAT"],
            "first step, float, s": first["float"],
            "memory, QAT / float": memory["QAT"] / memory["float"],
            "float step, MB": memory["float"],
        }
    report(results, options, SEED, compiled=options.compiled)


if __name__ == "__main__":
    main()

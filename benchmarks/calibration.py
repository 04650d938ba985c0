# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration of ResNet-20 on 1,000 images over plain inference of them, and the search of ranges.

    python benchmarks/calibration.py

`quantize` on all batches, less `quantize` on one of them, is what the other batches cost; they are set against plain
inference of the same batches. The search is `quantize` with the least squared error, less without a search. Memory is
how far the peak rises above that of inference, with 10 and with 40 batches.
"""

import dataclasses
import multiprocessing
from collections.abc import Iterator
from functools import partial

import torch
from interleaved import PeakMemory, median_seconds, options_of, report
from networks import ResNet20
from torch import Tensor, nn

import model_compression_toolkit as mct

SEED = 0
BATCHES, BATCH_SIZE = 40, 25
MSE = mct.QuantizationConfig()
NO_SEARCH = dataclasses.replace(
    MSE,
    weights=dataclasses.replace(MSE.weights, range_search=mct.RangeSearch.MIN_MAX),
    activations=dataclasses.replace(MSE.activations, range_search=mct.RangeSearch.MIN_MAX),
)


def batches(count: int) -> Iterator[Tensor]:
    """Images, made anew one batch after another."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(count):
        yield torch.randn(BATCH_SIZE, 3, 32, 32, generator=generator)


@torch.no_grad()
def infer(model: nn.Module, count: int) -> None:
    """Plain inference, as users write it."""
    for batch in batches(count):
        model(batch)


def calibrate(model: nn.Module, count: int, config: mct.QuantizationConfig) -> None:
    """The whole of post-training quantization."""
    mct.quantize(model, partial(batches, count), config)


def network() -> nn.Module:
    """ResNet-20 in evaluation mode, with statistics of these images."""
    torch.manual_seed(SEED)
    model = ResNet20().train()
    infer(model, 4)
    return model.eval()


def peak_memory(count: int) -> tuple[float, float]:
    """Of inference and of calibration, in MB."""
    model, peaks = network(), []
    for run in (partial(infer, model, count), partial(calibrate, model, count, NO_SEARCH)):
        memory = PeakMemory()
        run()
        peaks.append(memory.read())
    return peaks[0], peaks[1]


def main() -> None:
    """Run and print."""
    options = options_of(__doc__, repetitions=5).parse_args()
    model = network()
    times = median_seconds(
        {
            "inference": partial(infer, model, BATCHES - 1),
            "one batch": partial(calibrate, model, 1, NO_SEARCH),
            "one batch, search": partial(calibrate, model, 1, MSE),
            "all batches": partial(calibrate, model, BATCHES, NO_SEARCH),
        },
        options.repetitions,
        warm_ups=1,
    )
    results: dict[str, float] = {
        "calibration / inference": (times["all batches"] - times["one batch"]) / times["inference"],
        "inference, s": times["inference"],
        "prepared with one batch, s": times["one batch"],
        "search of least squared error, s": times["one batch, search"] - times["one batch"],
    }
    context = multiprocessing.get_context("spawn")
    for count in (10, BATCHES):
        with context.Pool(1) as pool:
            plain, calibrated = pool.apply(peak_memory, (count,))
        results[f"memory over inference, {count} batches, MB"] = calibrated - plain
    report(results, options, SEED)


if __name__ == "__main__":
    main()

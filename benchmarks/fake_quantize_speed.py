# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How fast fake quantization is: ratios of times, taken side by side."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import model_compression_toolkit as mct
from mct_quantizers.common import arithmetic
from mct_quantizers.pytorch import kernels, ops

SEED = 0


def seconds(candidates: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median time of each candidate; the candidates take turns, so that a slow moment of the machine hits all."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repetition in range(repetitions + 2):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if repetition >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def forward_and_backward(quantize: Callable[[Tensor, Tensor], Tensor], x: Tensor, scale: Tensor) -> None:
    x.grad = scale.grad = None
    quantize(x, scale).sum().backward()


def kernel_candidates(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(shape, generator=generator).requires_grad_()
    scale = torch.full((shape[0], *([1] * (len(shape) - 1))), 0.1).requires_grad_()
    zero = torch.zeros(shape[0])
    learned = partial(kernels.fake_quantize_learned, zero_point=None, quant_min=-8, quant_max=7)
    generic = partial(
        arithmetic.fake_quantize_learned, zero_point=None, quant_min=-8, quant_max=7, gradient_factor=1.0, ops=ops
    )

    def native(x: Tensor, scale: Tensor) -> Tensor:
        flat = scale.view(-1)
        return torch._fake_quantize_learnable_per_channel_affine(x, flat, zero, 0, -8, 7, 1.0)

    return {
        "fused": lambda: forward_and_backward(learned, x, scale),
        "torch's learnable operator": lambda: forward_and_backward(native, x, scale),
        "the formula through autograd": lambda: forward_and_backward(generic, x, scale),
    }


def training_candidates() -> dict[str, Callable[[], object]]:
    torch.manual_seed(SEED)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    images = torch.randn(64, 3, 32, 32)
    prepared = mct.prepare_qat(model, images, mct.QuantizationConfig.from_bits("w4a4"))

    def step(network: nn.Module) -> None:
        network.train()
        network.zero_grad(set_to_none=True)
        network(images).square().mean().backward()

    return {"QAT step": partial(step, prepared), "float step": partial(step, model)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    for shape in ((64, 64, 3, 3), (64, 32, 32, 32)):
        times = seconds(kernel_candidates(shape), options.repetitions)
        for other in list(times)[1:]:
            results[f"{shape}: {other} / fused"] = times[other] / times["fused"]
    times = seconds(training_candidates(), options.repetitions)
    results["training step, QAT / float"] = times["QAT step"] / times["float step"]
    versions = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    if options.json:
        print(json.dumps({**versions, "seed": SEED, "ratios": results}, indent=2))
        return
    print(f"{versions}, seed {SEED}, medians of {options.repetitions} interleaved repetitions")
    for name, ratio in results.items():
        print(f"{name}: {ratio:.2f}")


if __name__ == "__main__":
    main()

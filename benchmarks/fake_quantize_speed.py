# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How fast fake quantization is: times over the time in which the bytes that must move are copied.

    python benchmarks/fake_quantize_speed.py

The floor of a forward pass reads x and writes y; of forward and backward it also reads x and the gradient and writes
the gradient to x. It is measured by copies and additions of torch, into memory that is there (the strict one) and into
fresh memory, which every operator that returns a tensor has to take.
"""

from collections.abc import Callable
from functools import partial

import torch
from interleaved import Candidates, median_seconds, options_of, report
from torch import Tensor

from mct_quantizers.common import arithmetic
from mct_quantizers.pytorch import kernels, ops

SEED = 0
SIZES = {"64 kB": (16, 16, 8, 8), "1 MB": (64, 64, 8, 8), "4 MB": (64, 64, 16, 16), "16 MB": (64, 64, 32, 32)}
SIZES |= {"64 MB": (64, 256, 32, 32)}
LOW, HIGH = -8, 7
PARTS = ("forward", "forward and backward")

Quantize = Callable[[Tensor, Tensor], Tensor]


def quantizers(per_channel: bool, compiled: bool) -> dict[str, Quantize]:
    """The ways to compute one formula; torch's own operators round at some points to other codes."""
    learned = partial(kernels.fake_quantize_learned, zero_point=None, quant_min=LOW, quant_max=HIGH)
    formula = partial(
        arithmetic.fake_quantize_learned, zero_point=None, quant_min=LOW, quant_max=HIGH, gradient_factor=1.0, ops=ops
    )

    def own(x: Tensor, scale: Tensor) -> Tensor:
        flat, zero = scale.view(-1), torch.zeros(scale.numel())
        if per_channel:
            return torch._fake_quantize_learnable_per_channel_affine(x, flat, zero, 1, LOW, HIGH, 1.0)
        return torch._fake_quantize_learnable_per_tensor_affine(x, flat, zero, LOW, HIGH, 1.0)

    def straight_through(x: Tensor, scale: Tensor) -> Tensor:
        return learned(x, scale.detach())

    found: dict[str, Quantize] = {
        "LSQ": learned, "STE": straight_through, "torch's learnable operator": own, "formula, eager": formula,
    }  # fmt: skip
    if compiled:
        found["formula, compiled"] = torch.compile(formula, dynamic=False)
    return found


def ratios(shape: tuple[int, ...], per_channel: bool, compiled: bool, repetitions: int) -> dict[str, dict[str, float]]:
    """For each part the time of each way over both floors."""
    generator = torch.Generator().manual_seed(SEED)
    x, upstream = (torch.randn(shape, generator=generator) for _ in range(2))
    leaf = x.clone().requires_grad_()
    learned = torch.full((1, shape[1], 1, 1) if per_channel else (1,), 0.1).requires_grad_()
    y, to_x = torch.empty_like(x), torch.empty_like(x)

    def both(quantize: Quantize) -> None:
        leaf.grad = learned.grad = None
        quantize(leaf, learned).backward(upstream)

    def forward(quantize: Quantize) -> None:
        with torch.no_grad():
            quantize(x, learned)

    def moved_both() -> None:
        y.copy_(x)
        torch.add(x, upstream, out=to_x)

    def moved_both_fresh() -> None:
        x.clone()
        torch.add(x, upstream)

    floors: dict[str, Candidates] = {
        "forward": {"floor": partial(y.copy_, x), "floor, fresh memory": x.clone},
        "forward and backward": {"floor": moved_both, "floor, fresh memory": moved_both_fresh},
    }
    result: dict[str, dict[str, float]] = {}
    for part, run in zip(PARTS, (forward, both), strict=True):
        ways = quantizers(per_channel, compiled)
        if compiled and part == PARTS[0]:
            # Compiled anew where gradients are needed.
            torch.compiler.reset()
        candidates = floors[part] | {name: partial(run, way) for name, way in ways.items()}
        times = median_seconds(candidates, repetitions, warm_ups=3)
        result[part] = {
            f"{name} / {floor}": times[name] / times[floor]
            for name in ways
            for floor in ("floor", "floor, fresh memory")
        }
    return result


def main() -> None:
    """Run and print."""
    parser = options_of(__doc__, repetitions=15)
    parser.add_argument("--compiled", action="store_true", help="compare with torch.compile too (a minute)")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for size in options.sizes:
        for per_channel in (False, True):
            name = f"{size}, per {'channel' if per_channel else 'tensor'}"
            found = ratios(SIZES[size], per_channel, options.compiled, options.repetitions)
            results |= {f"{name}, {part}": numbers for part, numbers in found.items()}
    report(results, options, SEED)


if __name__ == "__main__":
    main()

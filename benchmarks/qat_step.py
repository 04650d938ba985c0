# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A step of quantization-aware training over the same step in float: W4A4, LSQ, weights per channel.

    python benchmarks/qat_step.py

The steps take turns in one process; peak memory is that of a process each, less what it holds before the first step.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleaved import PeakMemory, environment, median_seconds
from torch import Tensor, nn
from torch.nn import functional

import model_compression_toolkit as mct

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from cifar10_resnet20 import ResNet20

SEED = 0


class InvertedResidual(nn.Module):
    """The block of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Features of `x`."""
        return x + self.layers(x) if self.is_residual else self.layers(x)


def mobile_net() -> nn.Module:
    """Nine inverted residuals for images of 32×32."""
    widths = ((16, 1), (24, 1), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1), (96, 1))
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    inputs = 16
    for outputs, stride in widths:
        layers.append(InvertedResidual(inputs, outputs, stride))
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class Block(nn.Module):
    """Attention and a network of two layers, with their norms before them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of `x`, (N, tokens, width)."""
        query, key, value = self.to_qkv(self.first(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.join(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class VisionTransformer(nn.Module):
    """ViT-tiny: patches of 4×4, width 192, three heads, six blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 4, 4)
        self.blocks = nn.Sequential(*(Block(192, 3) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images (N, 3, 32, 32)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


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
    prepared = mct.prepare_qat(model, images, mct.QuantizationConfig.from_bits("w4a4"))
    return {"float": model, "QAT": prepared}, images, labels


def step_of(network: nn.Module, images: Tensor, labels: Tensor, compiled: bool) -> Callable[[], object]:
    """Forward, backward and an update by SGD."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9)
    run: Any = torch.compile(network, dynamic=False) if compiled else network

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(run(images), labels).backward()
        optimizer.step()

    return step


def peak_memory(name: str, kind: str, compiled: bool) -> float:
    """What the steps add to the resident memory of a process, in MB."""
    found, images, labels = networks(name)
    step = step_of(found[kind], images, labels, compiled)
    memory = PeakMemory()
    for _ in range(3):
        step()
    return memory.read()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--compiled", action="store_true", help="compile both networks with torch.compile")
    parser.add_argument("--json", action="store_true")
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
        times = median_seconds(steps, options.repetitions)
        results[name] = {
            "time, QAT / float": times["QAT"] / times["float"],
            "float step, ms": 1e3 * times["float"],
            "memory, QAT / float": memory["QAT"] / memory["float"],
            "float step, MB": memory["float"],
        }
    where = {**environment(SEED), "compiled": options.compiled}
    if options.json:
        print(json.dumps({**where, "results": results}, indent=2))
        return
    print(f"{where}, medians of {options.repetitions} interleaved repetitions")
    for name, numbers in results.items():
        print(f"{name}: " + "; ".join(f"{what} {number:.2f}" for what, number in numbers.items()))


if __name__ == "__main__":
    main()

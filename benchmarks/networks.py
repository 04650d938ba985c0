# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The networks that the benchmarks train, and a step of training; imports no package of the project."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))


@contextmanager
def empty_module(name: str) -> Iterator[None]:
    """An empty module under `name`, in place of what has it before and after."""
    before = sys.modules.get(name)
    sys.modules[name] = ModuleType(name)
    yield
    del sys.modules[name]
    if before is not None:
        sys.modules[name] = before


# The example imports the toolkit for its own run; beside the peers another package has that name.
with empty_module("model_compression_toolkit"):
    from cifar10_resnet20 import ResNet20

__all__ = ["ResNet20", "VisionTransformer", "mobile_net", "step_of"]


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
    """Blocks over patches of 4×4; ViT-tiny where nothing else is said."""

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 6, classes: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images (N, 3, 32, 32)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


def step_of(network: nn.Module, images: Tensor, labels: Tensor, compiled: bool = False) -> Callable[[], object]:
    """Forward, backward and an update by SGD."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9)
    run: Any = torch.compile(network, dynamic=False) if compiled else network

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(run(images), labels).backward()
        optimizer.step()

    return step

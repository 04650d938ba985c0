# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration's network and float training in PyTorch."""

import copy
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from model_compression_toolkit.cli import digits_data
from model_compression_toolkit.core.common.progress import track

Split = tuple[Tensor, Tensor, Tensor, Tensor]

WIDTH = 32
BATCH_SIZE = 64


def load_split(seed: int) -> Split:
    """Training images and labels, test images and labels: 70 and 30 percent, stratified.

    Images are float32 of shape (N, 1, 8, 8) in [0, 1], labels int64 of shape (N,).
    """
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, digits_data.load_split(seed))
    return train_images, train_labels, test_images, test_labels


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut: `relu(x + conv_bn(relu(conv_bn(x))))`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.relu1 = conv_bn(channels, channels), nn.ReLU()
        self.second, self.relu2 = conv_bn(channels, channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Features of the shape of `x`."""
        result: Tensor = self.relu2(self.second(self.relu1(self.first(x))) + x)
        return result


def conv_bn(inputs: int, outputs: int) -> nn.Sequential:
    """A 3×3 convolution and its batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))


def build_network() -> nn.Module:
    """A small residual network for images of shape (N, 1, 8, 8) and ten classes: 104,746 parameters."""
    return nn.Sequential(
        *(conv_bn(1, WIDTH), nn.ReLU()),
        *(conv_bn(WIDTH, WIDTH), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv_bn(WIDTH, 2 * WIDTH), nn.ReLU()),
        *(ResidualBlock(2 * WIDTH), nn.MaxPool2d(2), nn.Flatten()),
        nn.Linear(8 * WIDTH, 10),
    )


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by a pixel, rotate by 12 degrees, zoom by 12 percent, shear by 0.1, each at most, at random."""
    count, _, _, width = images.shape
    angle, slant, zoom_x, zoom_y, move_x, move_y = torch.rand(6, count, generator=generator) * 2 - 1
    angle, slant = angle * math.radians(12.0), slant * 0.1
    zoom_x, zoom_y = 1 + zoom_x * 0.12, 1 + zoom_y * 0.12
    move_x, move_y = move_x * 2 / width, move_y * 2 / width
    cos, sin = torch.cos(angle), torch.sin(angle)
    row_x = torch.stack([cos * zoom_x, (slant * cos - sin) * zoom_y, move_x], dim=1)
    row_y = torch.stack([sin * zoom_x, (slant * sin + cos) * zoom_y, move_y], dim=1)
    grid = functional.affine_grid(torch.stack([row_x, row_y], dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train_float(images: Tensor, labels: Tensor, seed: int, epochs: int) -> nn.Module:
    """A trained network, in evaluation mode: AdamW, one cycle, label smoothing, averaged weights of the last steps."""
    torch.manual_seed(seed)
    model = build_network()
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=_exponential_average, use_buffers=True)
    generator = torch.Generator().manual_seed(seed)
    steps = len(images) // BATCH_SIZE
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps, pct_start=0.2)
    model.train()
    for _ in track(range(epochs), "Training in float"):
        order = torch.randperm(len(images), generator=generator)[: steps * BATCH_SIZE]
        warped = augment(images, generator)
        for index in torch.split(order, BATCH_SIZE):
            loss = functional.cross_entropy(model(warped[index]), labels[index], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
    return copy.deepcopy(average.module).eval()


def save_float(model: nn.Module, folder: Path) -> Path:
    """The file with the weights of the float network."""
    path = folder / "float.safetensors"
    save_file(model.state_dict(), path)
    return path


def packed_suffix() -> str:
    """Of the small file of a frozen model."""
    return ".safetensors"


def _exponential_average(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    # A short memory at first, or the random start leaks into the average.
    keep = min(0.99, (int(count) + 1) / (int(count) + 10))
    return torch.lerp(current, average, keep) if average.is_floating_point() else current


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of correct classes in percent."""
    correct = (model(images).argmax(dim=1) == labels).double().mean()
    return 100.0 * float(correct)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that together hold every operator that can be quantized and exported."""

import torch
from torch import nn
from torch.nn import functional


def settle(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and factors that are not the initial ones; biases that are not zero."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, -1.0, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.eval()


class Images(nn.Module):
    """Two-dimensional operators: (N, 3, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.hardswish = nn.Hardswish()
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.grouped_norm = nn.BatchNorm2d(8)
        self.float_norm = nn.BatchNorm2d(8)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.up_norm = nn.BatchNorm2d(6)
        self.up_grouped = nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.relu(self.stem_norm(self.stem(x)))
        y = self.hardswish(self.depthwise(x))
        x = x + self.grouped_norm(self.grouped(y))
        x = self.float_norm(functional.max_pool2d(x, 2))
        x = torch.cat([functional.silu(x), functional.relu6(x)], 1)
        x = functional.gelu(self.narrow(x))
        x = x * torch.sigmoid(functional.adaptive_avg_pool2d(x, 1))
        x = functional.leaky_relu(self.up_norm(self.up(functional.avg_pool2d(x, 2))))
        x = self.up_grouped(x)
        x = self.flatten(self.pool(x * x))
        return self.head(x)


class Words(nn.Module):
    """Operators on sequences: (N, 6) indices to (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.norm = nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.shared = nn.Linear(16, 16)
        self.conv = nn.Conv1d(16, 12, 3, padding=1)
        self.conv_norm = nn.BatchNorm1d(12)
        self.up = nn.ConvTranspose1d(12, 8, 2, stride=2)
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, indices):
        x = self.norm(self.embedding(indices))
        scores = torch.matmul(self.query(x), self.key(x).transpose(1, 2)) / 4.0
        x = x + torch.softmax(scores, -1) @ self.value(x)
        x = functional.gelu(self.shared(x), approximate="tanh")
        x = torch.tanh(self.shared(x))
        x = functional.relu(self.conv_norm(self.conv(x.transpose(1, 2))))
        return self.head(self.up(x).mean(2))


class Volumes(nn.Module):
    """Three-dimensional operators: (N, 2, 4, 4, 4) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm3d(6)
        self.up = nn.ConvTranspose3d(6, 4, 2, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = functional.max_pool3d(functional.hardswish(self.norm(self.conv(x))), 2)
        return self.head(functional.silu(self.up(x)).mean((2, 3, 4)))


class Residual(nn.Module):
    """Batch norms in front of a residual addition, one of which makes a tensor of its own: (N, 3, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(8)
        self.left = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.left_norm = nn.BatchNorm2d(8)
        self.right = nn.Conv2d(8, 8, 1)
        self.right_norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = functional.relu(self.left_norm(self.left(x)) + self.right_norm(self.right(x)))
        return self.head(x.mean((2, 3)))


class Small(nn.Module):
    """Two layers: (N, 16) to (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.last = nn.Linear(32, 4)

    def forward(self, x):
        return self.last(functional.relu(self.first(x)))


class Branching(nn.Module):
    """Control flow that depends on the data; the layer `body` runs twice: (N, 16) to (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = functional.relu(self.body(self.body(x)))
        return self.last(x if x.sum() > -1.0 else -x)


def images(count=8):
    return torch.randn(count, 3, 8, 8)


def words(count=8):
    return torch.randint(0, 20, (count, 6))


def volumes(count=8):
    return torch.randn(count, 2, 4, 4, 4)


ZOO = {"images": (Images, images), "words": (Words, words), "volumes": (Volumes, volumes)}

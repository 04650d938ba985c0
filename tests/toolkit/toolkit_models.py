# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Small models, each with one thing that real models have, and inputs for them."""

import torch
from torch import nn
from torch.nn import functional


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def indices(*shape, high=10, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def images(size=16):
    return random(size, 3, 8, 8, seed=1)


class ConvBnRelu(nn.Sequential):
    def __init__(self, inputs=3, outputs=4, **arguments):
        super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1, **arguments), nn.BatchNorm2d(outputs), nn.ReLU())


def sequential():
    return nn.Sequential(ConvBnRelu(3, 4), ConvBnRelu(4, 6), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(24, 5))


class Residual(nn.Module):
    """Shortcut without a layer, or with a projection."""

    def __init__(self, project=False):
        super().__init__()
        self.stem = ConvBnRelu(3, 4)
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.project = nn.Conv2d(4, 4, 1) if project else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.project(x)))


def projection():
    return Residual(project=True)


class InPlaceResidual(Residual):
    def forward(self, x):
        x = self.stem(x)
        y = self.conv2(self.relu1(self.conv1(x)))
        y += self.project(x)
        return self.head(self.relu2(y))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        return self.head(torch.cat([functional.relu(self.left(x)), self.right(x)], dim=1))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x):
        x = functional.silu(self.conv(x))
        gate = torch.sigmoid(self.up(functional.relu(self.down(x.mean((2, 3))))))
        return self.head(x * gate[:, :, None, None])


class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(x)
        return self.second(x * x)


class Reused(Square):
    def __init__(self):
        super().__init__()
        self.middle, self.act = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x):
        x = self.act(self.first(x))
        return self.second(self.act(self.middle(self.act(self.middle(x)))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.head = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        scores = torch.matmul(self.query(x), self.key(x).transpose(1, 2)) / 6**0.5
        return self.head(torch.softmax(scores, dim=-1) @ self.value(x))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.positions, self.head = nn.Embedding(10, 6), nn.Embedding(5, 6), nn.Linear(6, 3)
        self.register_buffer("steps", torch.arange(5))

    def forward(self, x):
        return self.head((self.words(x) + self.positions(self.steps)).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class RecurrentState(Recurrent):
    def forward(self, x):
        _, (hidden, _) = self.lstm(x)
        return self.head(hidden[-1])


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0])


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.group, self.layer = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm(4)
        self.act, self.head = nn.PReLU(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(self.act(self.group(self.conv(x))).mean((2, 3))))


class SharedInPlace(nn.Module):
    """The sum sees the rectified tensor twice: the activation works in place."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(x)
        return self.second(self.act(x) + x)


class FunctionalConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(random(4, 3, 3, 3, seed=5))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(functional.relu(functional.conv2d(x, self.kernel)))


class TwoInputs(Square):
    def forward(self, x, y):
        return self.second(self.first(x) - torch.tanh(self.first(y)))


class TwoOutputs(Square):
    def forward(self, x):
        x = functional.relu(self.first(x))
        return {"classes": self.second(x), "features": x}


class SubclassedLinear(nn.Linear):
    """A layer of the user's own: traced through, as its `forward` may do anything."""


class Subclassed(Square):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"block": nn.Sequential(SubclassedLinear(6, 6), nn.Tanh())})

    def forward(self, x):
        return self.second(self.inner["block"](self.first(x)))


class Dropout(Square):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.second(functional.dropout(self.drop(functional.relu(self.first(x))), training=self.training))


class Upsample(nn.Module):
    def __init__(self, mode="nearest"):
        super().__init__()
        self.conv, self.up, self.head = nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode=mode), nn.Conv2d(4, 2, 1)
        self.mode = mode

    def forward(self, x):
        x = self.up(self.conv(x))
        return self.head(functional.interpolate(x, None, 2.0, self.mode))


def bilinear():
    return Upsample("bilinear")


class Chunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 6), nn.Linear(3, 2)

    def forward(self, x):
        left, right = self.first(x).chunk(2, dim=-1)
        return self.head(left * torch.sigmoid(right))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(functional.relu6(self.norm(self.up(x))))


ZOO = {
    "sequential": (sequential, lambda: (images(),)),
    "residual": (Residual, lambda: (images(),)),
    "projection": (projection, lambda: (images(),)),
    "in_place_residual": (InPlaceResidual, lambda: (images(),)),
    "concat": (Concat, lambda: (images(),)),
    "squeeze_excite": (SqueezeExcite, lambda: (images(),)),
    "square": (Square, lambda: (random(32, 4),)),
    "reused": (Reused, lambda: (random(32, 4),)),
    "attention": (Attention, lambda: (random(16, 5, 6),)),
    "words": (Words, lambda: (indices(32, 5),)),
    "recurrent": (Recurrent, lambda: (random(16, 7, 4),)),
    "recurrent_state": (RecurrentState, lambda: (random(16, 7, 4),)),
    "multi_head": (MultiHead, lambda: (random(16, 5, 6),)),
    "norms": (Norms, lambda: (images(),)),
    "shared_in_place": (SharedInPlace, lambda: (random(32, 4),)),
    "functional_conv": (FunctionalConv, lambda: (images(),)),
    "two_inputs": (TwoInputs, lambda: (random(32, 4), random(32, 4, seed=3))),
    "two_outputs": (TwoOutputs, lambda: (random(32, 4),)),
    "subclassed": (Subclassed, lambda: (random(32, 4),)),
    "dropout": (Dropout, lambda: (random(32, 4),)),
    "nearest": (Upsample, lambda: (images(),)),
    "bilinear": (bilinear, lambda: (images(),)),
    "chunk": (Chunk, lambda: (random(32, 4),)),
    "transposed": (Transposed, lambda: (images(),)),
}


def built(name):
    """A model of the zoo in evaluation mode, with worn batch norms, and a batch of its inputs."""
    make, inputs = ZOO[name]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(-1.5, 1.5)
                module.bias.normal_(0, 0.3)
    return model, inputs()


def flat(outputs):
    """One vector of all outputs."""
    return torch.cat([item.detach().flatten() for item in torch.utils._pytree.tree_leaves(outputs)])

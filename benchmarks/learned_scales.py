# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""In what form a learned scale is trained best: optimizers, learning rates and bits on digits; prints a table.

LSQ learns the scale as it is (`absolute`), in units of its own size (`relative`, as this package does), or as the
logarithm of its ratio to the start (`logarithm`). The gradients of the last two are such that plain gradient descent
moves the scale as in the first. STE, which learns no scale of weights, stands beside them. A cell has the accuracy in
percent after the first step and at the end, and how the scales of weights have grown, the median and the largest. What
was run before with the same settings is taken from the JSON file.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import environment
from networks import Block
from torch import Tensor, nn
from torch.nn import functional

import model_compression_toolkit as mct
from mct_quantizers.common import arithmetic, numpy_ops
from model_compression_toolkit.cli import digits
from model_compression_toolkit.trainable_infrastructure.methods.lsq import LSQ
from model_compression_toolkit.trainable_infrastructure.methods.method import GRIDS, Learned

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "AdamW decay 0.1": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1),
    "SGD": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}
RATES, BITS = (1e-4, 1e-3, 1e-2), (2, 3, 4, 8)
BATCH_SIZE = 64


class Absolute(LSQ, name="ABSOLUTE", supports=GRIDS):
    """LSQ of the scale as it is."""

    def parameters(self, params: Any, x_shape: Any) -> dict[str, Learned]:
        """See `Method.parameters`."""
        state = super().parameters(params, x_shape)
        return {**state, "scale": Learned(params.scale.astype(np.float32))}


class Logarithm(LSQ, name="LOGARITHM", supports=GRIDS):
    """LSQ of the logarithm of the scale over its start."""

    def parameters(self, params: Any, x_shape: Any) -> dict[str, Learned]:
        """See `Method.parameters`."""
        state = super().parameters(params, x_shape)
        start = Learned(params.scale.astype(np.float32), trainable=False)
        return {**state, "scale": start, "logarithm": Learned(np.zeros(params.scale.shape, np.float32))}

    def quantize(self, x: Any, learned: Mapping[str, Any], params: Any, ops: Any) -> Any:
        """See `Method.quantize`."""
        return super().quantize(x, {**learned, "scale": self._scale(learned, ops)}, params, ops)

    def freeze(self, learned: Mapping[str, Any], params: Any) -> Any:
        """See `Method.freeze`."""
        return super().freeze({**learned, "scale": self._scale(learned, numpy_ops)}, params)

    @staticmethod
    def _scale(learned: Mapping[str, Any], ops: Any) -> Any:
        scale = learned["scale"] * ops.exp(ops.stop_gradient(learned["logarithm"]))
        unit = arithmetic.in_units(learned["logarithm"], scale, ops)
        return arithmetic.with_gradient_of(scale, unit, ops)


METHODS = {"STE": "STE", "absolute": "ABSOLUTE", "relative": "LSQ", "logarithm": "LOGARITHM"}


class Transformer(nn.Module):
    """A vision transformer of width 48 on patches of 2×2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(1, 48, 2, 2), nn.Sequential(Block(48, 3), Block(48, 3))
        self.position = nn.Parameter(0.1 * torch.randn(1, 16, 48))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images (N, 1, 8, 8)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        scores: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return scores


def convolutions() -> nn.Module:
    """Three convolutions with batch norm."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 32)):
        layers += [digits.conv_bn(inputs, outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"convolutions": convolutions, "transformer": Transformer}


def batches(images: Tensor, labels: Tensor, steps: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Random batches."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.randint(len(images), (BATCH_SIZE,), generator=generator) for _ in range(steps)]
    return [(images[index], labels[index]) for index in chosen]


def trained_float(build: Callable[[], nn.Module], images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """A network after 800 steps of Adam."""
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for batch, classes in batches(images, labels, 800, seed):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch), classes).backward()
        optimizer.step()
    return model.eval()


def scales(model: nn.Module) -> Tensor:
    """Of all weights; NaN where training has left numbers that are not finite."""
    found = []
    for name, module in model.named_modules():
        if name.endswith("weight_quantizer"):
            try:
                found.append(module.params.scale)
            except ValueError:
                found.append(np.full(module.initial_params.scale.shape, np.nan))
    return torch.from_numpy(np.concatenate(found))


def train(
    model: nn.Module, method: str, bits: int, make: Callable[..., torch.optim.Optimizer], rate: float, data: Any
) -> dict[str, float]:
    """Accuracy in percent after the first step and at the end, and how scales of weights have grown."""
    images, labels, test_images, test_labels, steps, seed = data
    config = mct.QuantizationConfig.from_bits(f"w{bits}a{bits}")
    name = METHODS[method]
    torch.manual_seed(seed)
    prepared = mct.prepare_qat(model, images, config, mct.QATConfig(name, name))
    optimizer, before = make(prepared.parameters(), lr=rate), scales(prepared)
    first = float("nan")
    for step, (batch, classes) in enumerate(batches(images, labels, steps, seed + 1)):
        prepared.train()
        optimizer.zero_grad()
        functional.cross_entropy(prepared(batch), classes).backward()
        optimizer.step()
        if not step:
            first = digits.accuracy(prepared.eval(), test_images, test_labels)
    growth = scales(prepared) / before
    if growth.isnan().any():
        return {"first": first, "last": 0.0, "median": float("nan"), "largest": float("nan")}
    accuracy = digits.accuracy(prepared.eval(), test_images, test_labels)
    return {"first": first, "last": accuracy, "median": float(growth.median()), "largest": float(growth.max())}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "learned_scales.json")
    options = parser.parse_args()
    split = digits.load_split(options.seed)
    data = (*split, options.steps, options.seed)
    results: dict[str, dict[str, float]] = {}
    if options.json.is_file():
        former = json.loads(options.json.read_text(encoding="utf-8"))
        if (former["steps"], former["seed"], former["torch"]) == (options.steps, options.seed, torch.__version__):
            results = former["results"]
    print("| network, bits, optimizer, rate | " + " | ".join(METHODS) + " |\n|---" + "|---" * len(METHODS) + "|")
    for network, build in NETWORKS.items():
        model = trained_float(build, *split[:2], options.seed)
        results[f"{network} float"] = {"last": digits.accuracy(model, *split[2:])}
        print(f"| {network}, float | {results[f'{network} float']['last']:.2f} |" + " |" * (len(METHODS) - 1))
        for bits, (name, make), rate in product(BITS, OPTIMIZERS.items(), RATES):
            key = f"{network}, {bits}, {name}, {rate:g}"
            found = {
                method: results.get(f"{key}, {method}") or train(model, method, bits, make, rate, data)
                for method in METHODS
            }
            results |= {f"{key}, {method}": each for method, each in found.items()}
            cells = [f"{f['first']:.1f} {f['last']:.1f} ×{f['median']:.2f} ×{f['largest']:.1f}" for f in found.values()]
            print(f"| {key} | " + " | ".join(cells) + " |", flush=True)
            content = {**environment(options.seed), "steps": options.steps, "results": results}
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

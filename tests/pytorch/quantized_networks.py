# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantized models to save, and how to tell that one came back, shared by the tests of the wing."""

import copy
import json

import torch
from safetensors import safe_open
from torch import nn

from mct_quantizers import (
    PytorchActivationQuantizationHolder,
    PytorchFLNActivationQuantizationHolder,
    PytorchQuantizationWrapper,
)
from mct_quantizers.common import files
from mct_quantizers.pytorch import quantizers as q
from mct_quantizers.pytorch.load_model import pytorch_load_quantized_model as load
from mct_quantizers.pytorch.load_model import pytorch_save_quantized_model as save
from mct_quantizers.pytorch.metadata import add_metadata

THRESHOLDS, POWERS = [0.31, 1.3, 0.7, 0.9], [0.25, 2.0, 0.5, 1.0]
LEVELS = [-100.0, -25.0, 0.0, 30.0, 99.0]

WEIGHTS = {
    "pot": lambda n, *axis: q.WeightsPOTInferableQuantizer(4, POWERS[:n], *axis),
    "symmetric": lambda n, *axis: q.WeightsSymmetricInferableQuantizer(3, THRESHOLDS[:n], *axis),
    "uniform": lambda n, *axis: q.WeightsUniformInferableQuantizer(2, [-0.3, -0.1, 0.1, -2][:n], [0.7] * n, *axis),
    "lut_symmetric": lambda n, *axis: q.WeightsLUTSymmetricInferableQuantizer(3, LEVELS, THRESHOLDS[:n], *axis),
    "lut_pot": lambda n, *axis: q.WeightsLUTPOTInferableQuantizer(3, LEVELS, POWERS[:n], *axis),
}
ACTIVATIONS = {
    "pot": lambda: q.ActivationPOTInferableQuantizer(3, [2.0], signed=True),
    "symmetric": lambda: q.ActivationSymmetricInferableQuantizer(4, [1.3], signed=False),
    "uniform": lambda: q.ActivationUniformInferableQuantizer(4, [-1.01], [2.52]),
    "lut_pot": lambda: q.ActivationLutPOTInferableQuantizer(3, LEVELS, [2.0], signed=True),
}
# Layer, axis of four channels, input.
LAYERS = {
    "conv": (lambda: nn.Conv2d(3, 4, 3), 0, lambda: torch.randn(2, 3, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 2), 1, lambda: torch.randn(2, 3, 3, 3)),
    "linear": (lambda: nn.Linear(5, 4), -2, lambda: torch.randn(3, 5)),
    "embedding": (lambda: nn.Embedding(7, 4), 1, lambda: torch.randint(0, 7, (3, 2))),
}


def per_tensor(threshold=0.5):
    return q.WeightsSymmetricInferableQuantizer(4, threshold, False)


def wrapped(layer, **quantizers):
    return PytorchQuantizationWrapper(layer, quantizers or {"weight": per_tensor()})


def assert_same_model(loaded, saved, inputs):
    assert not any(module.training for module in loaded.modules())
    state, expected = loaded.state_dict(), saved.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value)
    assert [type(module) for module in loaded.modules()] == [type(module) for module in saved.modules()]
    with torch.no_grad():
        assert torch.equal(loaded(inputs), copy.deepcopy(saved).eval()(inputs))


def assert_round_trip(tmp_path, saved, architecture, inputs):
    """Through a file, into an architecture that stays as it was; back into a file with the same bytes."""
    path = save(saved, tmp_path / "model.safetensors")
    before = {key: value.clone() for key, value in architecture.state_dict().items()}
    modes = [module.training for module in architecture.modules()]
    loaded = load(path, architecture)
    assert_same_model(loaded, saved, inputs)
    after = architecture.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert [module.training for module in architecture.modules()] == modes
    assert save(loaded, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    return loaded


def stored(path):
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Identity()
        self.branches = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), nn.Identity())])

    def forward(self, x):
        x = self.act(torch.relu(self.norm(self.conv(x))))
        return sum(branch(x) for branch in self.branches)


class Network(nn.Module):
    """The float network: nested, with a block that is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.blocks = Block(), nn.ModuleDict({"a": Block()})
        self.again = self.first
        self.last = nn.Linear(3, 4)

    def forward(self, x):
        return self.last(self.again(self.blocks["a"](self.first(x))).mean((2, 3)))


def quantize_block(block):
    block.conv = wrapped(block.conv, weight=WEIGHTS["uniform"](3, True, 0), bias=per_tensor(0.3))
    block.act = PytorchFLNActivationQuantizationHolder(ACTIVATIONS["symmetric"](), quantization_bypass=True)
    block.branches[0] = wrapped(block.branches[0], weight=WEIGHTS["lut_symmetric"](1, False))
    block.branches[1][1] = PytorchActivationQuantizationHolder(ACTIVATIONS["uniform"]())


def quantized_network():
    model = Network()
    # Statistics of their own for the batch norms.
    model(torch.randn(8, 3, 6, 6) * 3 + 1)
    quantize_block(model.first)
    quantize_block(model.blocks["a"])
    model.last = wrapped(model.last, weight=WEIGHTS["pot"](4, True, 0))
    # Parameters that no constructor got, as after loading a state.
    with torch.no_grad():
        model.first.conv.weight_quantizer.scale.mul_(1.7)
        model.first.conv.weight_quantizer.zero_point.copy_(torch.tensor([0, 1, 3]))
        model.first.branches[0].weight_quantizer.threshold.mul_(0.3)
    model.first.branches[0].load_state_dict(model.first.branches[0].state_dict())
    return add_metadata(model, {"name": "net", "layers": [1, 2.5, {"three": True}]})


def images():
    return torch.randn(4, 3, 6, 6)


def simple():
    return nn.Sequential(wrapped(nn.Linear(3, 3)), PytorchFLNActivationQuantizationHolder(ACTIVATIONS["pot"]()))


def edit(path, change, sealed=True):
    """Rewrite a file of ours; `change` gets the header and the description of the quantizers as values."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    parts = {"header": json.loads(content[8:start]), "data": content[start:]}
    metadata = parts["header"]["__metadata__"]
    metadata["checksum"] = files.UNSEALED
    parts["quantizers"] = json.loads(metadata["quantizers"])
    change(parts)
    if isinstance(metadata, dict) and "quantizers" in parts and "quantizers" in metadata:
        metadata["quantizers"] = json.dumps(parts["quantizers"])
    text = json.dumps(parts["header"], separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    content = len(text).to_bytes(8, "little") + text + parts["data"]
    path.write_bytes(files.seal(content) if sealed else content)

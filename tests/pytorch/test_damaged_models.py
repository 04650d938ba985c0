# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""No file of a model, however damaged, foreign or hostile, is executed, loads half, or fails without its name."""

import copy
import os
import pickle
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from quantized_networks import (
    ACTIVATIONS,
    WEIGHTS,
    Network,
    assert_same_model,
    edit,
    images,
    quantized_network,
    simple,
    stored,
    wrapped,
)
from torch import nn

from mct_quantizers import PytorchActivationQuantizationHolder, PytorchFLNActivationQuantizationHolder
from mct_quantizers.common import files
from mct_quantizers.pytorch.load_model import pytorch_load_quantized_model as load
from mct_quantizers.pytorch.load_model import pytorch_save_quantized_model as save
from mct_quantizers.pytorch.metadata import add_metadata

# Foreign files.


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ""])
def test_a_pickle_is_refused_with_both_ways_out_and_never_executed(tmp_path, suffix):
    marker, path = tmp_path / "executed", tmp_path / f"model{suffix}"
    zipped = tmp_path / "zipped.pt"
    torch.save(Bomb(marker), zipped)
    torch.save(Bomb(marker), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    pickles = [pickle.dumps(Bomb(marker), protocol) for protocol in range(6)]
    for content in (zipped.read_bytes(), (tmp_path / "old.pt").read_bytes(), *pickles):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"(?s){path}.*`weights_only=False`.*`pytorch_save_quantized_model`"):
            load(path, simple())
    assert not marker.exists()
    # The bombs are live.
    with pytest.warns(UserWarning, match="executes the code"):
        load(zipped, weights_only=False)
    assert marker.exists()


def test_a_pickle_behind_the_header_of_safetensors_is_not_executed(tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "model.safetensors"
    content = pickle.dumps(Bomb(marker))
    edited = save(simple(), path).read_bytes()
    for hostile in (edited[:9] + content, edited + content, content[:8] + b"{" + content[8:]):
        path.write_bytes(hostile)
        with pytest.raises(ValueError, match=f"{path}"):
            load(path, simple(), weights_only=False)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_loads_only_when_asked_for_with_a_warning(tmp_path, zipped):
    saved, path = quantized_network().eval(), tmp_path / "model.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"Received: .*torch\.save"):
        load(path, Network())
    with pytest.warns(UserWarning, match=f"`weights_only=False` executes the code in {path}") as caught:
        loaded = load(path, weights_only=False, map_location="cpu")
    assert caught[0].filename == __file__
    inputs = images()
    assert torch.equal(loaded(inputs), saved(inputs))
    with pytest.raises(ValueError, match="`model` must be None for a pickled model"):
        load(path, Network(), weights_only=False)


def test_our_own_files_load_without_a_warning_whatever_weights_only_says(tmp_path):
    path, architecture = save(simple(), tmp_path / "model.safetensors"), nn.Sequential(nn.Linear(3, 3), nn.Identity())
    renamed = path.rename(tmp_path / "model.bin")
    assert torch.equal(load(renamed, architecture, weights_only=False)[0].weight, load(renamed, architecture)[0].weight)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(40), b"\x80\x04\x95" + bytes(40), b"<html>" * 9])
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_file_that_is_nothing_is_refused(tmp_path, content, weights_only):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(ValueError, match=f"Received: {path}"):
            load(path, weights_only=weights_only)


def test_other_files_of_safetensors_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    for metadata, message in ((None, "with format None"), ({"format": "pt"}, "with format 'pt'")):
        path.write_bytes(safetensors.torch.save({"weight": torch.zeros(3)}, metadata))
        with pytest.raises(ValueError, match=f"wrote .*Received: {path} {message}"):
            load(path, simple())


def test_a_frozen_model_of_the_toolkit_is_sent_there(tmp_path):
    toolkit = pytest.importorskip("model_compression_toolkit")
    from model_compression_toolkit.exporter import save_frozen

    frozen = toolkit.quantize(nn.Sequential(nn.Linear(4, 4)).eval(), torch.randn(8, 4))
    path = save_frozen(frozen, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{path}, a frozen model; load it with `model_compression_toolkit\.load\("):
        load(path)
    assert torch.equal(toolkit.load(path, nn.Sequential(nn.Linear(4, 4)))(torch.ones(4)), frozen(torch.ones(4)))


# Damaged and hostile files.


def hostile_sample():
    model = nn.Sequential(
        wrapped(nn.Linear(4, 4), weight=WEIGHTS["uniform"](4, True, 0), bias=WEIGHTS["lut_pot"](1, False)),
        PytorchFLNActivationQuantizationHolder(ACTIVATIONS["symmetric"]()),
        nn.Sequential(wrapped(nn.Linear(4, 4, bias=False), weight=WEIGHTS["pot"](1, False)), nn.BatchNorm1d(4)),
        PytorchActivationQuantizationHolder(ACTIVATIONS["lut_pot"]()),
    )
    model[0].convert_to_inferable_quantizers()
    model.append(model[2][0])
    return add_metadata(model, {"name": "sample"})


def hostile_architecture():
    inner = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    return nn.Sequential(nn.Linear(4, 4), nn.Identity(), inner, nn.Identity(), inner[0])


@pytest.fixture
def saved_sample(tmp_path):
    return save(hostile_sample(), tmp_path / "model.safetensors")


def damaged(content, generator):
    """`content` with one to three changes: flipped bytes, a cut, inserted or removed bytes, a part in another place."""
    changed = bytearray(content)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(generator.integers(1, 4)):
        # Half of the changes meet the header.
        position = int(generator.integers(0, (header, len(changed))[generator.integers(2)]))
        position = min(position, max(len(changed) - 1, 0))
        length = int(generator.integers(1, 64))
        kind = generator.integers(5)
        if kind == 0:
            changed[position : position + 1] = bytes([changed[position] ^ int(generator.integers(1, 256))])
        elif kind == 1:
            del changed[position + 1 :]
        elif kind == 2:
            changed[position:position] = generator.bytes(length)
        elif kind == 3:
            del changed[position : position + length]
        else:
            changed[position : position + length] = content[header - length : header]
        if not changed:
            break
    return bytes(changed)


def test_a_thousand_damaged_files_are_refused_by_name(saved_sample):
    content, generator, architecture = saved_sample.read_bytes(), np.random.default_rng(0), hostile_architecture()
    refused = 0
    for _ in range(1000):
        changed = damaged(content, generator)
        if changed == content:
            continue
        saved_sample.write_bytes(changed)
        with pytest.raises(ValueError, match=f"(?s)^.*{saved_sample}"):
            load(saved_sample, architecture)
        refused += 1
    assert refused > 950
    saved_sample.write_bytes(content)
    assert_same_model(load(saved_sample, architecture), hostile_sample_again(saved_sample), torch.randn(5, 4))


def hostile_sample_again(path):
    fresh = hostile_sample()
    fresh.load_state_dict(load(path, hostile_architecture()).state_dict())
    return fresh


def test_a_truncated_file_is_refused_at_every_length(saved_sample):
    content, architecture = saved_sample.read_bytes(), hostile_architecture()
    for length in range(len(content)):
        saved_sample.write_bytes(content[:length])
        with pytest.raises(ValueError, match=str(saved_sample)):
            load(saved_sample, architecture)


HOSTILE = [
    *(None, True, False, -1, 0, 1, 1.5, 1e308, 2**70, "", "x", "0", "weight", "holder", "forward", "__class__"),
    *([], {}, [[]], {"a": 1}, "../../x", [None], [1e308], [0.0], [float("nan")], "0.weight", "2.0", ["0", "0"], "a.b"),
    *("WeightsPOTInferableQuantizer", "PytorchQuantizationWrapper", "parameter", "F64", "I8", [4], [0, 64], [2**63]),
]


def places_of(value, place=()):
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places_of(item, (*place, key))


def mutate(parts, generator):
    """Replace, remove or rename one value in the header or in the description of the quantizers."""
    name = ("quantizers", "quantizers", "header")[generator.integers(3)]
    places = [place for place in places_of(parts[name]) if place or name == "quantizers"]
    parent, (*way, last) = parts, (name, *places[generator.integers(len(places))])
    for key in way:
        parent = parent[key]
    kind = generator.integers(4)
    if kind == 0 and way:
        del parent[last]
    elif kind == 1 and isinstance(parent, dict) and way:
        parent[str(HOSTILE[generator.integers(len(HOSTILE))])] = parent.pop(last)
    elif kind == 2 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[last]))
    else:
        parent[last] = copy.deepcopy(HOSTILE[generator.integers(len(HOSTILE))])


def test_a_thousand_files_with_hostile_values_and_a_right_checksum_are_refused_or_load(saved_sample):
    content, generator, inputs = saved_sample.read_bytes(), np.random.default_rng(0), torch.randn(5, 4)
    architecture = hostile_architecture()
    before = {key: value.clone() for key, value in architecture.state_dict().items()}
    loaded = 0
    for _ in range(1000):
        saved_sample.write_bytes(content)
        edit(saved_sample, lambda parts: mutate(parts, generator))
        try:
            model = load(saved_sample, architecture)
        except (ValueError, OSError) as error:
            assert str(saved_sample) in str(error)
        else:
            # Such as another value of the bypass.
            assert model(inputs).shape == (5, 4)
            loaded += 1
    assert 0 < loaded < 200
    assert list(architecture.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in architecture.state_dict().items())


def test_hostile_numbers_in_the_tensors_of_quantizers_are_refused(saved_sample):
    tensors, metadata = stored(saved_sample)
    values = (float("nan"), float("inf"), -1.0, 0.0, 1e38, 1e-45, 0.123)
    for key in ("0.weight_quantizer.scale", "0.bias_quantizer.threshold", "0.bias_quantizer.lut_values"):
        for value in values:
            changed = {**tensors, key: torch.full_like(tensors[key], value)}
            text = safetensors.torch.save(changed, {**metadata, "checksum": files.UNSEALED})
            saved_sample.write_bytes(files.seal(text))
            with pytest.raises(ValueError, match=f"The file {saved_sample} cannot be loaded"):
                load(saved_sample, hostile_architecture())


WRONG = {
    "version": (lambda parts: parts["header"]["__metadata__"].update(format_version="2"), "Expected version 1 .* '2'"),
    "no version": (lambda parts: parts["header"]["__metadata__"].pop("format_version"), "Expected version 1 .* None"),
    "no quantizers": (lambda parts: parts["header"]["__metadata__"].pop("quantizers"), "metadata of .* damaged"),
    "nesting": (
        lambda parts: parts["header"]["__metadata__"].update(model_metadata="[" * 100_000),
        "metadata of .* damaged: .*nested",
    ),
    "metadata of the model": (
        lambda parts: parts["header"]["__metadata__"].update(model_metadata="[]"),
        "damaged: `model_metadata` must be an object",
    ),
    "axis": (
        lambda parts: parts["quantizers"]["layers"][0]["quantizers"][1]["config"].update(channel_axis=7),
        r"quantizer of '0', weight 'weight', does not fit: `channel_axis`",
    ),
    "number of bits": (
        lambda parts: parts["quantizers"]["layers"][0]["quantizers"][1]["config"].update(num_bits=3),
        r"WeightsUniformInferableQuantizer \(weight 'weight'\) give different grids",
    ),
    "argument": (
        lambda parts: parts["quantizers"]["layers"][0]["quantizers"][1]["config"].update(device="cpu"),
        "cannot be made from its configuration: .*device",
    ),
    "bypass": (
        lambda parts: parts["quantizers"]["layers"][3].update(quantization_bypass=True),
        "`quantization_bypass` must be given for a holder that has it",
    ),
    "bypass that is missing": (
        lambda parts: parts["quantizers"]["layers"][1].pop("quantization_bypass"),
        "Received: None for a PytorchFLNActivationQuantizationHolder",
    ),
    "bypass of another type": (
        lambda parts: parts["quantizers"]["layers"][1].update(quantization_bypass="yes"),
        "damaged: `quantization_bypass` must be a boolean or null. Received: 'yes'",
    ),
    "two quantizers in a holder": (
        lambda parts: parts["quantizers"]["layers"][1]["quantizers"].extend(
            parts["quantizers"]["layers"][0]["quantizers"]
        ),
        r"`quantizers` of a holder cannot have the keys \[None, 'bias', 'weight'\]",
    ),
    "two quantizers of one weight": (
        lambda parts: parts["quantizers"]["layers"][0]["quantizers"][0].update(key="weight"),
        r"`quantizers` of a wrapper cannot have the keys \['weight', 'weight'\]",
    ),
    "quantizer of no weight": (
        lambda parts: parts["quantizers"]["layers"][0]["quantizers"][0].update(key=None),
        r"`quantizers` of a wrapper cannot have the keys \[None, 'weight'\]",
    ),
    "tensor of its own with another kind": (
        lambda parts: parts["quantizers"]["layers"][0].update(own_tensors={"step": "function"}),
        "damaged: 'function' is not a valid TensorKind",
    ),
    "shared tensor that is there": (
        lambda parts: parts["quantizers"]["shared"].update({"0.bias": "0.weight"}),
        "'0.bias' must be one under another name. Received: '0.weight'",
    ),
    "path twice": (
        lambda parts: parts["quantizers"]["layers"][1].update(paths=["0"]),
        "damaged: Each path must stand once",
    ),
    "tensor of its own": (
        lambda parts: parts["quantizers"]["layers"][0].update(own_tensors={"step": "parameter"}),
        "tensor '0.step' is missing",
    ),
    "name of a tensor of its own": (
        lambda parts: parts["quantizers"]["layers"][0].update(own_tensors={"weight_quantizer.scale": "buffer"}),
        "cannot hold a tensor called 'weight_quantizer.scale'",
    ),
    "shared tensor": (lambda parts: parts["quantizers"].update(shared={"a": "b"}), "'a' must be one .* Received: 'b'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_contradiction_in_a_file_is_named(saved_sample, name):
    change, message = WRONG[name]
    edit(saved_sample, change)
    with pytest.raises(ValueError, match=message):
        load(saved_sample, hostile_architecture())


def test_a_change_behind_the_back_of_the_checksum_is_refused(saved_sample):
    edit(saved_sample, lambda parts: parts["quantizers"]["layers"][1].update(quantization_bypass=True), sealed=False)
    with pytest.raises(ValueError, match=f"The file {saved_sample} is damaged: it was changed"):
        load(saved_sample, hostile_architecture())
    edit(saved_sample, lambda parts: None)
    assert load(saved_sample, hostile_architecture())[1].quantization_bypass is True

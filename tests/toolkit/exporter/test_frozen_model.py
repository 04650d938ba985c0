# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from export_networks import ZOO, Branching, Residual, Small, images, settle
from safetensors import safe_open
from torch import nn

import model_compression_toolkit as mct
from model_compression_toolkit.exporter import export, load, read_plan, save_frozen
from model_compression_toolkit.exporter.pytorch.frozen_model import read_codes


def same_model(loaded, saved, inputs):
    assert not any(module.training for module in loaded.modules())
    assert list(loaded.state_dict()) == list(saved.state_dict())
    assert mct.plan_of(loaded).to_dict() == mct.plan_of(saved).to_dict()
    with torch.no_grad():
        return torch.equal(loaded(inputs), saved.eval()(inputs))


def stored(path):
    with safe_open(path, framework="np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a8", "w2a2"])
@pytest.mark.parametrize("name", ZOO)
def test_a_loaded_model_computes_bit_by_bit_what_the_saved_one_did(tmp_path, name, bits):
    network, data = ZOO[name]
    model = mct.quantize(settle(network()), data(16), mct.QuantizationConfig.from_bits(bits))
    path = save_frozen(model, tmp_path / "model.safetensors")
    assert same_model(load(path, network()), model, data(8))


@pytest.mark.parametrize("batch_norm", ["live", "fold"])
def test_a_trained_model_survives_with_batch_norms_folded_at_the_end(tmp_path, batch_norm):
    data, labels = images(16), torch.randint(0, 5, (16,))
    config = mct.QuantizationConfig.from_bits("w4a4", batch_norm=batch_norm)
    model = mct.prepare_qat(settle(Residual()), data, config)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(3):
        nn.functional.cross_entropy(model(data), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    with pytest.raises(ValueError, match="finalize"):
        save_frozen(model, tmp_path / "model.safetensors")
    frozen = mct.finalize(model)
    path = save_frozen(frozen, tmp_path / "model.safetensors")
    assert same_model(load(path, Residual()), frozen, images(8))


def test_module_by_module_capture_survives(tmp_path):
    model = mct.quantize(Branching().eval(), torch.randn(16, 16), mct.QuantizationConfig.from_bits("w4a8"))
    assert mct.plan_of(model).capture is mct.CaptureMode.MODULES
    path = save_frozen(model, tmp_path / "model.safetensors")
    assert same_model(load(path, Branching()), model, torch.randn(8, 16))


NEW_PROCESS = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from export_networks import Residual
from model_compression_toolkit.exporter import load
inputs, outputs = torch.load(sys.argv[3], weights_only=True)
torch.set_num_threads(1)
with torch.no_grad():
    assert torch.equal(load(sys.argv[2], Residual())(inputs), outputs)
"""


def test_loading_in_a_new_process_gives_the_same_outputs(tmp_path):
    model = mct.finalize(mct.prepare_qat(settle(Residual()), images(16)))
    path, inputs = save_frozen(model, tmp_path / "model.safetensors"), images(8)
    with torch.no_grad():
        torch.save((inputs, model(inputs)), tmp_path / "expected.pt")
    arguments = [str(Path(__file__).parent), str(path), str(tmp_path / "expected.pt")]
    subprocess.run([sys.executable, "-W", "error", "-c", NEW_PROCESS, *arguments], check=True)


class Tied(nn.Module):
    """An embedding whose weight is read by a layer (`tie`) or by a function."""

    def __init__(self, tie):
        super().__init__()
        self.embedding, self.body, self.tie = nn.Embedding(10, 8), nn.Linear(8, 8), tie
        if tie:
            self.head = nn.Linear(8, 10, bias=False)
            self.head.weight = self.embedding.weight

    def forward(self, indices):
        x = torch.tanh(self.body(self.embedding(indices)))
        return self.head(x) if self.tie else nn.functional.linear(x, self.embedding.weight)


@pytest.mark.parametrize("tie", [True, False])
def test_weights_that_are_used_twice(tmp_path, tie):
    rules = (mct.Rule(name="head", weight_bits=3),) if tie else ()
    config = mct.QuantizationConfig.from_bits("w8a8", rules=rules)
    data = torch.randint(0, 10, (16, 4))
    model = mct.quantize(Tied(tie).eval(), data, config)
    path = save_frozen(model, tmp_path / "model.safetensors")
    assert same_model(load(path, Tied(tie)), model, data)
    assert ("embedding.weight" in stored(path)[0]) is not tie
    assert export(model, path, verify=data, quiet=True).parity.passed
    assert export(model, tmp_path / "model.onnx", verify=data, quiet=True).parity.passed


def test_a_layer_under_two_names_is_stored_once(tmp_path):
    class Alias(Small):
        def __init__(self):
            super().__init__()
            self.again = self.first

    config = mct.QuantizationConfig.from_bits("w4a8", capture="modules")
    model = mct.quantize(Alias().eval(), torch.randn(16, 16), config)
    path = save_frozen(model, tmp_path / "model.safetensors")
    assert [key for key in stored(path)[0] if key.endswith("codes")] == ["first.weight.codes", "last.weight.codes"]
    assert same_model(load(path, Alias()), model, torch.randn(8, 16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_survive_and_must_match(tmp_path, dtype):
    model = mct.quantize(Small().eval(), torch.randn(16, 16)).to(dtype)
    path = save_frozen(model, tmp_path / "model.safetensors")
    assert same_model(load(path, Small().to(dtype)), model, torch.randn(8, 16, dtype=dtype))
    with pytest.raises(ValueError, match=r"must be .* of torch\.float32\. Received: .* of " + str(dtype)):
        load(path, Small())


def test_a_dtype_that_cannot_hold_the_integers_is_refused(tmp_path):
    config = mct.QuantizationConfig.from_bits("w12a8", first_last_bits=None)
    model = mct.quantize(Small().eval(), torch.randn(16, 16), config).bfloat16()
    # Weights beyond the range take the last integer, whose value bfloat16 rounds to that of another one.
    model.first.weight.data.mul_(8)
    with pytest.raises(ValueError, match=r"model\.float\(\)"):
        save_frozen(model, tmp_path / "model.safetensors")


def test_low_bits_are_low_bits(tmp_path):
    sizes = {}
    for bits in (2, 4, 8):
        config = mct.QuantizationConfig.from_bits(f"w{bits}a8", first_last_bits=None)
        model = mct.quantize(Small().eval(), torch.randn(16, 16), config)
        path = save_frozen(model, tmp_path / f"{bits}.safetensors")
        sizes[bits] = sum(array.nbytes for key, array in stored(path)[0].items() if key.endswith(".codes"))
        assert sizes[bits] == (16 * 32 + 32 * 4) * bits // 8
        assert {key for key in stored(path)[0] if key.endswith("weight")} == set()
    assert sizes[4] <= 0.6 * sizes[8]


def test_saving_does_not_change_the_model_and_twice_gives_the_same_file(tmp_path):
    model = mct.quantize(Small().eval(), torch.randn(16, 16)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (save_frozen(model, tmp_path / f"{name}.safetensors") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    architecture = Small().train()
    loaded = load(first, architecture)
    assert architecture.training
    assert save_frozen(loaded, tmp_path / "c.safetensors").read_bytes() == first.read_bytes()


@pytest.fixture
def saved(tmp_path):
    model = mct.quantize(Small().eval(), torch.randn(16, 16), mct.QuantizationConfig.from_bits("w4a8"))
    return model, save_frozen(model, tmp_path / "model.safetensors")


def test_a_truncated_file_is_refused_at_every_length(saved):
    content = saved[1].read_bytes()
    lengths = {*range(0, 64), *range(64, len(content), 97), *range(len(content) - 16, len(content))}
    for length in sorted(lengths):
        saved[1].write_bytes(content[:length])
        for read in (lambda path: load(path, Small()), read_plan, read_codes):
            with pytest.raises(ValueError, match="whole"):
                read(saved[1])


def test_a_flipped_byte_is_refused_or_changes_nothing(saved):
    model, path = saved
    content, generator, inputs = path.read_bytes(), np.random.default_rng(0), torch.randn(4, 16)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for position in [*range(8), *generator.integers(8, header, 150)]:
        changed = bytearray(content)
        changed[position] ^= int(generator.integers(1, 256))
        path.write_bytes(changed)
        try:
            loaded = load(path, Small())
        except (ValueError, OSError):
            continue
        # What says nothing about the computation, such as shapes of activations, may change.
        assert loaded(inputs).shape == model(inputs).shape


HOSTILE = [None, True, -1, 0, 1.5, 1e308, 2**70, "", "x", [], {}, [[]], {"a": 1}, "../../x", [None], [1e308]]


def paths_of(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_of(item, (*path, key))


def rewrite(path, tensors=None, **metadata):
    arrays, old = stored(path)
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()} if tensors is None else tensors
    path.write_bytes(safetensors.torch.save(tensors, {**old, **metadata}))


def test_a_plan_with_hostile_values_is_refused_or_loads(saved):
    model, path = saved
    plan = json.dumps(mct.plan_of(model).to_dict())
    generator = np.random.default_rng(0)
    places = list(paths_of(json.loads(plan)))
    for index in generator.permutation(len(places))[:120]:
        changed = {"": json.loads(plan)}
        parent, place = changed, ("", *places[index])
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = HOSTILE[generator.integers(len(HOSTILE))]
        rewrite(path, quantization_plan=json.dumps(changed[""]))
        try:
            load(path, Small())
        except (ValueError, OSError):
            continue


def test_wrong_metadata_are_named(saved):
    path = saved[1]
    content = path.read_bytes()
    for metadata, message in (
        ({"format": "pt"}, "that `export` or `save_frozen` wrote"),
        ({"format_version": "2"}, "Expected version 1 of the format"),
        ({"quantization_plan": "{"}, "damaged"),
        ({"quantization_plan": "[" * 100_000}, "damaged"),
        ({"quantization_plan": '{"version": 99}'}, "version=99"),
        ({"weight_dtypes": "[]"}, "damaged"),
        ({"weight_dtypes": "{}"}, r"Received: .* of None"),
    ):
        path.write_bytes(content)
        rewrite(path, **metadata)
        with pytest.raises(ValueError, match=message):
            load(path, Small())


def test_wrong_tensors_are_named(saved):
    path = saved[1]
    content = path.read_bytes()
    tensors = {key: torch.from_numpy(array) for key, array in stored(path)[0].items()}
    codes = tensors["first.weight.codes"]
    for changes, message in (
        ({"first.weight.codes": codes[:-1].clone()}, "do not fit its shape"),
        ({"first.weight.codes": codes.to(torch.int16)}, "stored as bytes"),
        ({"first.weight.codes": None}, "lacks the tensors"),
        ({"other": codes.clone()}, "has no tensors"),
        ({"first.layer.bias": torch.zeros(31)}, r"must be \(32,\).*Received: \(31,\)"),
        ({"first.layer.bias": torch.zeros(32, dtype=torch.float64)}, "torch.float64"),
        ({"first.weight_quantizer.scale": tensors["first.weight_quantizer.scale"] * 2}, "another grid"),
        ({"first.weight_quantizer.scale": tensors["first.weight_quantizer.scale"] * -1}, "must be positive|damaged"),
    ):
        path.write_bytes(content)
        rewrite(path, {key: value for key, value in {**tensors, **changes}.items() if value is not None})
        with pytest.raises(ValueError, match=message):
            load(path, Small())


def test_foreign_files_are_refused_and_never_executed(tmp_path):
    target = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(target),)

    path = tmp_path / "model.safetensors"
    torch.save({"a": Bomb()}, tmp_path / "bomb.pt")
    foreign = safetensors.torch.save({"weight": torch.zeros(3)})
    contents = (pickle.dumps(Bomb()), (tmp_path / "bomb.pt").read_bytes(), b"", b"PK\x03\x04", b"{}" * 50, foreign)
    for content in contents:
        path.write_bytes(content)
        for read in (lambda path: load(path, Small()), read_plan):
            with pytest.raises(ValueError, match="Expected a"):
                read(path)
    assert not target.exists()
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors", Small())
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        load(tmp_path / "folder.safetensors", Small())
    with pytest.raises(ValueError, match=r"\.safetensors"):
        load(tmp_path / "model.onnx", Small())


class Renamed(Small):
    def __init__(self):
        super().__init__()
        self.second, self.last = self.last, None

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Wider(Small):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 33), nn.Linear(33, 4)


class Longer(Small):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(4, 4)

    def forward(self, x):
        return self.more(super().forward(x))


@pytest.mark.parametrize("network", [Renamed, Wider, Longer, Residual, Branching, nn.Identity])
def test_a_wrong_architecture_is_refused(saved, network):
    with pytest.raises(ValueError, match="`model`"):
        load(saved[1], network())


def test_wrong_arguments(saved, tmp_path):
    model, path = saved
    with pytest.raises(ValueError, match="quantized already"):
        load(path, model)
    with pytest.raises(TypeError, match="Module"):
        load(path, {})
    with pytest.raises(ValueError, match="without a plan"):
        save_frozen(Small(), path)
    with pytest.raises(ValueError, match=r"\.safetensors"):
        save_frozen(model, tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError):
        save_frozen(model, tmp_path / "none" / "model.safetensors")


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Odd(Small):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    config = mct.QuantizationConfig(capture="modules")
    model = mct.quantize(Odd().eval(), torch.randn(16, 16), config)
    with pytest.raises(ValueError, match="tensors only"):
        save_frozen(model, tmp_path / "model.safetensors")


def test_integers_are_one_call_away(saved):
    model, path = saved
    codes = read_codes(path)["first.weight"]
    expected = model.first.weight_quantizer.quantize(model.first.weight)
    np.testing.assert_array_equal(codes, expected.numpy())

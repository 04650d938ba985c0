# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Files that would hold a loader: each loader refuses them by name before it reads what they declare."""

import json
import os

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers import pytorch_load_quantized_model, pytorch_save_quantized_model


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


@pytest.fixture(scope="module")
def frozen():
    return mct.quantize(network(), torch.rand(16, 8))


def changed_header(path, change):
    """Let `change` edit the header of a .safetensors file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def grown(path, size):
    """Declare one more tensor, of `size` bytes of zeros that take no room."""
    content = path.read_bytes()
    end = len(content) - 8 - int.from_bytes(content[:8], "little")
    changed_header(path, lambda header: header.update(zeros=entry(end, size)))
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + size)


def entry(start, size):
    return {"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]}


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_pipes_are_refused(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    os.mkfifo(path)
    loads = [lambda: mct.read_plan(path)]
    if suffix == ".safetensors":
        loads += [lambda: mct.load(path, network()), lambda: pytorch_load_quantized_model(path, network())]
    for load in loads:
        with pytest.raises(OSError, match="must name a regular file"):
            load()


def test_sparse_files_of_eight_gigabytes_are_refused(frozen, tmp_path):
    path = tmp_path / "model.safetensors"
    mct.export(frozen, path, quiet=True)
    grown(path, 2**33)
    with pytest.raises(ValueError, match="bytes for `model`"):
        mct.load(path, network())
    pytorch_save_quantized_model(frozen, path)
    grown(path, 2**33)
    with pytest.raises(ValueError, match="bytes for `model`"):
        pytorch_load_quantized_model(path, network())
    onnx = tmp_path / "model.onnx"
    with onnx.open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(ValueError, match="bytes for a file that protobuf can hold"):
        mct.read_plan(onnx)


def in_plan(path, change):
    def edit(header):
        plan = json.loads(header["__metadata__"]["quantization_plan"])
        header["__metadata__"]["quantization_plan"] = change(plan)

    changed_header(path, edit)


def with_many_scales(plan):
    params = next(tensor["params"] for tensor in plan["tensors"] if tensor["params"])
    params.update(scale=[0.5] * 100_000, zero_point=[0] * 100_000)
    return json.dumps(plan)


def nested(plan):
    return json.dumps(plan)[:-1] + ',"more":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    ("change", "text"),
    [(with_many_scales, "`scale` must hold at most one number for each channel"), (nested, "nested too deeply")],
)
def test_plans_that_are_too_long_or_too_deep_are_refused_in_few_words(frozen, tmp_path, change, text):
    path = tmp_path / "model.safetensors"
    mct.export(frozen, path, quiet=True)
    in_plan(path, change)
    for load in (lambda: mct.read_plan(path), lambda: mct.load(path, network())):
        with pytest.raises(ValueError, match=text) as caught:
            load()
        assert len(str(caught.value)) < 2500


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[" * 100_000, "JSON"),
        (json.dumps({"rules": [{"name": "a{99999999999999999999}", "quantize": False}]}), "regular expression"),
        (json.dumps({"rules": [{"name": "(" * 5000 + ")" * 5000, "quantize": False}]}), "regular expression"),
    ],
    ids=["deep", "repetition", "groups"],
)
def test_configurations_that_cannot_be_read_are_refused(tmp_path, content, text):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=text):
        mct.QuantizationConfig.from_json(path)

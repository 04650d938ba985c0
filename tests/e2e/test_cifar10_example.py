# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The CIFAR-10 example runs from images in JPEG to a proven file; its accuracies stand in docs/results.md."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

SCRIPT = Path(__file__).parents[2] / "examples" / "cifar10_resnet20.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("cifar10_resnet20", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cifar10_resnet20"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cifar10_resnet20"]


def jpeg_arrays(part, pixels):
    files = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
        files.append(buffer.getvalue())
    return {
        f"{part}_jpeg": np.frombuffer(b"".join(files), np.uint8),
        f"{part}_offsets": np.cumsum([0, *map(len, files)]).astype(np.int64),
        f"{part}_labels": (np.arange(len(files)) % 10).astype(np.uint8),
    }


def test_example_writes_proven_files(example, tmp_path, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (160, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", **jpeg_arrays("train", pixels[:128]), **jpeg_arrays("test", pixels[128:]))
    torch.manual_seed(0)
    save_file(example.ResNet20().state_dict(), tmp_path / "weights.safetensors")
    arguments = {"images": "images.npz", "weights": "weights.safetensors", "out": "out"}
    options = [text for name, value in arguments.items() for text in (f"--{name}", str(tmp_path / value))]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--epochs", "1", "--batch-size", "32"])
    example.main()
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["results"]
    assert list(results) == ["float", "w8a8_after_training", "w4a4_after_training", "w4a4_qat"]
    for name, result in results.items():
        if name != "float":
            assert result["parity"]["passed"], name
            assert (tmp_path / "out" / f"{name}.onnx").stat().st_size == result["file_size"]
    assert results["w4a4_qat"]["file_size"] < 0.7 * results["w8a8_after_training"]["file_size"]
    assert "w4a4_qat" in capsys.readouterr().out


def test_augmentation_shifts_and_mirrors_without_changing_pixels(example):
    images = torch.randn(64, 3, 32, 32)
    changed = example.augment(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    # Whatever the shift of at most four pixels, the middle of the image is somewhere in the result, mirrored or not.
    middle = images[:, 0, 12:20, 12:20]
    for before, after in zip(middle, changed[:, 0], strict=True):
        windows = after.unfold(0, 8, 1).unfold(1, 8, 1)
        found = ((windows == before).all(-1).all(-1) | (windows == before.flip(1)).all(-1).all(-1)).any()
        assert found

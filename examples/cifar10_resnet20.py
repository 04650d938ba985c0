# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""ResNet-20 on CIFAR-10: from a trained float network to a verified 4-bit ONNX file.

    python examples/cifar10_resnet20.py --images cifar10_jpeg.npz --weights resnet20_cifar10.safetensors

`--images` is an .npz file with the images as JPEG: uint8 `train_jpeg` and `test_jpeg` (all files one after another),
int64 `train_offsets` and `test_offsets` (file i is `jpeg[offsets[i]:offsets[i + 1]]`), uint8 `train_labels` and
`test_labels`. `--weights` is the state dict of the network below. The first and the last layer have 8 bits, as in most
papers (`--first-last-bits`).
"""

import argparse
import io
import itertools
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import model_compression_toolkit as mct

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATION_IMAGES = 1024


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters (He et al. 2015, arXiv:1512.03385, section 4.2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Features at half the resolution where the stride is 2."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(out + x)


class ResNet20(nn.Module):
    """Three stages of three blocks with 16, 32 and 64 channels; 0.27 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 16, 1), BasicBlock(16, 16, 1))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32, 1), BasicBlock(32, 32, 1))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, shape (N, 10), of images of shape (N, 3, 32, 32)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.linear(torch.flatten(x, 1))


def load_images(path: Path, part: str) -> tuple[Tensor, Tensor]:
    """Normalized images, float32 (N, 3, 32, 32), and labels, int64 (N,), of the part "train" or "test"."""
    with np.load(path, allow_pickle=False) as file:
        jpeg, offsets = file[f"{part}_jpeg"].tobytes(), file[f"{part}_offsets"]
        labels = torch.from_numpy(file[f"{part}_labels"].astype(np.int64))
    pixels = [np.asarray(Image.open(io.BytesIO(jpeg[a:b]))) for a, b in itertools.pairwise(offsets)]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
    return images.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1)), labels


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to four pixels and mirror, at random."""
    count, _, height, width = images.shape
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    padded = black.to(images).view(1, 3, 1, 1).repeat(count, 1, height + 8, width + 8)
    padded[:, :, 4:-4, 4:-4] = images
    top, left = torch.randint(0, 9, (2, count), generator=generator).to(images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns) + left[:, None]
    rows = torch.arange(height, device=images.device)[None] + top[:, None]
    sample = torch.arange(count, device=images.device)
    return padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of correct classes in percent."""
    model.eval()
    correct = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return 100.0 * float(torch.stack(correct).sum()) / len(labels)


def options_of() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--bits", default="w4a4", help="widths of the QAT model")
    parser.add_argument(
        "--first-last-bits",
        type=int,
        default=8,
        help="width of the first and the last layer, as in most papers; as --bits with 0",
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batch-norm", default="auto", choices=[mode.value for mode in mct.BatchNorm])
    parser.add_argument("--label-weight", type=float, default=0.0, help="share of the labels in the loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("cifar10_out"))
    return parser.parse_args()


def main() -> None:
    """Float, W8A8 after training, and QAT at the chosen width; prints a table and writes ONNX files and a report."""
    options = options_of()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)

    images, labels = (tensor.to(options.device) for tensor in load_images(options.images, "train"))
    test_images, test_labels = (tensor.to(options.device) for tensor in load_images(options.images, "test"))
    model = ResNet20().to(options.device).eval()
    model.load_state_dict(load_file(options.weights))
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))[:CALIBRATION_IMAGES]
    calibration = images[chosen.to(images.device)]
    results = {"float": {"accuracy": accuracy(model, test_images, test_labels)}}
    print(f"float {results['float']['accuracy']:.2f} %", flush=True)

    unproven: list[str] = []

    def finish(name: str, quantized: nn.Module, start: float) -> None:
        seconds = time.monotonic() - start
        result = accuracy(quantized, test_images, test_labels)
        try:
            report = mct.export(quantized, options.out / f"{name}.onnx", verify=test_images[:1000].cpu())
        except mct.ParityError as error:
            # The numbers of the others are worth having; the exit code tells.
            report = error.report
            unproven.append(name)
        results[name] = {"accuracy": result, "seconds": seconds, "file_size": report.file_size}
        if report.parity is not None:
            results[name]["parity"] = report.parity.to_dict()
        print(f"{name} {result:.2f} % ({result - results['float']['accuracy']:+.2f}), {seconds:.0f} s", flush=True)

    start = time.monotonic()
    finish("w8a8_after_training", mct.quantize(model, calibration, mct.QuantizationConfig.from_bits("w8a8")), start)
    start = time.monotonic()
    config = mct.QuantizationConfig.from_bits(
        options.bits, first_last_bits=options.first_last_bits or None, batch_norm=options.batch_norm
    )
    finish(f"{options.bits}_after_training", mct.quantize(model, calibration, config), start)
    start = time.monotonic()
    prepared = mct.prepare_qat(model, calibration, config)
    tuning = mct.FineTuning(
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        label_weight=options.label_weight,
        seed=options.seed,
    )
    mct.fine_tune(prepared, model, images, labels, tuning, augment)
    finish(f"{options.bits}_qat", mct.finalize(prepared), start)

    report = {
        "arguments": {name: str(value) for name, value in vars(options).items() if name not in ("images", "weights")},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "mct": mct.__version__},
        "results": results,
    }
    (options.out / "results.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    if unproven:
        raise SystemExit(f"A file does not compute what its model computes: {', '.join(unproven)}")


if __name__ == "__main__":
    main()

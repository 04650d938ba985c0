# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What comes before and after training: prepare, finalize, export and load, with times and the rise of memory.

    python benchmarks/stages.py

ResNet-20, and a transformer of 100 million parameters (--large; a minute, 6 GB). Each stage runs once, in a fresh
process for each network: they are done once in a training. Export holds the proof in ONNX Runtime.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from interleaved import PeakMemory, options_of, report
from networks import ResNet20, VisionTransformer
from torch import nn

import model_compression_toolkit as mct

SEED = 0


# The transformer: 64 tokens, 100 million parameters.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-20": ResNet20,
    "transformer": partial(VisionTransformer, width=768, heads=12, depth=14, classes=1000),
}


def stages(name: str) -> dict[str, float]:
    """Seconds and MB of each stage of a network at W4A8."""
    torch.manual_seed(SEED)
    model, images = NETWORKS[name]().eval(), torch.randn(16, 3, 32, 32)
    result: dict[str, float] = {"parameters": sum(parameter.numel() for parameter in model.parameters())}

    def measured(stage: str, run: Callable[[], Any]) -> Any:
        memory, start = PeakMemory(), time.perf_counter()
        outcome = run()
        result[f"{stage}, s"], result[f"{stage}, MB"] = time.perf_counter() - start, memory.read()
        return outcome

    measured("plain inference", lambda: model(images))
    config = mct.QuantizationConfig.from_bits("w4a8", first_last_bits=8)
    prepared = measured("prepare", partial(mct.prepare_qat, model, images, config))
    frozen = measured("finalize", partial(mct.finalize, prepared))
    with tempfile.TemporaryDirectory() as folder:
        path, packed = Path(folder, "model.onnx"), Path(folder, "model.safetensors")
        few = images[:2]
        measured("export to ONNX", partial(mct.export, frozen, path, few, verify=few, quiet=True))
        measured("export to safetensors", partial(mct.export, frozen, packed, quiet=True))
        measured("load from safetensors", partial(mct.load, packed, model))
        result["ONNX file, MB"], result["safetensors, MB"] = (file.stat().st_size / 2**20 for file in (path, packed))
    return result


def main() -> None:
    """Run and print."""
    parser = options_of(__doc__, repetitions=None)
    parser.add_argument("--large", action="store_true", help="the transformer of 100 million parameters too")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for name in NETWORKS if options.large else ["ResNet-20"]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[name] = pool.apply(stages, (name,))
    report(results, options, SEED)


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The exported file in ONNX Runtime over the file of the float network: time of inference and size.

    python benchmarks/exported_file.py

ResNet-20, 100 images at once, random weights. Sessions take turns; `disable_quant_qdq` is the session option that keeps
float arithmetic around the integers (docs/results.md).
"""

import tempfile
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from interleaved import median_seconds, options_of, report
from networks import ResNet20

import model_compression_toolkit as mct

SEED, BATCH = 0, 100


def session(path: Path, options: dict[str, str] | None = None) -> onnxruntime.InferenceSession:
    """A session on as many threads as torch has."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    for name, value in (options or {}).items():
        settings.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def main() -> None:
    """Run and print."""
    options = options_of(__doc__, repetitions=15).parse_args()
    torch.manual_seed(SEED)
    model, images = ResNet20().eval(), torch.randn(BATCH, 3, 32, 32)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.onnx") for name in ("float", "w8a8", "w4a8")}
        torch.onnx.export(model, (images,), files["float"], dynamo=True, external_data=False, verbose=False)
        for bits in ("w8a8", "w4a8"):
            quantized = mct.quantize(model, images, mct.QuantizationConfig.from_bits(bits, first_last_bits=8))
            mct.export(quantized, files[bits], images, quiet=True)
        sessions = {name: session(path) for name, path in files.items()}
        float_arithmetic = {"session.disable_quant_qdq": "1"}
        sessions |= {f"{name}, disable_quant_qdq": session(files[name], float_arithmetic) for name in ("w8a8", "w4a8")}
        runs = {
            name: partial(found.run, None, {found.get_inputs()[0].name: images.numpy()})
            for name, found in sessions.items()
        }
        times = median_seconds(runs, options.repetitions)
        sizes = {name: path.stat().st_size for name, path in files.items()}
    results = {
        "time / float": {name: time / times["float"] for name, time in times.items()},
        "float, ms": 1e3 * times["float"],
        "size / float": {name: size / sizes["float"] for name, size in sizes.items()},
        "float, kB": sizes["float"] / 1000,
    }
    report(results, options, SEED, onnxruntime=onnxruntime.__version__)


if __name__ == "__main__":
    main()

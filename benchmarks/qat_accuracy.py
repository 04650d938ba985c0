# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy on handwritten digits of batch norm kept live during training against folded before it."""

import argparse
import json
import platform
import statistics

import torch

import model_compression_toolkit as mct
from model_compression_toolkit.cli import digits
from model_compression_toolkit.cli.demo import FLOAT_EPOCHS, QAT_EPOCHS

MODES = ("live", "fold")


def run(seed: int) -> dict[str, float]:
    images, labels, test_images, test_labels = digits.load_split(seed)
    model = digits.train_float(images, labels, seed, FLOAT_EPOCHS)
    results = {"float": digits.accuracy(model, test_images, test_labels)}
    for bits, epochs in QAT_EPOCHS.items():
        for mode in MODES:
            prepared = mct.prepare_qat(
                model, images, mct.QuantizationConfig.from_bits(bits, first_last_bits=8, batch_norm=mode)
            )
            mct.fine_tune(prepared, model, images, labels, mct.FineTuning(epochs=epochs, seed=seed), digits.augment)
            results[f"{bits} {mode}"] = digits.accuracy(mct.finalize(prepared), test_images, test_labels)
    return results


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = [run(seed) for seed in range(options.seeds)]
    versions = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    if options.json:
        print(json.dumps({**versions, "seeds": runs}, indent=2))
        return
    print(f"{versions}, seeds 0 to {options.seeds - 1}, accuracy in percent")
    for name in runs[0]:
        values = [result[name] for result in runs]
        print(f"{name}: {statistics.mean(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})")


if __name__ == "__main__":
    main()

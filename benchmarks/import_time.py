# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How long imports take.

    python benchmarks/import_time.py

Each runs in processes of its own, which take turns; the time of an empty program is taken off.
"""

import argparse
import json
import subprocess
import sys
from functools import partial

from interleaved import environment, median_seconds

PROGRAMS = {
    "nothing": "",
    "numpy": "import numpy",
    "torch": "import torch",
    "mct_quantizers": "import mct_quantizers",
    "model_compression_toolkit": "import model_compression_toolkit",
    "quantizers of PyTorch": "from mct_quantizers.pytorch.quantizers import WeightsPOTInferableQuantizer",
    "prepare_qat": "from model_compression_toolkit import prepare_qat",
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = {
        name: partial(subprocess.run, [sys.executable, "-c", program], check=True) for name, program in PROGRAMS.items()
    }
    times = median_seconds(runs, options.repetitions, warm_ups=1)
    seconds = {name: time - times["nothing"] for name, time in times.items() if name != "nothing"}
    where = environment(seed=0)
    if options.json:
        print(json.dumps({**where, "seconds": seconds}, indent=2))
        return
    print(f"{where}, medians of {options.repetitions} interleaved repetitions")
    for name, time in seconds.items():
        print(f"{name}: {time:.2f} s, {time / seconds['torch']:.2f} of torch")


if __name__ == "__main__":
    main()

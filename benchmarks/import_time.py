# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How long imports take.

    python benchmarks/import_time.py

Each runs in processes of its own, which take turns; the time of an empty program is taken off.
"""

import subprocess
import sys
from functools import partial

from interleaved import median_seconds, options_of, report

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
    options = options_of(__doc__, repetitions=7).parse_args()
    runs = {
        name: partial(subprocess.run, [sys.executable, "-c", program], check=True) for name, program in PROGRAMS.items()
    }
    times = median_seconds(runs, options.repetitions, warm_ups=1)
    seconds = {name: time - times["nothing"] for name, time in times.items() if name != "nothing"}
    results = {name: {"seconds": time, "of torch": time / seconds["torch"]} for name, time in seconds.items()}
    report(results, options, seed=0)


if __name__ == "__main__":
    main()

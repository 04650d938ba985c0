# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a lookup-table quantizer, in tensors of the size of its input, the input itself not counted.

    python benchmarks/lut_memory.py

runs every engine in a process of its own and prints one line of JSON for each. Linux: resident memory is sampled.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

NUM_ELEMENTS = 32 * 2**20
ENGINES = ("pytorch", "tensorflow", "tensorflow graph", "tensorflow jit", "jax", "jax jit", "torch")


def resident_bytes() -> int:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def measure(engine: str) -> dict[str, Any]:
    """Quantize one tensor on `engine`, its first word being the Keras backend, with the full 8-bit table."""
    backend, _, kind = engine.partition(" ")
    table = {"num_bits": 7, "lut_values": list(range(-128, 128, 2)), "threshold": [1.0], "signed": True}
    if backend == "pytorch":
        import torch

        from mct_quantizers import pytorch_quantizers

        call = pytorch_quantizers.ActivationLutPOTInferableQuantizer(**table)
        warm, x = torch.ones(1000), torch.ones(NUM_ELEMENTS)
    else:
        os.environ.update(KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3")
        import keras

        from mct_quantizers import keras_quantizers

        call = keras_quantizers.ActivationLutPOTInferableQuantizer(**table)
        if kind and backend == "tensorflow":
            import tensorflow as tf

            call = tf.function(call, jit_compile=kind == "jit")
        elif kind:
            import jax

            call = jax.jit(call)
        # Made in one piece: freed temporaries would hide what the call allocates.
        warm, x = keras.ops.ones((1000,)), keras.ops.ones((NUM_ELEMENTS,))
    call(warm)
    before = peak = resident_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident_bytes())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = call(x)
    if hasattr(output, "block_until_ready"):
        output.block_until_ready()
    done.set()
    watcher.join()
    return {"engine": engine, "peak_tensors": round((peak - before) / (4 * NUM_ELEMENTS), 2)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        for name in ENGINES:
            subprocess.run([sys.executable, __file__, name], check=True, stderr=subprocess.DEVNULL)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A step of quantization-aware training in Keras over the same step in float: ResNet-20, W4A4, LSQ.

    python benchmarks/keras_qat_step.py [--backend tensorflow jax torch]

Weights per channel, batch norm live, SGD, `jit_compile=True` where the backend has XLA. The steps take turns in one
process; each backend has a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from interleaved import environment, median_seconds

BACKENDS = ("tensorflow", "jax", "torch")
SEED, BATCH = 0, 128


def resnet20() -> Any:
    """ResNet-20 for images (32, 32, 3), shortcuts without parameters."""
    import keras
    from keras import layers

    def normalized(x: Any, filters: int, strides: int = 1) -> Any:
        return layers.BatchNormalization()(layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x))

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(normalized(inputs, 16))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if block == 0 and filters > 16 else 1
            y = normalized(layers.ReLU()(normalized(x, filters, strides)), filters)
            if strides == 2:
                x = layers.Permute((1, 3, 2))(layers.AveragePooling2D(1, 2)(x))
                x = layers.Permute((1, 3, 2))(layers.ZeroPadding2D(((0, 0), (filters // 4, filters // 4)))(x))
            x = layers.ReLU()(layers.Add()([y, x]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def measure(repetitions: int) -> dict[str, Any]:
    """Seconds of the first steps and the ratio of the others, on the backend that is set."""
    import keras
    import numpy as np

    import model_compression_toolkit as mct

    keras.utils.set_random_seed(SEED)
    backend = keras.config.backend()
    images = np.random.default_rng(SEED).normal(size=(BATCH, 32, 32, 3)).astype(np.float32)
    labels = np.random.default_rng(SEED).integers(0, 10, BATCH)
    model = resnet20()
    config = mct.QuantizationConfig.from_bits("w4a4", first_last_bits=8)
    networks = {"float": model, "QAT": mct.prepare_qat(model, images, config)}
    steps, first = {}, {}
    for kind, network in networks.items():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        network.compile(keras.optimizers.SGD(1e-4, 0.9), loss, jit_compile=backend != "torch")
        steps[kind] = lambda network=network: network.train_on_batch(images, labels)
        start = time.perf_counter()
        steps[kind]()
        first[kind] = time.perf_counter() - start
    times = median_seconds(steps, repetitions)
    return {
        **environment(SEED),
        "keras": keras.__version__,
        "backend": backend,
        "time, QAT / float": times["QAT"] / times["float"],
        "float step, ms": 1e3 * times["float"],
        "first step, QAT, s": first["QAT"],
        "first step, float, s": first["float"],
    }


def main() -> None:
    """Run each backend and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--here", action="store_true", help="run in this process, on the backend that is set")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.repetitions)))
        return
    for backend in options.backend:
        settings = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-W", "ignore", __file__, "--here", "--repetitions", str(options.repetitions)]
        subprocess.run(command, check=False, env=settings)


if __name__ == "__main__":
    main()

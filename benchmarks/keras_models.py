# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Real Keras models through the whole path: prepare, a training step, finalize, export with parity.

    python benchmarks/keras_models.py [--backend tensorflow] [--model MobileNetV2 ...]

Each model runs in a process of its own, with random weights (seed 0), on images of 96×96: ten patterns with noise. Of
random weights only the batch-norm statistics and the last layer are fitted to the images, so that there are classes
on which files can agree. Prints one line of JSON for each: seconds of each step, peak resident memory, parity. Linux.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE, SAMPLES, VERIFIED, CLASSES = 96, 20, 100, 10
APPLICATIONS = ("MobileNetV2", "ResNet50V2", "EfficientNetB0")
MODELS = (*APPLICATIONS, "ViT", "U-Net")


def vision_transformer() -> Any:
    """Patches of 8×8, four blocks of four heads, width 64."""
    import keras
    from keras import layers

    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Reshape((-1, 64))(layers.Conv2D(64, 8, strides=8)(inputs))
    for _ in range(4):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y)])
        y = layers.Dense(128, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Add()([x, layers.Dense(64)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x), name="vit")


def u_net() -> Any:
    """Three levels, transposed convolutions, one output of the size of the image."""
    import keras
    from keras import layers

    def block(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    inputs = keras.Input((SIZE, SIZE, 3))
    first = block(inputs, 16)
    second = block(layers.MaxPooling2D()(first), 32)
    x = block(layers.MaxPooling2D()(second), 64)
    for skip, filters in ((second, 32), (first, 16)):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = block(layers.Concatenate()([x, skip]), filters)
    return keras.Model(inputs, layers.Conv2D(2, 1)(x), name="u_net")


def build(name: str) -> Any:
    import keras

    if name in APPLICATIONS:
        application = getattr(keras.applications, name)
        return application(weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES, classifier_activation=None)
    return {"ViT": vision_transformer, "U-Net": u_net}[name]()


def patterns(count: int, seed: int) -> tuple[Any, Any]:
    """Images (count, 96, 96, 3) from about 0 to 255, and the class of each."""
    import numpy as np

    coarse = np.random.default_rng(0).normal(size=(CLASSES, SIZE // 8, SIZE // 8, 3))
    labels = np.arange(count) % CLASSES
    images = np.kron(coarse[labels], np.ones((1, 8, 8, 1)))
    images += 0.05 * np.random.default_rng(seed).normal(size=images.shape)
    return (128.0 + 50.0 * images).astype(np.float32), labels


def settle(model: Any, images: Any, labels: Any) -> None:
    """Let batch-norm statistics be those of the inputs, and the last dense layer tell the classes.

    Without the first, signals of random weights die out; without the second, the best classes nearly tie.
    """
    import keras
    import numpy as np

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    head = model.layers[-1]
    if isinstance(head, keras.layers.Dense):
        features = keras.ops.convert_to_numpy(keras.Model(model.inputs, head.input)(images, training=False))
        mean = features.mean(axis=0, dtype=np.float64)
        centred = features - mean
        # Ridge regression of the scores, by the kernel of the samples: there are more features than samples.
        kernel = centred @ centred.T
        wanted = 8.0 * (np.eye(CLASSES)[labels] - 1 / CLASSES)
        weights = centred.T @ np.linalg.solve(
            kernel + 0.01 * np.trace(kernel) / len(kernel) * np.eye(len(kernel)), wanted
        )
        head.set_weights([weights.astype(np.float32), (-mean @ weights).astype(np.float32)])


def exported(frozen: Any, batches: list[Any], suffix: str) -> dict[str, Any]:
    import model_compression_toolkit as mct

    with tempfile.TemporaryDirectory() as folder:
        try:
            start = time.perf_counter()
            report = mct.export(frozen, Path(folder, f"model{suffix}"), verify=batches, quiet=True)
        except mct.ParityError as error:
            report = error.report
        except ValueError as error:
            return {"refused": str(error).splitlines()[0]}
    parity = report.parity
    activations = [tensor for tensor in parity.tensors if tensor.target.value == "Activation"]
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "passed": parity.passed,
        "bytes": report.file_size,
        "different_weights": sum(t.num_different for t in parity.tensors if t not in activations),
        "different_activations": sum(t.num_different for t in activations) / sum(t.num_elements for t in activations),
        "max_steps": max(t.max_steps for t in activations),
        "same_class": parity.argmax_agreement,
    }


def measure(name: str, export: bool) -> dict[str, Any]:
    import keras
    import numpy as np

    import model_compression_toolkit as mct

    keras.utils.set_random_seed(0)
    images, _ = patterns(SAMPLES, seed=1)
    model = build(name)
    settle(model, *patterns(VERIFIED, seed=0))
    seconds: dict[str, float] = {}

    def timed(step: str, function: Any) -> Any:
        start = time.perf_counter()
        result = function()
        seconds[step] = round(time.perf_counter() - start, 1)
        return result

    prepared = timed("prepare", lambda: mct.prepare_qat(model, images, mct.QuantizationConfig.from_bits("w8a8")))
    targets = keras.ops.convert_to_numpy(model(images, training=False))
    prepared.compile(keras.optimizers.Adam(1e-5), "mse", jit_compile=keras.config.backend() == "jax")
    losses = [float(timed("first_step", lambda: prepared.train_on_batch(images, targets)))]
    losses.append(float(timed("step", lambda: prepared.train_on_batch(images, targets))))
    frozen = timed("finalize", lambda: mct.finalize(prepared))
    trained, final = (keras.ops.convert_to_numpy(net(images, training=False)) for net in (prepared, frozen))
    result = {
        "model": name,
        "backend": keras.config.backend(),
        "parameters": model.count_params(),
        "quantized_tensors": len(mct.plan_of(frozen).quantized()),
        "seconds": seconds,
        "losses": losses,
        "finalize_difference": float(np.abs(trained - final).max() / np.abs(trained).max()),
    }
    if export:
        others, classes = patterns(VERIFIED, seed=2)
        scores = keras.ops.convert_to_numpy(frozen(others, training=False))
        if scores.ndim == 2:
            result["right_class"] = float(np.mean(scores.argmax(axis=1) == classes))
        batches = list(others.reshape(-1, SAMPLES, *others.shape[1:]))
        result["onnx"] = exported(frozen, batches, ".onnx")
        if keras.config.backend() == "tensorflow":
            result["litert"] = exported(frozen, batches, ".tflite")
    result["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    result["versions"] = {"keras": keras.__version__, "mct": mct.__version__}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax", "torch"))
    parser.add_argument("--model", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--here", action="store_true", help="run in this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.model[0], arguments.backend == "tensorflow")))
        return
    environment = {**os.environ, "KERAS_BACKEND": arguments.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for name in arguments.model:
        command = [sys.executable, "-W", "ignore", __file__, "--backend", arguments.backend, "--here", "--model", name]
        subprocess.run(command, check=False, env=environment)


if __name__ == "__main__":
    main()

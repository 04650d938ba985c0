# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What `mct quantize` does with Keras models alone."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.untrusted import check_archive, check_is_file
from model_compression_toolkit.core.keras.data import batches_of
from model_compression_toolkit.core.keras.running import run_model

Array = npt.NDArray[Any]


def load_network(path: str, weights: Path | None) -> keras.Model:
    """The float model of a .keras file. No code of the file is run.

    Raises:
        ValueError: the file is damaged, or holds code (a Lambda layer); `weights` is given.
        OSError: there is no such file.
    """
    if weights is not None:
        raise ValueError(f"`--weights` must not be given with a .keras file, which has weights. Received: {weights}")
    check_is_file(Path(path), "--model")
    try:
        check_archive(Path(path))
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # damage shows in as many ways as a file has parts
        advice = ""
        if "ambda" in str(error):
            advice = " Replace Lambda layers by keras.ops functions or a layer class of your own that is registered."
        raise ValueError(f"`--model` must be a .keras file that loads in safe mode. {path}: {error}{advice}") from error


def other_files() -> tuple[str, ...]:
    """What is written beside the .onnx file."""
    return ("model.keras", "model.tflite") if keras.config.backend() == "tensorflow" else ("model.keras",)


def set_seed(seed: int) -> None:
    """Let the training be the same each time."""
    keras.utils.set_random_seed(seed)


def first_output(network: keras.Model, inputs: Array) -> Array | None:
    """The first output tensor for all inputs, shape (N, …); None where there is none."""
    found = [run_model(network, batch)[0] for batch in batches_of(inputs)]
    return np.concatenate(found) if all(item.ndim for item in found) else None

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the user names on the command line: data and a configuration. No file runs code."""

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.untrusted import check_is_file
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig

Array = npt.NDArray[Any]


def load_config(path: Path | None, bits: str | None, first_last_bits: int | None = None) -> QuantizationConfig:
    """The configuration of a JSON file, at the widths of `bits` and `first_last_bits` where given.

    Raises:
        OSError: the file cannot be read.
        ValueError: no configuration, or `bits` of another form.
    """
    config = QuantizationConfig() if path is None else QuantizationConfig.from_json(path)
    if first_last_bits is not None:
        config = dataclasses.replace(config, first_last_bits=first_last_bits)
    if bits is None:
        return config
    widths = QuantizationConfig.from_bits(bits)
    return dataclasses.replace(
        config,
        weights=dataclasses.replace(config.weights, num_bits=widths.weights.num_bits),
        activations=dataclasses.replace(config.activations, num_bits=widths.activations.num_bits),
    )


def load_data(path: Path) -> tuple[Array, Array | None]:
    """Inputs and, where there are any, labels.

    Args:
        path: an .npz file with the array `x` (or one array of any name) and optionally the integer classes `y`; or a
            folder of such files and of .npy files with inputs, joined in the order of their names.

    Returns:
        Inputs of shape (N, …) and labels of shape (N,) or None.

    Raises:
        OSError: a file cannot be read.
        ValueError: no data, no array `x`, labels for a part only, files that do not fit together.
    """
    if not path.exists():
        raise FileNotFoundError(f"`--data` must name a file or a folder. Received: {path}, which does not exist")
    files = sorted(item for item in path.iterdir() if item.suffix in (".npz", ".npy")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"`--data` must hold .npz or .npy files. Received: {path}, which has none")
    parts = [_load_arrays(file) for file in files]
    shapes = {inputs.shape[1:] for inputs, _ in parts}
    if len(shapes) != 1:
        raise ValueError(f"`--data` must hold samples of one shape. Received: {sorted(shapes)}")
    labels = [part for _, part in parts if part is not None]
    if labels and len(labels) != len(parts):
        raise ValueError(
            f"`--data` must have labels `y` in all files or in none. Received: in {len(labels)} of {len(parts)}"
        )
    inputs = np.concatenate([part for part, _ in parts])
    if len(inputs) == 0:
        raise ValueError(f"`--data` must hold at least one sample. Received: {path} with none")
    return inputs, np.concatenate(labels) if labels else None


def _load_arrays(path: Path) -> tuple[Array, Array | None]:
    check_is_file(path, "--data")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            is_array = isinstance(loaded, np.ndarray)
            arrays = {"x": loaded} if is_array else {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"`--data` must hold NumPy arrays of numbers. Received: {path} ({error})") from error
    labels = arrays.pop("y", None)
    if "x" not in arrays and len(arrays) != 1:
        raise ValueError(f"`--data` must hold the inputs as `x`. Received: {path} with {sorted(arrays)}")
    inputs = arrays.get("x", next(iter(arrays.values())))
    if inputs.ndim < 2 or not np.issubdtype(inputs.dtype, np.number):
        raise ValueError(f"`x` must hold numbers, shape (N, …). Received: {path}, shape {inputs.shape}, {inputs.dtype}")
    if labels is not None and (labels.shape != inputs.shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(
            f"`y` must hold one integer class for each of {len(inputs)} samples. "
            f"Received: {path}, shape {labels.shape}, {labels.dtype}"
        )
    return inputs, labels

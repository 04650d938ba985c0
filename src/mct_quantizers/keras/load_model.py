# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Loads quantized Keras models; nothing in a file is executed."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

from mct_quantizers.common.untrusted import check_archive, check_expansion, check_is_file, parse_json
from mct_quantizers.keras.metadata import METADATA_FILE, keep_metadata
from mct_quantizers.keras.quantizers.base import quantizer_classes

__all__ = ["keras_load_quantized_model"]


def keras_load_quantized_model(
    filepath: str | Path, custom_objects: Mapping[str, Any] | None = None, compile: bool = True, options: Any = None
) -> keras.Model:
    """Load a `.keras` file that holds quantizers, in Keras's safe mode.

    Our layers and quantizers are registered with Keras, so `keras.saving.load_model` reads the same file; this function
    also finds quantizer classes of the user's own by their names, restores `model.metadata`, and gives every kind of
    damage one kind of error.

    Args:
        filepath: the file, ending with .keras.
        custom_objects: other classes and functions by name; those that are registered with Keras come first.
        compile: whether to compile the model as it was when saved.
        options: not used by Keras 3; must be None.

    Returns:
        The model; with metadata, if the file has any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, a damaged one, one that holds code (a Lambda layer), or one with a class that
            nobody has imported.
    """
    path = Path(filepath)
    if options is not None:
        raise ValueError(f"`options` must be None: Keras 3 has no loading options. Received: options={options!r}")
    check_is_file(path, "filepath")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(
            "`filepath` must be a file in Keras 3's format, ending with '.keras'. "
            f"Received: {str(path)!r}. Load a .h5 file with keras.saving.load_model and save it as .keras."
        )
    try:
        check_archive(path)
        _check_weights(path)
        objects = {**quantizer_classes(), **(custom_objects or {})}
        model = keras.saving.load_model(path, custom_objects=objects, compile=compile, safe_mode=True)
        metadata = _metadata_of(path)
    except Exception as error:
        # Damage shows in as many ways as a file has parts: archive, JSON, HDF5, the constructor of any layer.
        raise ValueError(f"The file {path} cannot be loaded: {type(error).__name__}: {error}") from error
    if metadata is not None:
        keep_metadata(model, metadata)
    return model


def _check_weights(path: Path) -> None:
    """The arrays of an archive do not hold many times more than its own bytes."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".h5"):
                continue
            declared: list[int] = []
            with archive.open(entry) as stored, h5py.File(stored, "r") as weights:
                weights.visititems(
                    lambda _, item, sizes=declared: (
                        sizes.append(item.nbytes) if isinstance(item, h5py.Dataset) else None
                    )
                )
            check_expansion(entry.filename, entry.file_size, sum(declared))


def _metadata_of(path: Path) -> dict[str, Any] | None:
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.rpartition("/")[2] == METADATA_FILE]
        if not found:
            return None
        if len(found) > 1:
            raise ValueError(f"Expected one {METADATA_FILE} in the archive. Received: {found}")
        metadata = parse_json(archive.read(found[0]))
    if not isinstance(metadata, dict):
        raise TypeError(f"Expected an object in {METADATA_FILE}. Received: {type(metadata).__name__}")
    return metadata

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Saves and loads quantized PyTorch models; nothing in a file is executed, unless the user asks for it."""

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from mct_quantizers._version import __version__
from mct_quantizers.common import files
from mct_quantizers.common.constants import MCTQ_VERSION
from mct_quantizers.common.saved_model import SavedModel, check_plain
from mct_quantizers.common.untrusted import check_is_file, parse_json, shortened
from mct_quantizers.common.validation import checked_bool
from mct_quantizers.pytorch.model_description import (
    QuantizingLayer,
    describe_layers,
    max_state_bytes,
    stored_state,
)
from mct_quantizers.pytorch.model_rebuild import rebuild

__all__ = ["pytorch_load_quantized_model", "pytorch_save_quantized_model"]

FORMAT = "quantizers-infrastructure.quantized-model"
FORMAT_VERSION = "1"
QUANTIZERS_KEY = "quantizers"
METADATA_KEY = "model_metadata"


def pytorch_save_quantized_model(model: nn.Module, filepath: str | Path) -> Path:
    """Write a model with inferable quantizers to one .safetensors file; `pytorch_load_quantized_model` restores it.

    The file holds the state of the model (float weights as they are), the quantizers of every wrapper and holder, and
    `model.metadata` where `add_metadata` set one, but no code. The same model gives the same bytes. What was at
    `filepath` before stays whole until the new file is.

    Args:
        model: the model; it is not changed.
        filepath: the file, ending with .safetensors.

    Returns:
        The file that was written.

    Raises:
        TypeError: `model` is no `nn.Module`, or `filepath` no path.
        ValueError: another suffix; a quantizer that is trainable, or that its class and `get_config` do not restore; a
            state that is not all plain tensors; metadata that JSON cannot hold.
        OSError: the file cannot be written.
    """
    model, path = _checked_module(model), _checked_path(filepath)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"`filepath` must end with '.safetensors'. Received: {str(path)!r}")
    files.check_writable(path, "filepath")
    layers = describe_layers(model)
    tensors, shared = stored_state(model)
    metadata = {
        files.CHECKSUM_KEY: files.UNSEALED,
        files.FORMAT_KEY: FORMAT,
        files.FORMAT_VERSION_KEY: FORMAT_VERSION,
        MCTQ_VERSION: __version__,
        QUANTIZERS_KEY: SavedModel(layers, shared).to_json(),
    }
    model_metadata = getattr(model, "metadata", None)
    if isinstance(model_metadata, dict):
        check_plain("metadata", model_metadata)
        metadata[METADATA_KEY] = json.dumps(model_metadata, separators=(",", ":"))
    try:
        content = safetensors.torch.save(tensors, metadata)
    except (KeyError, SafetensorError) as error:
        raise ValueError(f"The state of `model` must be what .safetensors can hold. Received: {error}") from error
    content = files.seal(files.reproducible(content))
    return files.write_atomically(path, lambda file: file.write(content))


def pytorch_load_quantized_model(
    filepath: str | Path, model: nn.Module | None = None, *, weights_only: bool = True, **kwargs: Any
) -> Any:
    """Restore the model that `pytorch_save_quantized_model` wrote; nothing in the file is executed.

    Quantizers of the user's own are found by the name of their class, which must be imported.

    Args:
        filepath: the file.
        model: the architecture, trained or not, in the dtype that the result shall have; it is not changed. Where the
            saved model has a wrapper, it has the layer inside or a wrapper; where that has a holder, an `nn.Identity`
            or a holder. A wrapper of a function, or one with call arguments, must be there.
        weights_only: False loads a file that `torch.save` made of a whole model, and **executes the code in it**: only
            for files that you trust.
        **kwargs: `map_location`, the device of the result (a text, a number or a `torch.device`; by default the devices
            of `model`). For a file of `torch.save`, all arguments of `torch.load`.

    Returns:
        A new model in evaluation mode, which computes bit by bit what the saved one did, with the metadata of the file
        as `model.metadata`. For a file of `torch.save`, what it holds.

    Raises:
        TypeError: an argument of the wrong type, or unknown.
        ValueError: a file that is truncated, damaged, foreign or of another version, that does not fit `model`, or
            names a quantizer that is not imported; a file of `torch.save` without `weights_only=False`.
        OSError: the file cannot be read.
    """
    path = _checked_path(filepath)
    weights_only = checked_bool("weights_only", weights_only)
    check_is_file(path, "filepath")
    if not files.is_safetensors(path):
        if weights_only:
            raise ValueError(
                "`filepath` must be a .safetensors file that `pytorch_save_quantized_model` wrote. "
                f"Received: {path}, {files.describe(path)}. A whole model that `torch.save` wrote can be loaded with "
                "`weights_only=False`, which executes the code in the file: only if you trust it. Saved anew with "
                "`pytorch_save_quantized_model`, it is safe to load."
            )
        return _load_pickled(path, model, kwargs)
    device = _device_of(**kwargs)
    saved, metadata = _read(path, model)
    architecture = _checked_module(model)
    try:
        rebuilt = rebuild(architecture, saved, files.read_tensors(path, "pt"))
        if metadata is not None:
            _set_metadata(rebuilt, metadata)
    except ValueError as error:
        raise ValueError(f"The file {path} cannot be loaded: {shortened(error)}") from error
    return rebuilt.eval() if device is None else rebuilt.eval().to(device)


def _read(path: Path, model: nn.Module | None) -> tuple[SavedModel, dict[str, Any] | None]:
    """What a file says besides its tensors: the quantizers, and the metadata of the model."""
    metadata = files.read_metadata(path)
    file_format, version = metadata.get(files.FORMAT_KEY), metadata.get(files.FORMAT_VERSION_KEY)
    expected = f"Expected a file that `pytorch_save_quantized_model` wrote (format {FORMAT!r})"
    if file_format == files.FROZEN_FORMAT:
        remedy = "load it with `model_compression_toolkit.load(filepath, model)`"
        raise ValueError(f"{expected}. Received: {path}, a frozen model; {remedy}")
    if file_format != FORMAT:
        raise ValueError(f"{expected}. Received: {path} with format {file_format!r}")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"Expected version {FORMAT_VERSION} of the format. Received: {path} with version {version!r}, "
            f"written by version {metadata.get(MCTQ_VERSION)!r} of the package; this is {__version__!r}"
        )
    files.check_tensor_bytes(path, max_state_bytes(_checked_module(model)), "`model`")
    files.check_seal(path, metadata.get(files.CHECKSUM_KEY))
    try:
        saved = SavedModel.from_json(metadata.get(QUANTIZERS_KEY, ""))
        model_metadata = parse_json(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None
    except ValueError as error:
        raise ValueError(f"The metadata of {path} are damaged: {shortened(error)}") from error
    if not isinstance(model_metadata, dict | None):
        raise ValueError(f"The metadata of {path} are damaged: `{METADATA_KEY}` must be an object")
    return saved, model_metadata


def _set_metadata(model: nn.Module, metadata: dict[str, Any]) -> None:
    try:
        model.metadata = metadata  # type: ignore[assignment]  # torch types attributes as tensors and modules
    except (TypeError, AttributeError) as error:
        raise ValueError(f"`model` cannot hold `metadata`: {error}") from error


def _load_pickled(path: Path, model: nn.Module | None, kwargs: dict[str, Any]) -> Any:
    if model is not None:
        raise ValueError(
            f"`model` must be None for a pickled model, which brings its architecture. Received: {type(model).__name__}"
        )
    warnings.warn(
        f"`weights_only=False` executes the code in {path}: do this only with files that you trust.",
        UserWarning,
        stacklevel=3,
    )
    try:
        loaded = torch.load(path, weights_only=False, **kwargs)
    except (ModuleNotFoundError, AttributeError) as error:
        raise _foreign(path, error) from error
    except (pickle.UnpicklingError, EOFError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"`filepath` must be a file that `torch.load` reads. Received: {path} ({error})") from error
    for layer in loaded.modules() if isinstance(loaded, nn.Module) else ():
        # The names of these classes are older than this package, and others pickle something else under them.
        if isinstance(layer, QuantizingLayer) and "_takes_training" not in layer.__dict__:
            raise _foreign(path, f"its {type(layer).__name__} has another content")
    return loaded


def _foreign(path: Path, reason: object) -> ValueError:
    return ValueError(
        f"`filepath` must be a pickle of classes that are installed here. Received: {path} ({reason}). A model of "
        "other packages, or of the original of this one, comes over by its state: where it was made, save "
        "`model.state_dict()`; here, make the model and call `model.load_state_dict(state, strict=False)`"
    )


def _checked_module(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module. Received: {type(model).__name__}")
    return model


def _checked_path(filepath: object) -> Path:
    if not isinstance(filepath, (str, os.PathLike)):
        raise TypeError(f"`filepath` must be a path. Received: {filepath!r}")
    return Path(filepath)


def _device_of(map_location: Any = None, **unknown: Any) -> torch.device | None:
    if unknown:
        raise TypeError(f"A .safetensors file takes no argument but `map_location`. Received: {sorted(unknown)}")
    if map_location is None:
        return None
    if isinstance(map_location, bool) or not isinstance(map_location, (str, int, torch.device)):
        raise TypeError(f"`map_location` must be a device, for a .safetensors file. Received: {map_location!r}")
    try:
        device = torch.device(map_location)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`map_location` must be a device of this machine. Received: {map_location!r}") from error
    if device.type == "meta":
        raise ValueError(f"`map_location` must be a device that holds values. Received: {map_location!r}")
    return device

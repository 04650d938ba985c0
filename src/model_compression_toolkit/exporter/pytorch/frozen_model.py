# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A frozen model as one .safetensors file: packed integers, everything else of its state, and its plan."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

from mct_quantizers.common.files import (
    FORMAT_KEY,
    FORMAT_VERSION_KEY,
    FROZEN_FORMAT,
    check_tensor_bytes,
    check_writable,
    read_tensors,
    reproducible,
    write_atomically,
)
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import IntArray
from mct_quantizers.common.untrusted import parse_json
from mct_quantizers.pytorch.grid_state import grid_keys
from mct_quantizers.pytorch.model_description import max_state_bytes, plain_tensor
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.pytorch.surgery import quantizer_of
from model_compression_toolkit.core.pytorch.unwrapping import unwrapped
from model_compression_toolkit.exporter.common.format import ExportFormat, format_of
from model_compression_toolkit.exporter.common.inspect import (
    FROZEN_FORMAT_VERSION,
    plan_metadata,
    plan_of_metadata,
    read_safetensors_plan,
    safetensors_metadata,
)
from model_compression_toolkit.exporter.pytorch.frozen import (
    frozen_plan,
    own_quantized,
    params_of,
    weight_from_codes,
    weight_of,
)
from model_compression_toolkit.exporter.pytorch.packed_weights import pack_weight, packable_weights, unpack_weight
from model_compression_toolkit.exporter.pytorch.rebuild import rebuild

__all__ = ["load_frozen", "read_codes", "read_stored", "save_frozen"]

CODES_SUFFIX = ".codes"
DTYPES_KEY = "weight_dtypes"
SHARED_KEY = "shared_tensors"
"""Where the metadata say, as JSON, which tensors are stored under another name."""


def save_frozen(model: nn.Module, path: str | Path) -> Path:
    """Write a frozen model to one .safetensors file; `load_frozen` restores it bit by bit.

    A weight of b bits takes b bits for each element, on a grid or with a lookup table, unless a functional operation
    reads its float values too: then the file keeps these. In a model that was captured module by module, such reads are
    those that the first batch of calibration showed. What tied weights have in common is stored once. What was at
    `path` before stays whole until the new file is.

    Args:
        model: a model that `quantize` or `finalize` returned; it is not changed.
        path: the file, ending with .safetensors.

    Returns:
        The file that was written.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: another suffix; a model that is not frozen, that has a quantizer of the user's own without integers,
            which nothing in a file restores, or whose state is not all tensors.
        OSError: the file cannot be written.
    """
    _check_suffix(path)
    check_writable(path)
    model = unwrapped(model)
    plan = frozen_plan(model)
    _check_restorable(model, plan)
    packed = packable_weights(model, plan)
    # Of which grid a quantizer is stands in the plan.
    keys = {key for keys in packed.values() for key in keys} | grid_keys(model)
    tensors, shared = _stored_once({key: value for key, value in model.state_dict().items() if key not in keys})
    dtypes = {}
    for name in packed:
        codes, owner = pack_weight(model, plan[name]), plan[name].site.tied_to
        dtypes[name] = str(weight_of(model, plan[name]).dtype)
        if _has_codes(plan, name, owner, tensors.get(owner + CODES_SUFFIX), codes):
            shared[name + CODES_SUFFIX] = owner + CODES_SUFFIX
        else:
            tensors[name + CODES_SUFFIX] = torch.from_numpy(codes)
    metadata = {
        FORMAT_KEY: FROZEN_FORMAT,
        FORMAT_VERSION_KEY: FROZEN_FORMAT_VERSION,
        DTYPES_KEY: json.dumps(dtypes),
        **plan_metadata(plan),
    }
    if shared:
        metadata[SHARED_KEY] = json.dumps(shared)
    content = reproducible(safetensors.torch.save(tensors, metadata))
    return write_atomically(path, lambda file: file.write(content))


def load_frozen(path: str | Path, model: nn.Module) -> nn.Module:
    """Restore the model that `save_frozen` or `export` wrote; nothing in the file is executed.

    Args:
        path: the file, ending with .safetensors.
        model: the float architecture, trained or not, in the dtype and on the device that the result shall have; it is
            not changed.

    Returns:
        The quantized model in evaluation mode: it computes, bit by bit, what the saved one did.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: a file that is truncated, damaged, foreign or of another version, or does not fit `model`.
        OSError: the file cannot be read.
    """
    _check_suffix(path)
    path = Path(path)
    metadata = safetensors_metadata(path)
    plan = plan_of_metadata(metadata, path)
    rebuilt = rebuild(model, plan, path)
    check_tensor_bytes(path, max_state_bytes(rebuilt), "`model`")
    _fill(rebuilt, plan, read_stored(path), _dtypes_of(metadata, path), path)
    return rebuilt


def read_stored(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, those that are stored once for several names under each.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is truncated, damaged, foreign or of another version.
    """
    metadata, tensors = safetensors_metadata(path), read_tensors(path, "pt")
    shared = _object_of(metadata, SHARED_KEY, path) if SHARED_KEY in metadata else {}
    for key, source in shared.items():
        if key in tensors or source not in tensors:
            raise ValueError(
                f"The metadata of {path} are damaged: {key!r} must be another tensor. Received: {source!r}"
            )
    return {**tensors, **{key: tensors[source] for key, source in shared.items()}}


def read_codes(path: Path) -> dict[str, IntArray]:
    """The integers of every weight in a file, by `layer.tensor`: int32, shape of the weight.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is truncated, damaged, foreign or of another version.
    """
    plan, _ = read_safetensors_plan(path)
    stored = read_stored(path)
    weights = plan.quantized(QuantizationTarget.Weights)
    found = {tensor.name: stored.get(tensor.name + CODES_SUFFIX) for tensor in weights}
    return {name: unpack_weight(packed, plan[name]) for name, packed in found.items() if packed is not None}


def _check_restorable(model: nn.Module, plan: QuantizationPlan) -> None:
    for tensor in own_quantized(plan):
        raise ValueError(
            f"{tensor.name} is quantized by {type(quantizer_of(model, tensor)).__name__}, a quantizer of its own "
            "without integers, which a .safetensors file of packed integers cannot restore. Export to .onnx, which "
            "needs no class; or save with `mct_quantizers.pytorch_save_quantized_model`, which restores classes that "
            "are marked with QuantizerID.INFERABLE and have `get_config`."
        )


def _fill(
    model: nn.Module, plan: QuantizationPlan, stored: dict[str, Tensor], dtypes: dict[str, str], path: Path
) -> None:
    """Put the tensors of a file into a rebuilt model, each checked."""
    described, packed = grid_keys(model), packable_weights(model, plan)
    state = {key: value for key, value in model.state_dict().items() if key not in described}
    names = {key: name for name, keys in packed.items() for key in keys}
    expected = {names[key] + CODES_SUFFIX if key in names else key for key in state}
    if missing := sorted(expected - set(stored)):
        raise ValueError(f"The file {path} does not fit `model`: it lacks the tensors {missing}")
    if extra := sorted(set(stored) - expected):
        raise ValueError(f"The file {path} does not fit `model`, which has no tensors {extra}")
    for key, target in state.items():
        if key in names:
            tensor = plan[names[key]]
            codes = unpack_weight(stored[tensor.name + CODES_SUFFIX], tensor)
            value, dtype = weight_from_codes(codes, params_of(tensor), target.dtype), dtypes.get(tensor.name)
        else:
            value, dtype = stored[key], str(stored[key].dtype)
        if (value.shape, dtype) != (target.shape, str(target.dtype)):
            raise ValueError(
                f"The file {path} does not fit `model`: {key} must be {tuple(target.shape)} of {target.dtype}. "
                f"Received: {tuple(value.shape)} of {dtype}"
            )
        state[key] = value
    # Every key was compared above.
    model.load_state_dict(state, strict=False)
    for tensor in plan.quantized():
        if quantizer_of(model, tensor).params != tensor.params:
            raise ValueError(f"The file {path} is damaged: its plan and its tensors give {tensor.name} another grid")


def _stored_once(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a state, each once, and the name under which a further one is found."""
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[Any, str] = {}
    for key, value in state.items():
        plain = plain_tensor(key, value)
        source = first.setdefault((value.device, value.data_ptr(), value.dtype, value.shape, value.stride()), key)
        # Empty tensors have no memory to share.
        if source == key or value.numel() == 0:
            tensors[key] = plain
        else:
            shared[key] = source
    return tensors, shared


def _has_codes(
    plan: QuantizationPlan, name: str, owner: str, stored: Tensor | None, codes: npt.NDArray[np.uint8]
) -> bool:
    """Whether a tied weight's integers are those that are stored for its owner, on the same grid."""
    return stored is not None and plan[name].params == plan[owner].params and np.array_equal(stored.numpy(), codes)


def _dtypes_of(metadata: dict[str, str], path: Path) -> dict[str, str]:
    return _object_of(metadata, DTYPES_KEY, path)


def _object_of(metadata: dict[str, str], key: str, path: Path) -> dict[str, str]:
    try:
        found = parse_json(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"The metadata of {path} are damaged: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(f"The metadata of {path} are damaged: `{key}` must be an object of texts")
    return found


def _check_suffix(path: str | Path) -> None:
    if format_of(path) is not ExportFormat.SAFETENSORS:
        raise ValueError(f"`path` must end with '.safetensors'. Received: {str(path)!r}")

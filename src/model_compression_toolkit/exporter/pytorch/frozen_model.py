# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A frozen model as one .safetensors file: packed integers, everything else of its state, and its plan."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mct_quantizers.common.packing import pack_integers, unpack_integers
from mct_quantizers.common.quant_params import IntArray
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.surgery import quantizer_of, wrapper_of
from model_compression_toolkit.exporter.common.format import (
    ExportFormat,
    check_writable,
    format_of,
    write_atomically,
)
from model_compression_toolkit.exporter.common.inspect import (
    FORMAT_KEY,
    FORMAT_VERSION_KEY,
    FROZEN_FORMAT,
    FROZEN_FORMAT_VERSION,
    plan_metadata,
    plan_of_metadata,
    safetensors_metadata,
)
from model_compression_toolkit.exporter.pytorch.frozen import (
    frozen_plan,
    params_of,
    quantize_values,
    weight_codes,
    weight_from_codes,
    weight_of,
)
from model_compression_toolkit.exporter.pytorch.rebuild import rebuild

__all__ = ["load_frozen", "read_codes", "save_frozen"]

CODES_SUFFIX = ".codes"
DTYPES_KEY = "weight_dtypes"


def save_frozen(model: nn.Module, path: str | Path) -> Path:
    """Write a frozen model to one .safetensors file; `load_frozen` restores it bit by bit.

    A weight of b bits takes b bits for each element. What was at `path` before stays whole until the new file is.

    Args:
        model: a model that `quantize` or `finalize` returned; it is not changed.
        path: the file, ending with .safetensors.

    Returns:
        The file that was written.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: another suffix; a model that is not frozen, or whose state is not all tensors.
        OSError: the file cannot be written.
    """
    _check_suffix(path)
    check_writable(path)
    plan = frozen_plan(model)
    tensors = {key: _plain(key, value) for key, value in model.state_dict().items()}
    dtypes = {}
    for key, tensor in _weight_keys(model, plan).items():
        dtypes[key] = str(tensors.pop(key).dtype)
        tensors[key + CODES_SUFFIX] = torch.from_numpy(_packed(model, tensor))
    metadata = {
        FORMAT_KEY: FROZEN_FORMAT,
        FORMAT_VERSION_KEY: FROZEN_FORMAT_VERSION,
        DTYPES_KEY: json.dumps(dtypes),
        **plan_metadata(plan),
    }
    content = safetensors.torch.save(tensors, metadata)
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
    with safe_open(path, framework="pt") as file:
        stored: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
    _fill(rebuilt, plan, stored, _dtypes_of(metadata, path), path)
    return rebuilt


def read_codes(model: nn.Module, path: Path) -> dict[str, IntArray]:
    """The integers in the file of every quantized weight of a frozen model, by `layer.tensor`.

    Raises:
        ValueError: the file does not fit the model.
    """
    with safe_open(path, framework="pt") as file:
        return {
            tensor.name: _unpacked(file.get_tensor(key + CODES_SUFFIX), tensor, model.get_parameter(key).shape)
            for key, tensor in _weight_keys(model, frozen_plan(model)).items()
        }


def _fill(
    model: nn.Module, plan: QuantizationPlan, stored: dict[str, Tensor], dtypes: dict[str, str], path: Path
) -> None:
    """Put the tensors of a file into a rebuilt model, each checked."""
    weights, state = _weight_keys(model, plan), model.state_dict()
    expected = {key + CODES_SUFFIX if key in weights else key for key in state}
    if missing := sorted(expected - set(stored)):
        raise ValueError(f"The file {path} does not fit `model`: it lacks the tensors {missing}")
    if extra := sorted(set(stored) - expected):
        raise ValueError(f"The file {path} does not fit `model`, which has no tensors {extra}")
    for key, target in state.items():
        if key in weights:
            codes = _unpacked(stored[key + CODES_SUFFIX], weights[key], target.shape)
            value, dtype = weight_from_codes(codes, params_of(weights[key]), target.dtype), dtypes.get(key)
        else:
            value, dtype = stored[key], str(stored[key].dtype)
        if (value.shape, dtype) != (target.shape, str(target.dtype)):
            raise ValueError(
                f"The file {path} does not fit `model`: {key} must be {tuple(target.shape)} of {target.dtype}. "
                f"Received: {tuple(value.shape)} of {dtype}"
            )
        state[key] = value
    model.load_state_dict(state)
    for tensor in plan.quantized():
        if quantizer_of(model, tensor).params != tensor.params:
            raise ValueError(f"The file {path} is damaged: its plan and its tensors give {tensor.name} another grid")


def _packed(model: nn.Module, tensor: TensorPlan) -> npt.NDArray[np.uint8]:
    codes, params = weight_codes(model, tensor), params_of(tensor)
    dtype = weight_of(model, tensor).dtype
    again = quantize_values(weight_from_codes(codes, params, dtype), params)
    if not (again == codes).all():
        raise ValueError(
            f"{tensor.name} has {params.num_bits} bits, which {dtype} does not resolve: call `model.float()` first."
        )
    return pack_integers(codes, params.num_bits)


def _unpacked(packed: Tensor, tensor: TensorPlan, shape: torch.Size) -> IntArray:
    params = params_of(tensor)
    try:
        flat = unpack_integers(packed.numpy(), params.num_bits, shape.numel(), params.signed)
    except ValueError as error:
        raise ValueError(f"The integers of {tensor.name} do not fit its shape {tuple(shape)}: {error}") from error
    if flat.size and not params.quant_min <= flat.min() <= flat.max() <= params.quant_max:
        raise ValueError(
            f"The integers of {tensor.name} must be from {params.quant_min} to {params.quant_max}. "
            f"Received: {flat.min()} to {flat.max()}"
        )
    return flat.reshape(shape)


def _weight_keys(model: nn.Module, plan: QuantizationPlan) -> dict[str, TensorPlan]:
    """The quantized weights by their keys in the `state_dict`."""
    paths = {module: path for path, module in model.named_modules()}
    weights = (tensor for tensor in plan.quantized() if tensor.is_weight)
    return {f"{paths[wrapper_of(model, tensor.site.layer)]}.{tensor.site.tensor}": tensor for tensor in weights}


def _plain(key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"The state of `model` must hold tensors only. Received: {type(value).__name__} for {key!r}")
    # A copy of its own, because the format refuses tensors that share memory.
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _dtypes_of(metadata: dict[str, str], path: Path) -> dict[str, str]:
    try:
        dtypes = json.loads(metadata[DTYPES_KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"The metadata of {path} are damaged: {error}") from error
    if not isinstance(dtypes, dict):
        raise ValueError(f"The metadata of {path} are damaged: `{DTYPES_KEY}` must be an object")
    return dtypes


def _check_suffix(path: str | Path) -> None:
    if format_of(path) is not ExportFormat.SAFETENSORS:
        raise ValueError(f"`path` must end with '.safetensors'. Received: {str(path)!r}")

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the quantizers and the tensors of a file into a copy of an architecture."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mct_quantizers.common.quantizers.configurable import ConfigurableQuantizer
from mct_quantizers.common.saved_model import LayerKind, SavedLayer, SavedModel, TensorKind
from mct_quantizers.common.validation import check_channels
from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.copying import copy_of
from mct_quantizers.pytorch.grid_state import grid_keys
from mct_quantizers.pytorch.model_description import (
    HOLDERS,
    QuantizingLayer,
    can_be_made,
    check_config,
    make_quantizer,
    own_tensors,
    quantizing_layers,
)
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer

__all__ = ["rebuild"]

Quantizer = BasePyTorchInferableQuantizer


def rebuild(model: nn.Module, saved: SavedModel, tensors: dict[str, Tensor]) -> nn.Module:
    """A copy of `model` with the quantizers and the tensors of a file.

    Args:
        model: the architecture; it is not changed.
        saved: wrappers and holders.
        tensors: the tensors of the file.

    Raises:
        ValueError: the file does not fit `model`, or contradicts itself.
    """
    tensors = _with_shared(tensors, saved.shared)
    quantizers = [[make_quantizer(item) for item in layer.quantizers] for layer in saved.layers]
    try:
        # Inside a module of our own, so that the model itself can be replaced too.
        root = nn.Sequential(copy_of(model))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"`model` cannot be copied: {error}") from error
    for layer, made in zip(saved.layers, quantizers, strict=True):
        _quantize(root, layer, made, tensors)
    rebuilt: nn.Module = root[0]
    _check_layers(rebuilt, saved)
    _fill(rebuilt, tensors)
    for layer, made in zip(saved.layers, quantizers, strict=True):
        for item, quantizer in zip(layer.quantizers, made, strict=True):
            check_config(quantizer, item)
    for carrier, paths in quantizing_layers(rebuilt):
        if isinstance(carrier, PytorchQuantizationWrapper):
            _check_channels(paths[0], carrier)
    return rebuilt


def _with_shared(tensors: dict[str, Tensor], shared: dict[str, str]) -> dict[str, Tensor]:
    for key, source in shared.items():
        if key in tensors or source not in tensors:
            raise ValueError(f"The tensor {key!r} must be one under another name. Received: {source!r}")
    return {**tensors, **{key: tensors[source] for key, source in shared.items()}}


def _quantize(root: nn.Module, layer: SavedLayer, quantizers: list[Quantizer], tensors: dict[str, Tensor]) -> None:
    """Put a wrapper or holder into its places, or its quantizers into the one that is there."""
    lines = [_line(root, path, layer) for path in layer.paths]
    module = lines[0][-1]
    if any(line[-1] is not module for line in lines):
        raise ValueError(f"`model` must have one and the same layer at all of {list(layer.paths)}")
    device = _device_of(reversed(lines[0]))
    carrier = (
        _wrapper(module, layer, quantizers) if layer.kind is LayerKind.WRAPPER else _holder(module, layer, quantizers)
    )
    for quantizer in quantizers:
        quantizer.to(device)
    present = own_tensors(carrier)
    for name, kind in layer.own_tensors.items():
        if name not in present:
            key = f"{layer.paths[0]}.{name}".removeprefix(".")
            if key not in tensors:
                raise ValueError(f"The tensor {key!r} is missing")
            _register(carrier, name, kind, tensors[key].to(device, copy=True))
    if carrier is not module:
        for path, line in zip(layer.paths, lines, strict=True):
            line[-2].add_module(_names(path)[-1], carrier)


def _line(root: nn.Module, path: str, layer: SavedLayer) -> list[nn.Module]:
    """The modules from `root` to `path`, both included."""
    line = [root]
    for name in _names(path):
        # Not `get_submodule`: a wrapper would answer for the layer inside.
        child = line[-1]._modules.get(name)
        if child is None:
            raise ValueError(f"`model` must have {_needed(layer)} at {path!r}. Received: no layer of that name")
        line.append(child)
    return line


def _names(path: str) -> list[str]:
    return ["0", *path.split(".")] if path else ["0"]


def _needed(layer: SavedLayer) -> str:
    keys = [quantizer.key for quantizer in layer.quantizers]
    if layer.kind is LayerKind.HOLDER:
        return f"a {layer.class_name}" if layer.in_architecture else f"an nn.Identity or a {layer.class_name}"
    if layer.in_architecture:
        return f"a {layer.class_name} of the weights {keys} with all that it calls"
    return f"a layer with the weights {keys}, or a {layer.class_name} of them,"


def _misfit(layer: SavedLayer, received: str) -> ValueError:
    return ValueError(f"`model` must have {_needed(layer)} at {layer.paths[0]!r}. Received: {received}")


def _wrapper(module: nn.Module, layer: SavedLayer, quantizers: list[Quantizer]) -> PytorchQuantizationWrapper:
    by_key: dict[Any, Quantizer] = {item.key: made for item, made in zip(layer.quantizers, quantizers, strict=True)}
    if isinstance(module, PytorchQuantizationWrapper):
        if type(module).__name__ != layer.class_name or set(module.weights_quantizers) != set(by_key):
            raise _misfit(layer, f"a {type(module).__name__} of {list(module.weights_quantizers)}")
        if can_be_made(module) is layer.in_architecture:
            raise _misfit(layer, "one that calls something else")
        for key, quantizer in by_key.items():
            module.set_quantizer(key, quantizer)
        return module
    if layer.in_architecture or isinstance(module, QuantizingLayer):
        raise _misfit(layer, type(module).__name__)
    try:
        return PytorchQuantizationWrapper(module, by_key)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _misfit(layer, f"{type(module).__name__}. {error}") from error


def _holder(module: nn.Module, layer: SavedLayer, quantizers: list[Quantizer]) -> PytorchActivationQuantizationHolder:
    (quantizer,) = quantizers
    if isinstance(module, PytorchActivationQuantizationHolder) and type(module).__name__ == layer.class_name:
        holder = module
        holder.set_quantizer(quantizer)
    elif type(module) is nn.Identity and not layer.in_architecture and layer.class_name in HOLDERS:
        holder = HOLDERS[layer.class_name](quantizer)
    else:
        raise _misfit(layer, type(module).__name__)
    if hasattr(holder, "quantization_bypass") is (layer.quantization_bypass is None):
        raise ValueError(
            f"`quantization_bypass` must be given for a holder that has it, and for no other. "
            f"Received: {layer.quantization_bypass} for a {layer.class_name}"
        )
    if layer.quantization_bypass is not None:
        holder.quantization_bypass = layer.quantization_bypass  # type: ignore[assignment]  # no tensor, no module
    return holder


def _device_of(modules: Iterable[nn.Module]) -> torch.device:
    """The device of the first of `modules` that has any tensor."""
    for tensor in chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules):
        return tensor.device
    return torch.device("cpu")


def _register(carrier: nn.Module, name: str, kind: TensorKind, value: Tensor) -> None:
    """Hold a tensor that the architecture does not have, such as one that a trainable quantizer has left."""
    try:
        if kind is TensorKind.PARAMETER:
            carrier.register_parameter(name, nn.Parameter(value, requires_grad=False))
        else:
            carrier.register_buffer(name, value)
    except KeyError as error:
        raise ValueError(f"A {type(carrier).__name__} cannot hold a tensor called {name!r}: {error}") from error


def _check_layers(model: nn.Module, saved: SavedModel) -> None:
    """The model quantizes where the file does, and nowhere else."""
    present = {frozenset(paths) for _, paths in quantizing_layers(model)}
    expected = {frozenset(layer.paths) for layer in saved.layers}
    if present != expected:
        raise ValueError(
            "`model` must have the wrappers and holders of the file, and no others. "
            f"Received: {_in_words(present - expected)}, where the file has {_in_words(expected - present)}"
        )


def _in_words(groups: set[frozenset[str]]) -> str:
    return ", ".join(sorted(" = ".join(map(repr, sorted(paths))) for paths in groups)) or "none there"


def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put the tensors of a file into the model."""
    described = grid_keys(model)
    state = {key: value for key, value in model.state_dict().items() if key not in described}
    if missing := sorted(state.keys() - tensors.keys()):
        raise ValueError(f"It does not fit `model`: it lacks the tensors {missing}")
    if extra := sorted(tensors.keys() - state.keys()):
        raise ValueError(f"It does not fit `model`, which has no tensors {extra}")
    for key, target in state.items():
        _check_fits(key, target, tensors[key])
    try:
        # Every key was compared above.
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(f"It does not fit `model`: {error}") from error
    for key, value in model.state_dict().items():
        if key not in described and not _same_bytes(value, tensors[key]):
            raise ValueError(
                f"It does not fit `model`, in which {key!r} shares memory with a tensor that differs in the file"
            )


def _check_fits(key: str, target: object, value: Tensor) -> None:
    if not isinstance(target, Tensor) or is_lazy(target) or target.is_meta:
        raise ValueError(f"The state of `model` must be tensors with values. Received: {key!r}, which has none")
    if target.shape != value.shape:
        raise ValueError(
            f"It does not fit `model`: {key!r} must have shape {tuple(target.shape)}. Received: {tuple(value.shape)}"
        )
    if target.dtype != value.dtype:
        raise ValueError(
            f"It does not fit `model`: {key!r} must be of {target.dtype}. Received: {value.dtype}. Convert `model` "
            f"first, as the saved model was: `model.to({value.dtype})`"
        )


def _same_bytes(first: Tensor, second: Tensor) -> bool:
    # Not the numbers: NaN differs from itself.
    ours, theirs = (item.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for item in (first, second))
    return torch.equal(ours, theirs)


def _check_channels(path: str, wrapper: PytorchQuantizationWrapper) -> None:
    for key, weight, quantizer in wrapper.get_weights_vars():
        if isinstance(quantizer, ConfigurableQuantizer):
            params = quantizer.params
            try:
                check_channels(weight.shape, params.axis, params.threshold.size)
            except ValueError as error:
                raise ValueError(f"The quantizer of {path!r}, weight {key!r}, does not fit: {error}") from error

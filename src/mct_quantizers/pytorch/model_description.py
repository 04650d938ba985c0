# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a file says of a quantized PyTorch model: its quantizers by class and configuration, and its state."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mct_quantizers.common.quant_info import QuantizerID
from mct_quantizers.common.quantizers.configurable import ConfigurableQuantizer
from mct_quantizers.common.registry import latest_subclasses
from mct_quantizers.common.saved_model import LayerKind, SavedLayer, SavedQuantizer, TensorKind, check_plain
from mct_quantizers.common.wrapped_weights import parameter_name
from mct_quantizers.pytorch.activation_quantization_holder import (
    PytorchActivationQuantizationHolder,
    PytorchFLNActivationQuantizationHolder,
    PytorchPreservingActivationQuantizationHolder,
)
from mct_quantizers.pytorch.grid_state import grid_keys
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer

__all__ = [
    "HOLDERS",
    "QuantizingLayer",
    "can_be_made",
    "check_config",
    "describe_layers",
    "make_quantizer",
    "own_tensors",
    "plain_tensor",
    "quantizing_layers",
    "stored_state",
]

QuantizingLayer = PytorchQuantizationWrapper | PytorchActivationQuantizationHolder

HOLDERS = {
    cls.__name__: cls
    for cls in (
        PytorchActivationQuantizationHolder,
        PytorchFLNActivationQuantizationHolder,
        PytorchPreservingActivationQuantizationHolder,
    )
}
"""The holders that a file can bring along, by name."""


def quantizing_layers(model: nn.Module) -> list[tuple[QuantizingLayer, tuple[str, ...]]]:
    """Every wrapper and holder of `model` with all its names; what lies inside a wrapper comes after it."""
    found: dict[int, tuple[QuantizingLayer, list[str]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, QuantizingLayer):
            found.setdefault(id(module), (module, []))[1].append(path)
    return [(layer, tuple(paths)) for layer, paths in found.values()]


def describe_layers(model: nn.Module) -> tuple[SavedLayer, ...]:
    """Every wrapper and holder of `model`.

    Raises:
        ValueError: a quantizer that is trainable, or that its class and `get_config` do not restore.
    """
    return tuple(_describe(layer, paths) for layer, paths in quantizing_layers(model))


def can_be_made(layer: QuantizingLayer) -> bool:
    """Whether `layer` is no more than what it stands around and its quantizers, so that a file can bring it along."""
    if not isinstance(layer, PytorchQuantizationWrapper):
        return type(layer) in HOLDERS.values()
    has_arguments = layer.op_call_args or layer.op_call_kwargs or layer.is_inputs_as_list or layer.weight_values
    return type(layer) is PytorchQuantizationWrapper and isinstance(layer.layer, nn.Module) and not has_arguments


def own_tensors(layer: nn.Module) -> dict[str, TensorKind]:
    """What `layer` itself, without the modules inside, adds to the state."""
    state = layer.state_dict()
    parameters = dict(layer.named_parameters(recurse=False, remove_duplicate=False))
    buffers = dict(layer.named_buffers(recurse=False, remove_duplicate=False))
    return {
        **{name: TensorKind.PARAMETER for name in parameters},
        # Not those that are derived from others.
        **{name: TensorKind.BUFFER for name in buffers if name in state},
    }


def stored_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the state, each once, and for each other name of the same tensor the first one.

    Of which grid a quantizer is stands in its configuration.

    Raises:
        ValueError: an entry is no plain tensor.
    """
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[Any, str] = {}
    state, described = model.state_dict(), grid_keys(model)
    for key, value in state.items():
        if key in described:
            continue
        plain = plain_tensor(key, value)
        memory = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        source = first.setdefault(memory, key)
        if source == key:
            tensors[key] = plain
        else:
            shared[key] = source
    return tensors, shared


def max_state_bytes(model: nn.Module) -> int:
    """Bytes that the state of a quantized model can take at most, from its float architecture."""
    # Per channel there are as many scales as a weight has slices; a table has at most 65,536 levels.
    state: int = sum(tensor.nbytes for tensor in model.state_dict().values())
    return 2 * state + 2**19 * len(list(model.modules()))


def plain_tensor(key: str, value: object) -> Tensor:
    """A contiguous copy on the CPU of an entry of a state.

    Raises:
        ValueError: the entry `key` is no tensor, or no dense one with values.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"The state of `model` must hold tensors only. Received: {type(value).__name__} for {key!r}")
    if is_lazy(value) or value.is_meta:
        raise ValueError(f"The state of `model` must have values. Received: {key!r}, which has none yet")
    plain = value.detach()
    if type(plain) is not Tensor or plain.layout is not torch.strided:
        raise ValueError(
            "The state of `model` must hold plain, dense tensors. "
            f"Received: {type(plain).__name__} with {plain.layout} for {key!r}"
        )
    # A copy of its own, because the format refuses tensors that share memory.
    return plain.cpu().clone(memory_format=torch.contiguous_format)


def make_quantizer(saved: SavedQuantizer) -> BasePyTorchInferableQuantizer:
    """The quantizer that `saved` describes.

    Raises:
        ValueError: its class is not imported, or refuses the configuration.
    """
    cls = _quantizer_class(saved.class_name)
    try:
        with warnings.catch_warnings():
            # Whatever there is to say was said when the model was made.
            warnings.simplefilter("ignore")
            return cls(**saved.config)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{saved.class_name} cannot be made from its configuration: {error}") from error


def check_config(quantizer: BasePyTorchInferableQuantizer, saved: SavedQuantizer) -> None:
    """Configuration and state of a quantizer say the same.

    Raises:
        ValueError: they do not.
    """
    if not isinstance(quantizer, ConfigurableQuantizer):
        return
    config = quantizer.get_config()
    # Arguments that a later version adds have their defaults.
    if config != {**config, **saved.config}:
        raise ValueError(
            f"The configuration and the tensors of a {saved.class_name} (weight {saved.key!r}) give different grids"
        )


def _describe(layer: QuantizingLayer, paths: tuple[str, ...]) -> SavedLayer:
    quantizers: dict[Any, Any]
    bypass = None
    if isinstance(layer, PytorchQuantizationWrapper):
        kind, quantizers = LayerKind.WRAPPER, dict(layer.weights_quantizers)
    else:
        kind, quantizers = LayerKind.HOLDER, {None: layer.activation_holder_quantizer}
        bypass = getattr(layer, "quantization_bypass", None)
    weights = {parameter_name(key) for key in quantizers if key is not None}
    return SavedLayer(
        kind=kind,
        paths=paths,
        class_name=type(layer).__name__,
        in_architecture=not can_be_made(layer),
        quantizers=tuple(_describe_quantizer(paths[0], key, quantizer) for key, quantizer in quantizers.items()),
        quantization_bypass=bypass,
        own_tensors={name: tensor_kind for name, tensor_kind in own_tensors(layer).items() if name not in weights},
    )


def _describe_quantizer(path: str, key: Any, quantizer: Any) -> SavedQuantizer:
    name = f"The quantizer of {path!r}" if key is None else f"The quantizer of {path!r}, weight {key!r},"
    cls = type(quantizer)
    if callable(getattr(quantizer, "convert2inferable", None)):
        raise ValueError(
            f"{name} must be inferable. Received: the trainable {cls.__name__}; call "
            "`convert_to_inferable_quantizers()` of every wrapper and holder first"
        )
    get_config = getattr(quantizer, "get_config", None)
    if not isinstance(quantizer, BasePyTorchInferableQuantizer) or not callable(get_config):
        raise ValueError(
            f"{name} must be a BasePyTorchInferableQuantizer with `get_config`, to be saved. Received: {quantizer!r}"
        )
    found = _quantizer_class(cls.__name__)
    if (found.__module__, found.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"{name} must be of {found!r}. Received: {cls!r}, which has the same name")
    saved = SavedQuantizer(cls.__name__, get_config(), key)
    check_plain(f"get_config() of {path!r}, {key!r}", saved.config)
    # A file that cannot be loaded must not be written.
    check_config(make_quantizer(saved), saved)
    return saved


def _quantizer_class(name: str) -> type[BasePyTorchInferableQuantizer]:
    """The inferable quantizer class called `name`: one of those that are imported; nothing is imported for it."""
    marked = [
        cls
        for cls in latest_subclasses(BasePyTorchInferableQuantizer)
        if vars(cls).get("identifier") is QuantizerID.INFERABLE
    ]
    found = [cls for cls in marked if cls.__name__ == name]
    if len(found) != 1:
        raise ValueError(
            "Expected the name of one imported subclass of BasePyTorchInferableQuantizer with the mark "
            f"QuantizerID.INFERABLE. Received: {name!r}, the name of {len(found)}; there are "
            f"{sorted(cls.__name__ for cls in marked)}"
        )
    return found[0]

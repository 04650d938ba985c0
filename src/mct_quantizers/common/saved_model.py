# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the file of a quantized model says of its quantizers, as values: checked when they are read."""

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeVar

from mct_quantizers.common.untrusted import parse_json
from mct_quantizers.common.wrapped_weights import WeightKey

__all__ = ["LayerKind", "SavedLayer", "SavedModel", "SavedQuantizer", "TensorKind", "check_plain"]

Value = TypeVar("Value")


class LayerKind(StrEnum):
    """What carries quantizers."""

    WRAPPER = "wrapper"
    """Quantizes weights of the layer inside."""
    HOLDER = "holder"
    """Quantizes an activation."""


class TensorKind(StrEnum):
    """As what a module holds a tensor."""

    PARAMETER = "parameter"
    """Seen by optimizers."""
    BUFFER = "buffer"
    """Not seen by optimizers."""


@dataclass(frozen=True, slots=True)
class SavedQuantizer:
    """An inferable quantizer.

    Attributes:
        class_name: name of its class.
        config: constructor arguments.
        key: the weight that it quantizes, by name or position; None in a holder.
    """

    class_name: str
    config: dict[str, Any]
    key: WeightKey | None = None

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The quantizer that `dataclasses.asdict` wrote.

        Raises:
            ValueError: a value is missing or of the wrong type.
        """
        key = values.get("key") if isinstance(values, dict) else None
        if key is not None and type(key) not in (str, int):
            raise ValueError(f"`key` must be a name, a position or null. Received: {key!r}")
        return cls(_take(values, "class_name", str), _take(values, "config", dict), key)


@dataclass(frozen=True, slots=True)
class SavedLayer:
    """A wrapper or holder.

    Attributes:
        kind: which of the two.
        paths: all names that it has in the model; several where the model uses it in several places.
        class_name: name of its class.
        in_architecture: whether the architecture must hold it, because it is more than a layer and quantizers: it wraps
            a function, has call arguments, or is of a class of the user's own.
        quantizers: one for each weight of a wrapper, one of a holder.
        quantization_bypass: of a holder that can be bypassed; else None.
        own_tensors: tensors that it holds besides its weights, such as those that a trainable quantizer has left.
    """

    kind: LayerKind
    paths: tuple[str, ...]
    class_name: str
    in_architecture: bool
    quantizers: tuple[SavedQuantizer, ...]
    quantization_bypass: bool | None = None
    own_tensors: dict[str, TensorKind] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The layer that `dataclasses.asdict` wrote.

        Raises:
            ValueError: a value is missing, of the wrong type, or contradicts another one.
        """
        layer = cls(
            kind=LayerKind(_take(values, "kind", str)),
            paths=tuple(_take(values, "paths", list)),
            class_name=_take(values, "class_name", str),
            in_architecture=_take(values, "in_architecture", bool),
            quantizers=tuple(SavedQuantizer.from_dict(item) for item in _take(values, "quantizers", list)),
            quantization_bypass=values.get("quantization_bypass"),
            own_tensors={name: _tensor_kind(kind) for name, kind in _take(values, "own_tensors", dict).items()},
        )
        if not layer.paths or not all(isinstance(path, str) for path in layer.paths):
            raise ValueError(f"`paths` must hold names. Received: {layer.paths!r}")
        if not isinstance(layer.quantization_bypass, bool | None):
            raise ValueError(
                f"`quantization_bypass` must be a boolean or null. Received: {layer.quantization_bypass!r}"
            )
        keys = [quantizer.key for quantizer in layer.quantizers]
        is_holder = layer.kind is LayerKind.HOLDER
        if len(set(keys)) != len(keys) or (keys != [None] if is_holder else None in keys):
            raise ValueError(f"`quantizers` of a {layer.kind} cannot have the keys {keys}")
        return layer


@dataclass(frozen=True, slots=True)
class SavedModel:
    """All that a file says besides its tensors.

    Attributes:
        layers: wrappers and holders; what lies inside a wrapper comes after it.
        shared: names of tensors that the file holds once, under the other name.
    """

    layers: tuple[SavedLayer, ...]
    shared: dict[str, str]

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The value that `to_json` wrote.

        Raises:
            ValueError: no JSON; a value is missing, of the wrong type, or contradicts another one.
        """
        values = parse_json(text)
        layers = tuple(SavedLayer.from_dict(item) for item in _take(values, "layers", list))
        shared = _take(values, "shared", dict)
        if not all(isinstance(source, str) for source in shared.values()):
            raise ValueError(f"`shared` must hold names. Received: {shared!r}")
        paths = [path for layer in layers for path in layer.paths]
        if len(set(paths)) != len(paths):
            raise ValueError(f"Each path must stand once. Received: {sorted(paths)}")
        return cls(layers, shared)


def check_plain(name: str, value: Any) -> None:
    """`value` comes back from JSON as it is.

    Raises:
        ValueError: it holds something else than None, booleans, numbers, text, lists, and dictionaries by text.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"`{name}` must have text as keys, to be saved. Received: {key!r}")
            check_plain(f"{name}[{key!r}]", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_plain(f"{name}[{index}]", item)
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"`{name}` must be None, a boolean, a number, text, or lists and dictionaries of them, to be saved. "
            f"Received: {value!r}"
        )


def _take(values: Any, name: str, kind: type[Value]) -> Value:
    value = values.get(name) if isinstance(values, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"Expected an object with `{name}` of type {kind.__name__}. Received: {value!r}")
    return value


def _tensor_kind(value: Any) -> TensorKind:
    if not isinstance(value, str):
        raise ValueError(f"`own_tensors` must hold kinds of tensors. Received: {value!r}")
    return TensorKind(value)

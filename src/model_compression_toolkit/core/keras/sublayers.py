# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The layers inside a layer, by the attributes under which they stand, and other layers in their places."""

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from model_compression_toolkit.core.keras.recorded_calls import replace_operations

Layer = Any

_COMMON = ("name", "trainable", "dtype")


def sublayers(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """Every layer inside `layer`, each once, outer ones first, with where it stands, such as `encoder/blocks/0/dense`.

    Layers of a functional or sequential model are counted: the names that Keras gives differ from copy to copy.
    """
    seen = {id(layer)}
    queue = [("", layer)]
    while queue:
        prefix, owner = queue.pop(0)
        for name, inner in _members(owner):
            if id(inner) not in seen:
                seen.add(id(inner))
                yield f"{prefix}{name}", inner
                queue.append((f"{prefix}{name}/", inner))


def own_weights(layer: Layer) -> list[keras.Variable]:
    """The weights of a layer that belong to no layer inside it."""
    inner = {id(weight) for _, sublayer in sublayers(layer) for weight in sublayer.weights}
    return [weight for weight in layer.weights if id(weight) not in inner]


def config_of(operation: Any) -> dict[str, Any]:
    """The configuration of an operation, without what every layer has where its constructor does not take that."""
    parameters = inspect.signature(type(operation).__init__).parameters
    takes_all = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    config: dict[str, Any] = operation.get_config()
    return {name: item for name, item in config.items() if takes_all or name in parameters or name not in _COMMON}


def replace_layers(model: keras.Model, replaced: Mapping[str, Layer]) -> keras.Model:
    """The model with other layers in some places.

    Args:
        model: a model that is not built; it is changed. A functional or sequential one is copied instead.
        replaced: the layers by their places.

    Raises:
        ValueError: the model has no layer at one of the places.
    """
    places = dict(sublayers(model))
    missing = [path for path in replaced if path not in places]
    if missing:
        raise ValueError(f"The model has no layers {missing}. It has {list(places)}")
    instead = {id(places[path]): layer for path, layer in replaced.items()}
    for owner in [*reversed(places.values()), model]:
        if not _is_container(owner):
            continue
        # Another one, because the calls of its layers are recorded.
        cloned = keras.models.clone_model(owner, clone_function=lambda layer: instead.get(id(layer), layer))
        instead[id(owner)] = cloned
    for owner in (model, *places.values()):
        for name, value in _fields(owner).items():
            if (other := _swapped(value, instead)) is not value:
                setattr(owner, name, other)
        if isinstance(owner, keras.Function) and not _is_container(owner):
            replace_operations(owner, instead)
        if isinstance(owner, keras.Sequential) and not _is_container(owner):
            _replace_in_list(owner, instead)
            continue
        owner._layers[:] = [layer for layer in owner._layers if id(layer) not in instead or _is_container(owner)]
    return instead.get(id(model), model)


def _replace_in_list(model: keras.Sequential, instead: Mapping[int, Layer]) -> None:
    """Let a sequential model of a class of its own, which a clone would lose, list other layers."""
    others = [instead.get(id(layer), layer) for layer in model.layers]
    for _ in others:
        model.pop(rebuild=False)
    for number, layer in enumerate(others, 1):
        model.add(layer, rebuild=number == len(others))


def _is_container(layer: Layer) -> bool:
    """Whether the layers of a layer are a list or a graph, and no attributes."""
    return type(layer) is keras.Sequential or (
        isinstance(layer, keras.Function) and type(layer).__module__.startswith("keras.")
    )


def _swapped(value: Any, instead: Mapping[int, Layer]) -> Any:
    """`value` with other layers in it; `value` itself where it has none of those."""
    if id(value) in instead:
        return instead[id(value)]
    if isinstance(value, dict):
        items = {key: _swapped(item, instead) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if isinstance(value, (list, tuple)):
        others = [_swapped(item, instead) for item in value]
        changed = any(a is not b for a, b in zip(others, value, strict=True))
        return type(value)(others) if changed and isinstance(value, tuple) else others if changed else value
    return value


def _members(owner: Layer) -> Iterator[tuple[str, Layer]]:
    """The layers under the attributes of a layer, in order; those that only Keras lists are counted."""
    if isinstance(owner, (keras.Sequential, keras.Function)):
        inner = [layer for layer in owner.layers if not isinstance(layer, keras.layers.InputLayer)]
        yield from ((str(index), layer) for index, layer in enumerate(inner))
    for name, value in _fields(owner).items():
        yield from _found(name, value)
    listed = [layer for layer in owner._layers if not isinstance(layer, keras.layers.InputLayer)]
    yield from ((f"layers/{index}", layer) for index, layer in enumerate(listed))


def _fields(owner: Layer) -> dict[str, Any]:
    """The attributes of a layer that are not those of every layer."""
    # On torch layers are modules, which stand elsewhere.
    fields = {**vars(owner), **vars(owner).get("_modules", {})}
    return {name: value for name, value in fields.items() if name not in _fields_of_keras()}


def _found(name: str, value: Any) -> Iterator[tuple[str, Layer]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, keras.layers.Layer):
        yield name, value
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    for key, item in items:
        yield from _found(f"{name}/{key}", item)


@functools.cache
def _fields_of_keras() -> frozenset[str]:
    """What every model has, and lists layers a second time."""
    tensor = keras.Input((1,))
    models = (keras.Model(), keras.Sequential([tensor]), keras.Model(tensor, tensor))
    return frozenset(name for model in models for name in vars(model))

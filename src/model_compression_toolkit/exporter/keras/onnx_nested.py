# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that are made of calls of others: those that wrap a layer or model, and those whose code can be recorded."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
from keras import layers

from model_compression_toolkit.core.keras.graph import Call, Value, by_name
from model_compression_toolkit.core.keras.reading import calls_inside, graph_of, is_functional
from model_compression_toolkit.core.keras.tracing import NotTraceable
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["Find", "recorded", "wrapping_layers"]

Find = Callable[[Call, Any, Mapping[str, Any]], Translator]
"""What translates a call of an operation with arguments."""

_INNER = "layer."
"""What the names of the weights of a wrapped layer begin with."""


def wrapping_layers(find: Find) -> dict[type, Translator]:
    """The layers that wrap another one.

    Args:
        find: finds what translates the layer inside.
    """
    return {
        # Each step is a sample of its own.
        layers.TimeDistributed: lambda site: _time_distributed(site, find),
        # The weight that training has normalized is in the layer.
        layers.SpectralNormalization: lambda site: _wrapped(site, find, site.first, site.result, site.x),
    }


def recorded(find: Find) -> Translator:
    """Translates a layer, of Keras or of the user's own, by the functions that its code calls.

    Args:
        find: finds what translates each of them.

    Raises:
        ValueError: its code does more than that.
    """

    def translate(site: Site) -> list[str]:
        try:
            graph, weights = calls_inside(site.operation, site.call)
        except NotTraceable as error:
            raise ValueError(f"its code is more than calls of functions of `keras.ops`: {error}") from error
        constants = {value: site.operand(weight, weight.dtype) for value, weight in weights.items()}
        names = _translated(site, graph.calls, {**site.names, **constants}, find)
        return [names[value] for value in keras.tree.flatten(graph.outputs)]

    return translate


def _time_distributed(site: Site, find: Find) -> str:
    shape, result = site.first.shape, site.result.shape
    if None in (*shape[1:], *result[1:]):
        site.refuse(f"an input of shape {shape}", "Give it a fixed size.")
    steps, of_step = Value((None, *shape[2:]), site.first.dtype), Value((None, *result[2:]), site.result.dtype)
    y = _wrapped(site, find, steps, of_step, site.reshape(site.x, [-1, *_sizes(shape[2:])]))
    return site.reshape(y, [-1, *_sizes(result[1:])])


def _wrapped(site: Site, find: Find, x: Value, result: Value, name: str) -> str:
    """What the layer or model inside makes of one tensor."""
    inner = site.operation.layer
    if is_functional(inner):
        graph = graph_of(inner)
        (first,), (last,) = keras.tree.flatten(graph.inputs), keras.tree.flatten(graph.outputs)
        for call in graph.calls:
            call.name, call.path = f"{site.name}/{call.name}", f"{site.call.path}/{call.path}"
        return _translated(site, graph.calls, {first: name}, find)[last]
    call = Call(site.name, site.call.path, inner, (x,), {})
    call.outputs = [dataclasses.replace(result, call=call)]
    quantizers = {key.removeprefix(_INNER): quantizer for key, quantizer in site.quantizers.items()}
    names = {x: name}
    within = dataclasses.replace(
        site, call=call, operation=inner, quantizers=quantizers, names=names, arguments={}, prefix=_INNER
    )
    y = find(call, inner, {})(within)
    return y if isinstance(y, str) else y[0]


def _translated(site: Site, calls: Iterable[Call], names: Mapping[Value, str], find: Find) -> dict[Value, str]:
    """What stands for each value after some calls."""
    found = dict(names)
    for call in calls:
        operation, arguments = call.operation, call.kwargs
        if isinstance(operation, keras.layers.Layer):
            arguments = by_name(operation, call.args, call.kwargs)
        translator = find(call, operation, arguments)
        within = dataclasses.replace(
            site, call=call, operation=operation, quantizers={}, names=found, arguments=arguments, prefix=""
        )
        results = translator(within)
        found.update(zip(call.outputs, [results] if isinstance(results, str) else results, strict=True))
    return found


def _sizes(shape: tuple[int | None, ...]) -> list[int]:
    return [size for size in shape if size is not None]

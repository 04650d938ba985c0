# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The state of a layer: its weights, the seeds of its random numbers, and what it keeps beside its weights."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from model_compression_toolkit.core.keras.operators import weight_axes
from model_compression_toolkit.core.keras.sublayers import own_weights, sublayers

Layer = Any

_METHODS = ("save_own_variables", "load_own_variables", "save_assets", "load_assets")
"""How Keras saves and loads a layer; one that keeps more than weights, such as a vocabulary, has methods of its own."""


def copy_state(source: Layer, target: Layer, but: tuple[str, ...] = ()) -> None:
    """Give a copy of a layer or model the state of the layer, with all that is inside.

    Args:
        source: the layer.
        target: the copy, built as far as its call has reached the layers inside.
        but: the places of layers inside that keep their state, with what is inside of these.
    """
    layers = dict(sublayers(target))
    for path, layer in [("", source), *sublayers(source)]:
        if any(path == kept or path.startswith(f"{kept}/") for kept in but):
            continue
        other = layers[path] if path else target
        if layer.built and not other.built:
            # The run that built the copy did not reach it.
            other.build_from_config(layer.get_build_config())
        _copy_own_state(layer, other)


def _copy_own_state(layer: Layer, other: Layer) -> None:
    """Copy the state of a layer that belongs to no layer inside it."""
    for weight, copy in zip(own_weights(layer), own_weights(other), strict=True):
        # Not the variable itself: on JAX both would share a buffer, which a training step gives away.
        copy.assign(keras.ops.convert_to_numpy(weight))
    for seed, copy in zip(_own_seeds(layer), _own_seeds(other), strict=False):
        copy.assign(keras.ops.convert_to_numpy(seed))
    if not weight_axes(layer) and _keeps_more_than_weights(layer):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        other.load_own_variables({name: keras.ops.convert_to_numpy(value) for name, value in store.items()})
        if hasattr(layer, "save_assets"):
            with tempfile.TemporaryDirectory() as folder:
                layer.save_assets(folder)
                other.load_assets(folder)


def _keeps_more_than_weights(layer: Layer) -> bool:
    plain = keras.Model if isinstance(layer, keras.Model) else keras.layers.Layer
    return any(getattr(type(layer), name, None) is not getattr(plain, name, None) for name in _METHODS)


def copy_weights(source: Layer, target: Layer) -> None:
    """Give a built copy of a layer the weights of the layer; a bias that the copy has in addition becomes zero."""
    values = source.get_weights()
    missing = [np.zeros(weight.shape, weight.dtype) for weight in target.weights[len(values) :]]
    target.set_weights(values + missing)


@contextmanager
def preserved_seeds(model: keras.Model) -> Iterator[None]:
    """Give back the states of the random numbers of a model, which each run moves on."""
    seeds = _seeds(model)
    kept = [keras.ops.convert_to_numpy(seed) for seed in seeds]
    try:
        yield
    finally:
        for seed, state in zip(seeds, kept, strict=True):
            seed.assign(state)


def _seeds(layer: Layer) -> list[keras.Variable]:
    """The states of the random numbers of a layer and all inside it: Keras counts them as variables, not as weights."""
    weights = {id(weight) for weight in layer.weights}
    return [variable for variable in layer.variables if id(variable) not in weights]


def _own_seeds(layer: Layer) -> list[keras.Variable]:
    inner = {id(seed) for _, sublayer in sublayers(layer) for seed in _seeds(sublayer)}
    return [seed for seed in _seeds(layer) if id(seed) not in inner]

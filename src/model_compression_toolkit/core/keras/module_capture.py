# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A Keras model seen layer by layer: a copy whose code runs as it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.operation_graph import float_weight_site
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.common.quantization_plan import TensorSite
from model_compression_toolkit.core.common.reference_outputs import ReferenceOutputs
from model_compression_toolkit.core.keras.data import Batch
from model_compression_toolkit.core.keras.graph import first_by_position
from model_compression_toolkit.core.keras.graph_sites import weight_sites
from model_compression_toolkit.core.keras.layer_state import copy_state
from model_compression_toolkit.core.keras.operators import weight_axes
from model_compression_toolkit.core.keras.sublayers import config_of, own_weights, sublayers
from model_compression_toolkit.core.keras.tracing import in_one_line

Layer = Any


@dataclass
class CapturedModules:
    """A built copy of the user's model.

    Attributes:
        model: the copy.
        reference: what the user's model computes on the sample.
        run: runs a model that takes the same inputs on a batch.
        notes: what the report should say about the capture.
    """

    model: keras.Model
    reference: ReferenceOutputs
    run: Callable[[keras.Model, Batch], Any]
    notes: list[str] = field(default_factory=list)
    mode: CaptureMode = CaptureMode.MODULES

    def observer(self, sites: list[TensorSite]) -> Callable[[Batch], list[Any]]:
        """A function that runs the float model on a batch and gives the values of the inputs of some layers."""
        layers = dict(sublayers(self.model))
        watched = {site.layer: layers[site.layer] for site in sites}

        def observe(batch: Batch) -> list[Any]:
            with _recorded_inputs(watched) as inputs:
                self.run(self.model, batch)
            # A batch may not reach a layer.
            values = ([np.ravel(item) for item in inputs.get(site.layer, [])] for site in sites)
            return [np.concatenate(calls) if calls else np.empty(0) for calls in values]

        return observe

    def layer(self, path: str) -> Layer:
        """The copy of a layer."""
        return dict(sublayers(self.model))[path]


def copied(operation: Any, what: str, **changes: Any) -> Any:
    """A copy of a layer or operation by its configuration, not built.

    Args:
        operation: the layer, model or operation.
        what: how to call it in an error.
        **changes: other arguments of its constructor.

    Raises:
        ValueError: it cannot be made from its configuration.
    """
    try:
        return type(operation).from_config({**config_of(operation), **changes})
    except Exception as error:  # the user's class may raise anything
        raise ValueError(
            f"{what} cannot be copied: {type(operation).__name__}.from_config with what its `get_config` returns fails "
            f"({in_one_line(error)}). Give the class a `get_config` with its constructor's arguments."
        ) from error


def copied_model(model: keras.Model, build: Callable[[keras.Model], Any]) -> keras.Model:
    """A copy of a model with its weights.

    Args:
        model: the model, built.
        build: runs the copy on data.

    Raises:
        ValueError: the model cannot be made from its configuration.
    """
    copy = copied(model, "The model")
    build(copy)
    copy_state(model, copy)
    return copy


def weighted_layers(model: keras.Model) -> dict[str, Layer]:
    """The layers with weights that have a rule, by their places, none of them inside another."""
    found: dict[str, Layer] = {}
    for path, layer in sublayers(model):
        inside = any(path.startswith(f"{outer}/") for outer in found)
        if weight_axes(layer) and not inside:
            found[path] = layer
    return found


def module_sites(captured: CapturedModules, sample: Batch) -> Iterator[TensorSite]:
    """The input and the weights of each layer that has a rule, in the order in which a run on `sample` calls them.

    The first and the last of the called layers count as first and last.
    """
    layers = weighted_layers(captured.model)
    with _recorded_inputs(layers) as inputs:
        captured.run(captured.model, sample)
    called = list(inputs)
    for path in [*called, *(path for path in layers if path not in inputs)]:
        layer = layers[path]
        near_end = path in (called[:1] + called[-1:])
        unused = "" if path in inputs else "the layer was not reached by the data"
        is_lookup = isinstance(layer, keras.layers.Embedding)
        yield TensorSite(
            layer=path,
            tensor="input",
            target=QuantizationTarget.Activation,
            type=type(layer).__name__,
            shape=tuple(inputs[path][0].shape) if path in inputs else (),
            first_or_last=near_end,
            reason="indices are not quantized" if is_lookup else unused,
        )
        if layer.built:
            yield from weight_sites(path, layer, near_end, unused)
    for path, layer in [("model", captured.model), *sublayers(captured.model)]:
        if not any(path == listed or path.startswith(f"{listed}/") for listed in layers):
            for variable in own_weights(layer):
                if len(variable.shape) > 1:
                    yield float_weight_site(path, variable.name, type(layer).__name__, tuple(variable.shape))


@contextmanager
def _recorded_inputs(layers: dict[str, Layer]) -> Iterator[dict[str, list[Any]]]:
    """The first input of every call of some layers, as NumPy arrays, by their places, in the order of first calls."""
    inputs: dict[str, list[Any]] = {}

    def recording(path: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            first = first_by_position(call, args, kwargs)[0][0]
            inputs.setdefault(path, []).append(keras.ops.convert_to_numpy(first))
            return call(*args, **kwargs)

        return recorded

    try:
        for path, layer in layers.items():
            # Past Keras, which would keep a list of what it sees.
            object.__setattr__(layer, "call", recording(path, layer.call))
        yield inputs
    finally:
        for layer in layers.values():
            object.__delattr__(layer, "call")

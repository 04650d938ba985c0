# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How a Keras model is seen: as a graph of calls, on copies of its layers, or layer by layer."""

import dataclasses
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras

from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.framework import described
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.common.quantization_plan import TensorSite
from model_compression_toolkit.core.common.reference_outputs import ReferenceOutputs
from model_compression_toolkit.core.keras.data import Batch
from model_compression_toolkit.core.keras.graph import Call, Graph, Operation, Value, rebuild
from model_compression_toolkit.core.keras.layer_state import copy_state
from model_compression_toolkit.core.keras.module_capture import CapturedModules, copied, copied_model
from model_compression_toolkit.core.keras.reading import graph_of, graph_of_code, is_functional
from model_compression_toolkit.core.keras.running import (
    CopyFails,
    input_structure,
    reference_outputs,
    run_copy,
    run_model,
)
from model_compression_toolkit.core.keras.tracing import NotTraceable
from model_compression_toolkit.logger import LOGGER_NAME

_LOGGER = logging.getLogger(LOGGER_NAME)


@dataclass
class Captured:
    """A model of copies of the user's layers, ready to be changed.

    Attributes:
        graph: the calls, of the user's operations.
        reference: what the user's model computes on the sample.
        copies: the operation that stands for each of the user's, by its path.
        notes: what the report should say about the capture.
    """

    graph: Graph
    reference: ReferenceOutputs
    copies: dict[str, Operation]
    notes: list[str] = field(default_factory=list)
    mode: CaptureMode = CaptureMode.GRAPH

    def float_model(self, observed: list[Value] | None = None) -> keras.Model:
        """The float model.

        Args:
            observed: the tensors that it returns, as a list; those of the user's model unless given.
        """
        graph = self.graph
        if observed is not None:
            graph = dataclasses.replace(graph, outputs=observed)
        return rebuild(graph, lambda call, args, kwargs: self.copies[call.path](*args, **kwargs))

    def observer(self, sites: list[TensorSite]) -> Callable[[Batch], list[Any]]:
        """A function that runs the float model on a batch and gives the values of some activations."""
        model = self.float_model([self.value(site.layer) for site in sites])
        return lambda batch: run_model(model, batch)

    def layer(self, path: str) -> Operation:
        """The copy of a layer."""
        return self.copies[path]

    def value(self, name: str) -> Value:
        """The tensor with a name, see `Graph.values`.

        Raises:
            ValueError: the model has none: the plan belongs to another model.
        """
        values = dict(self.graph.values())
        if name not in values:
            raise ValueError(f"The model has no tensor {name!r}. It has {sorted(values)}")
        return values[name]


def check_model(model: Any) -> None:
    """A float Keras 3 model whose variables exist.

    Raises:
        TypeError: no Keras 3 model, such as one of Keras 2 (`tf_keras`).
        ValueError: it is not built, or quantized already; its `call` takes several inputs one by one.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model of Keras 3. Received: {described(model)}")
    if not model.built:
        raise ValueError("`model` must be built: call it on data once, or `model.build(input_shape)`.")
    if is_quantized(model):
        raise ValueError("`model` is quantized already: it holds wrappers or holders. Give the float model.")
    several = [] if is_functional(model) else list(_needed_arguments(model))[1:]
    if several:
        raise ValueError(
            "The `call` of `model` must take one argument, a tensor or a list or dictionary of tensors. "
            f"Received: also {several}"
        )


def _needed_arguments(model: keras.Model) -> Iterator[str]:
    """The arguments of the model's `call` without which it cannot be called."""
    for name, item in inspect.signature(model.call).parameters.items():
        if item.default is item.empty and item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD):
            yield name


def is_quantized(model: keras.Model) -> bool:
    """Whether a model holds quantization wrappers or holders."""
    kinds = (KerasQuantizationWrapper, KerasActivationQuantizationHolder)
    return any(isinstance(layer, kinds) for layer in model._flatten_layers())


def built_copies(graph: Graph) -> dict[str, Operation]:
    """A copy of each operation of a graph, built and with the state of the original.

    Raises:
        ValueError: an operation cannot be made from its configuration.
    """
    copies = _copies_of(graph)
    rebuild(graph, lambda call, args, kwargs: copies[call.path](*args, **kwargs))
    for path, layer in graph.layers().items():
        copy_state(layer, copies[path])
    return copies


def capture(model: keras.Model, mode: CaptureMode, sample: Batch) -> Captured | CapturedModules:
    """Copy a model and see it as a graph, or layer by layer.

    Args:
        model: the user's model; it is not changed.
        mode: how to see it.
        sample: inputs, to check that the copy computes what the model does.

    Raises:
        ValueError: the sample does not fit the model; a layer or the model cannot be copied; `mode` is `GRAPH` and the
            code of the model does something else than calling layers and functions.
    """
    reference = reference_outputs(model, sample)
    if mode is CaptureMode.MODULES:
        return _modules(model, sample, reference, "captured layer by layer, as configured")
    reason = ""
    # A layer of the user's that Keras runs in another way than its calls tell is taken as a whole.
    for opens_layers in (True, False):
        try:
            graph = _graph(model, sample, opens_layers)
        except NotTraceable as error:
            reason = str(error)
            break
        if not opens_layers:
            graph.notes.append(f"layers with code of their own are taken as wholes, because {reason}")
        try:
            captured = Captured(graph, reference, built_copies(graph), graph.notes)
            if reference.agree(run_copy(captured.float_model(), sample)):
                return captured
            reason = "a copy of its recorded calls computes something else"
        except CopyFails as error:
            reason = str(error)
    if is_functional(model):
        raise ValueError(
            f"The model cannot be copied from the configurations of its layers: {reason}. A layer's `get_config` "
            "leaves out what its `call` depends on, or its `call` cannot run on symbolic tensors."
        )
    if mode is CaptureMode.GRAPH:
        raise ValueError(
            f"`capture` is 'graph', but the model is no graph of calls: {reason}. Use 'auto' or 'modules'."
        )
    note = (
        f"captured layer by layer, because the model is no graph of calls ({reason}): what its code computes itself "
        "stays in float and is not listed"
    )
    _LOGGER.warning(note)
    return _modules(model, sample, reference, note)


def _graph(model: keras.Model, sample: Batch, opens_layers: bool) -> Graph:
    if is_functional(model):
        return graph_of(model, opens_layers)
    dtype = model.input_dtype if model.autocast else None

    def value(array: Any) -> Value:
        is_float = keras.backend.is_float_dtype(str(array.dtype))
        return Value((None, *array.shape[1:]), dtype if is_float and dtype else str(array.dtype))

    values = [value(array) for array in sample]
    return graph_of_code(model, keras.tree.pack_sequence_as(input_structure(model), values), opens_layers)


def _modules(model: keras.Model, sample: Batch, reference: ReferenceOutputs, note: str) -> CapturedModules:
    def run(like: keras.Model, batch: Batch) -> list[Any]:
        return run_model(like, batch, model)

    copy = copied_model(model, lambda copy: run_copy(copy, sample, model))
    if not reference.agree(run_copy(copy, sample, model)):
        raise ValueError(
            "A copy of the model, made with `from_config(model.get_config())` and the same weights, computes something "
            "else: its `get_config` leaves out what its `call` depends on."
        )
    return CapturedModules(copy, reference, run, [note])


def _copies_of(graph: Graph) -> dict[str, Operation]:
    """A copy of each operation of a graph, by its path, with a name that is unique, not built yet."""
    copies: dict[str, Operation] = {}
    taken = set(graph.input_names)
    for call in graph.calls:
        if call.path not in copies:
            own = call.operation.name
            whole_path = own in taken or call.path.rpartition("/")[2] != own
            copies[call.path] = _copy(call, unique_name(plain_name(call.path) if whole_path else own, taken))
    return copies


def plain_name(name: str) -> str:
    """A name that every backend takes for a layer: TensorFlow takes no blanks, torch no dots, Keras no slashes."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name.replace("]", ""))


def unique_name(base: str, taken: set[str]) -> str:
    """`base`, with a number where it is taken; it is taken from then on."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def _copy(call: Call, name: str) -> Operation:
    operation = call.operation
    if type(operation) is keras.layers.Lambda:
        return _copied_lambda(operation, name)
    return copied(operation, f"The layer {call.path!r}", name=name)


def _copied_lambda(layer: keras.layers.Lambda, name: str) -> keras.layers.Lambda:
    """A layer with the same function: Keras makes none of a configuration that holds code."""
    config = {**keras.layers.Layer.get_config(layer), "name": name}
    # What the constructor was given; without it Keras finds the shape itself.
    shape = getattr(layer, "_output_shape", None)
    copy: keras.layers.Lambda = keras.layers.Lambda(
        layer.function, output_shape=shape, mask=layer.mask, arguments=dict(layer.arguments), **config
    )
    return copy

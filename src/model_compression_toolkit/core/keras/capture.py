# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How a Keras model is seen: as a graph of calls, on copies of its layers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.framework import described
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.keras.batch_norm import copy_weights
from model_compression_toolkit.core.keras.data import Batch
from model_compression_toolkit.core.keras.graph import Call, Graph, Operation, Value, graph_of, is_functional, rebuild


@dataclass
class Captured:
    """A model of copies of the user's layers, ready to be changed.

    Attributes:
        graph: the calls, of the user's operations.
        copies: the operation that stands for each of the user's, by its path.
        mode: graph or modules.
        notes: what the report should say about the capture.
    """

    graph: Graph
    copies: dict[str, Operation]
    mode: CaptureMode = CaptureMode.GRAPH
    notes: list[str] = field(default_factory=list)

    def float_model(self, observed: list[Value] | None = None) -> keras.Model:
        """The float model.

        Args:
            observed: the tensors that it returns, as a list; those of the user's model unless given.
        """
        graph = self.graph
        if observed is not None:
            graph = Graph(graph.name, graph.inputs, graph.input_names, observed, graph.calls)
        return rebuild(graph, lambda call, args, kwargs: self.copies[call.path](*args, **kwargs))

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
        ValueError: it is not built, or quantized already.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model of Keras 3. Received: {described(model)}")
    if not model.built:
        raise ValueError("`model` must be built: call it on data once, or `model.build(input_shape)`.")
    if is_quantized(model):
        raise ValueError("`model` is quantized already: it holds wrappers or holders. Give the float model.")


def is_quantized(model: keras.Model) -> bool:
    """Whether a model holds quantization wrappers or holders."""
    kinds = (KerasQuantizationWrapper, KerasActivationQuantizationHolder)
    return any(isinstance(layer, kinds) for layer in model._flatten_layers())


def built_copies(graph: Graph, changes: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Operation]:
    """A copy of each operation of a graph, built and with the weights of the original."""
    copies = _copies_of(graph, changes)
    rebuild(graph, lambda call, args, kwargs: copies[call.path](*args, **kwargs))
    for path, layer in graph.layers().items():
        copy_weights(layer, copies[path])
    return copies


def capture(model: keras.Model, mode: CaptureMode, changes: Mapping[str, Mapping[str, Any]]) -> Captured:
    """Copy a model and see it as a graph.

    Args:
        model: the user's model; it is not changed.
        mode: how to see it.
        changes: other arguments of the constructors of some layers, by their paths.

    Raises:
        ValueError: the model is no functional or sequential one, or a layer cannot be copied.
    """
    if mode is CaptureMode.MODULES or not is_functional(model):
        raise ValueError(
            "`model` must be a functional or sequential model. Received: "
            f"{type(model).__name__}; make it one with keras.Model(inputs, outputs)"
        )
    graph = graph_of(model)
    return Captured(graph, built_copies(graph, changes))


def _copies_of(graph: Graph, changes: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Operation]:
    """A copy of each operation of a graph, by its path, with a name that is unique, not built yet.

    Args:
        graph: the calls.
        changes: other arguments of the constructors of some layers, by their paths.

    Raises:
        ValueError: an operation cannot be made from its configuration.
    """
    copies: dict[str, Operation] = {}
    by_identity: dict[int, Operation] = {}
    taken = set(graph.input_names)
    for call in graph.calls:
        operation = call.operation
        if id(operation) not in by_identity:
            base = call.path.replace("/", "_") if operation.name in taken else operation.name
            name = unique_name(base, taken)
            by_identity[id(operation)] = _copy(call, name, (changes or {}).get(call.path, {}))
        copies[call.path] = by_identity[id(operation)]
    return copies


def unique_name(base: str, taken: set[str]) -> str:
    """`base`, with a number where it is taken; it is taken from then on."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    taken.add(name)
    return name


def run_model(model: keras.Model, batch: Batch) -> list[Any]:
    """The model's outputs in evaluation for a batch, flattened, as NumPy arrays.

    Raises:
        ValueError: the model fails on the batch; the text gives its shapes and dtypes.
    """
    # A sequential model that was never called has `inputs` and no `input`.
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    expected = len(keras.tree.flatten(structure))
    shapes = ", ".join(f"{item.shape} {item.dtype}" for item in batch)
    advice = "`data` must yield the inputs of the model and nothing else (no labels)."
    if len(batch) != expected:
        raise ValueError(f"{advice} The model has {expected} inputs. Received: a batch of {shapes}")
    try:
        outputs = model(keras.tree.pack_sequence_as(structure, list(batch)), training=False)
    except Exception as error:  # the user's layers may raise anything
        raise ValueError(f"{advice} The model failed on a batch of {shapes}: {_in_one_line(error)}") from error
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def _copy(call: Call, name: str, changes: Mapping[str, Any]) -> Operation:
    operation = call.operation
    if isinstance(operation, keras.layers.Lambda):
        # Its code is no configuration; a layer without state can stand in two models.
        return operation
    try:
        return type(operation).from_config({**operation.get_config(), "name": name, **changes})
    except Exception as error:  # the user's class may raise anything
        raise ValueError(
            f"The layer {call.path!r} cannot be copied: {type(operation).__name__}.from_config(layer.get_config()) "
            f"fails ({_in_one_line(error)}). Give the class a `get_config` with its constructor's arguments."
        ) from error


def _in_one_line(error: Exception) -> str:
    """Class and reason of an error; before the reason Keras puts a line of its own, and colours."""
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith("Exception encountered")]
    return f"{type(error).__name__}: {reasons[0] if reasons else 'no text'}"

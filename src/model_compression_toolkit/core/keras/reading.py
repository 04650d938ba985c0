# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a Keras model as a list of calls, models and layers inside it opened."""

from typing import Any

import keras

from mct_quantizers.common.constants import TRAINING
from mct_quantizers.common.quantizer_dispatch import takes_training
from model_compression_toolkit.core.keras.graph import Call, Graph, Operation, Value, first_by_position
from model_compression_toolkit.core.keras.operators import weight_axes
from model_compression_toolkit.core.keras.sublayers import sublayers
from model_compression_toolkit.core.keras.tracing import NotTraceable, Traced, trace, trace_evaluation

_FUNCTIONAL_CALL = type(keras.Model(*[keras.Input((1,))] * 2)).call
_CLOSED = ("keras", "mct_quantizers", "model_compression_toolkit")
"""Packages whose layers are known as a whole."""


def is_functional(model: Any) -> bool:
    """Whether a layer is a model whose calls Keras has recorded."""
    if isinstance(model, keras.Sequential):
        return bool(model.built and model.layers and type(model).call is keras.Sequential.call)
    # A subclass with a `call` of its own may do anything.
    return isinstance(model, keras.Function) and type(model).call is _FUNCTIONAL_CALL


def graph_of(model: keras.Model, opens_layers: bool = False) -> Graph:
    """The graph of a functional or sequential model. The model is not changed.

    Args:
        model: a model for which `is_functional` holds.
        opens_layers: whether the user's own layers are read too, where they only call layers and functions.
    """
    functional = _functional(model)
    inputs = keras.tree.map_structure(lambda tensor: Value(tuple(tensor.shape), tensor.dtype), functional.input)
    names = [str(tensor._keras_history.operation.name) for tensor in functional.inputs]
    graph = Graph(model.name, inputs, names, None, [], dtype_policy=model.dtype_policy)
    graph.outputs = _Reader(graph, opens_layers).read(functional, inputs)
    return graph


def graph_of_code(model: keras.Model, inputs: Any, opens_layers: bool = True) -> Graph:
    """The graph of a model with a `call` of its own. The model is not changed.

    Args:
        model: the model, built.
        inputs: a `Value` for each input, in the structure that `call` takes.
        opens_layers: as of `graph_of`.

    Raises:
        NotTraceable: its code does something else than calling layers and functions.
    """
    traced = trace(model, lambda: ((symbols_of(inputs),), {}))
    flat = keras.tree.flatten(inputs)
    # Of a dictionary Keras wants the names of its keys.
    names = ["_".join(str(key) for key in path) or "inputs" for path, _ in keras.tree.flatten_with_path(inputs)]
    names = [f"inputs_{name}" if name.isdigit() else name for name in names]
    graph = Graph(model.name, inputs, names, None, [], dtype_policy=model.dtype_policy)
    graph.outputs = _Reader(graph, opens_layers).read(traced.function, flat, traced=traced)
    return graph


def calls_inside(layer: Any, call: Call) -> tuple[Graph, dict[Value, keras.Variable]]:
    """What a layer's code calls in evaluation, for the arguments of a call of it.

    Args:
        layer: the layer, built. It is not changed.
        call: its call.

    Returns:
        The calls, whose inputs are those of `call`, and values that stand for weights of the layer.

    Raises:
        NotTraceable: its code does something else than calling layers and functions.
    """
    rest = {name: item for name, item in call.kwargs.items() if name != TRAINING}
    traced, weights = trace_evaluation(layer, lambda: (symbols_of(call.args), symbols_of(rest)))
    constants = {Value(tuple(weight.shape), weight.dtype): weight for weight in weights}
    tensors = [leaf for leaf in keras.tree.flatten((call.args, rest)) if isinstance(leaf, Value)]
    graph = Graph(call.name, tensors, [], None, [])
    graph.outputs = _Reader(graph, opens_layers=False).read(
        traced.function, [*tensors, *constants], f"{call.name}/", traced
    )
    return graph, constants


def symbols_of(structure: Any) -> Any:
    """A structure with new symbolic tensors instead of its values."""

    def symbol(leaf: Any) -> Any:
        return keras.Input(batch_shape=leaf.shape, dtype=leaf.dtype) if isinstance(leaf, Value) else leaf

    return keras.tree.map_structure(symbol, structure)


def _functional(model: Any) -> Any:
    if not isinstance(model, keras.Sequential):
        return model
    one_input, one_output = len(model.inputs) == 1, len(model.outputs) == 1
    return keras.Model(
        model.inputs[0] if one_input else model.inputs, model.outputs[0] if one_output else model.outputs
    )


class _Reader:
    """Appends calls to a graph.

    Args:
        graph: the graph.
        opens_layers: whether the user's own layers are opened.
    """

    def __init__(self, graph: Graph, opens_layers: bool) -> None:
        self._graph, self._opens_layers = graph, opens_layers
        self._counts = dict.fromkeys(graph.input_names, 1)
        self._paths: dict[int, str] = {}

    def read(self, functional: Any, inputs: Any, prefix: str = "", traced: Traced | None = None) -> Any:
        """Append the calls of a model; its outputs for `inputs`, one for each of the model's."""
        values = dict(zip(map(id, functional.inputs), keras.tree.flatten(inputs), strict=True))

        def value_of(leaf: Any) -> Any:
            return values[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                arguments = first_by_position(node.operation.call, node.arguments.args, node.arguments.kwargs)
                args, kwargs = keras.tree.map_structure(value_of, arguments)
                name = node.operation.name if traced is None else traced.name_of(node.operation)
                if traced is not None:
                    # What the training flag was while recording; it follows that of the model.
                    kwargs.pop(TRAINING, None)
                results = self._results(node, self._path(node.operation, f"{prefix}{name}"), tuple(args), dict(kwargs))
                values.update(zip(map(id, node.outputs), results, strict=True))
        return keras.tree.map_structure(value_of, functional.output)

    def _results(self, node: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Value]:
        """The results of a call, which is appended, or of what is inside it."""
        operation = node.operation
        start = len(self._graph.calls)
        if is_functional(operation):
            if not any(isinstance(leaf, Value) for leaf in keras.tree.flatten((args[1:], kwargs))):
                outputs = self.read(_functional(operation), args[0], f"{path}/")
                self._fix_training(start, kwargs)
                return list(keras.tree.flatten(outputs))
        elif self._opens_layers and _is_own(operation):
            outputs = self._inside(operation, path, args, kwargs)
            if outputs is not None:
                return outputs
        self._counts[path] = self._counts.get(path, 0) + 1
        name = path if self._counts[path] == 1 else f"{path}:{self._counts[path]}"
        call = Call(name, path, operation, args, kwargs)
        call.outputs = [
            Value(tuple(tensor.shape), tensor.dtype, call, index) for index, tensor in enumerate(node.outputs)
        ]
        self._graph.calls.append(call)
        return call.outputs

    def _inside(self, layer: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Value] | None:
        """The results of the calls inside a layer; None where it stays closed."""
        rest = {name: item for name, item in kwargs.items() if name != TRAINING}
        try:
            traced = trace(layer, lambda: (symbols_of(args), symbols_of(rest)))
        except NotTraceable as error:
            self._graph.notes.append(f"{path} is taken as a whole, because {error}")
            return None
        start = len(self._graph.calls)
        tensors = [leaf for leaf in keras.tree.flatten((args, rest)) if isinstance(leaf, Value)]
        outputs = self.read(traced.function, tensors, f"{path}/", traced)
        self._fix_training(start, kwargs)
        return list(keras.tree.flatten(outputs))

    def _fix_training(self, start: int, kwargs: dict[str, Any]) -> None:
        """The training flag that a model or layer was called with is that of what is inside it."""
        if kwargs.get(TRAINING) is not None:
            for call in self._graph.calls[start:]:
                if takes_training(call.operation):
                    call.kwargs[TRAINING] = kwargs[TRAINING]

    def _path(self, operation: Operation, wanted: str) -> str:
        """The path of an operation: where it was met first, with a number where another one stands there."""
        if id(operation) not in self._paths:
            path, number = wanted, 1
            while path in self._paths.values():
                number += 1
                path = f"{wanted}_{number}"
            self._paths[id(operation)] = path
        return self._paths[id(operation)]


def _is_own(operation: Operation) -> bool:
    """Whether an operation is a layer of the user's, with layers inside that could be quantized."""
    return (
        isinstance(operation, keras.layers.Layer)
        and type(operation).__module__.partition(".")[0] not in _CLOSED
        and any(weight_axes(inner) for _, inner in sublayers(operation))
    )

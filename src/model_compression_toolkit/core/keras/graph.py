# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A Keras model as a list of calls, and a functional model made of such a list."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras

from mct_quantizers.common.constants import TRAINING
from mct_quantizers.common.quantizer_dispatch import takes_training
from mct_quantizers.keras.metadata import ModelWithMetadata

Operation = Any
"""A `keras.Operation`: a layer, or a function of `keras.ops`."""


@dataclass(eq=False, slots=True)
class Value:
    """A tensor of the model.

    Attributes:
        shape: its shape; None where it varies.
        dtype: its dtype.
        call: the call that makes it; None for an input of the model.
        index: which of the call's results it is.
    """

    shape: tuple[int | None, ...]
    dtype: str
    call: "Call | None" = field(default=None, repr=False)
    index: int = 0


@dataclass(eq=False, slots=True)
class Call:
    """One call of an operation.

    Attributes:
        name: the path of the operation, such as `backbone/conv`; of a further call with a number: `backbone/conv:2`.
        path: the path of the operation.
        operation: the layer or function.
        args: positional arguments, a `Value` for each tensor.
        kwargs: keyword arguments, likewise.
        outputs: the results, flattened.
    """

    name: str
    path: str
    operation: Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Value] = field(default_factory=list)

    @property
    def inputs(self) -> list[Value]:
        """The tensors among the arguments, in their order, each once."""
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return list(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, Value)))


@dataclass(eq=False, slots=True)
class Graph:
    """A functional model.

    Attributes:
        name: its name.
        inputs: its inputs, in its structure: one `Value`, or a list or dictionary of them.
        input_names: names of the inputs, flattened.
        outputs: its outputs, in its structure.
        calls: all calls, in the order of execution.
        notes: what was taken as a whole, and why.
        dtype_policy: that of the model; None for that of the program.
    """

    name: str
    inputs: Any
    input_names: list[str]
    outputs: Any
    calls: list[Call]
    notes: list[str] = field(default_factory=list)
    dtype_policy: Any = None

    def call(self, name: str) -> Call:
        """The call with a name.

        Raises:
            ValueError: there is none: a plan belongs to another model.
        """
        for call in self.calls:
            if call.name == name:
                return call
        raise ValueError(f"The model has no layer or operation {name!r}. It has {[call.name for call in self.calls]}")

    def layers(self) -> dict[str, keras.layers.Layer]:
        """Each layer once, by its path."""
        found: dict[str, keras.layers.Layer] = {}
        for call in self.calls:
            if isinstance(call.operation, keras.layers.Layer) and call.operation not in found.values():
                found[call.path] = call.operation
        return found

    def bypass(self, name: str) -> None:
        """Take a call with one input and one output out of the graph.

        Raises:
            ValueError: there is no such call.
        """
        removed = self.call(name)
        (value,), (result,) = removed.inputs, removed.outputs

        def passed(structure: Any) -> Any:
            return keras.tree.map_structure(lambda leaf: value if leaf is result else leaf, structure)

        self.calls.remove(removed)
        for call in self.calls:
            call.args, call.kwargs = passed((call.args, call.kwargs))
        self.outputs = passed(self.outputs)

    def users(self, value: Value) -> list[Call]:
        """The calls that take a value."""
        return [call for call in self.calls if value in call.inputs]

    def values(self) -> Iterator[tuple[str, Value]]:
        """Every tensor with its name: that of its input or call, with an index where a call has several results."""
        for name, value in zip(self.input_names, keras.tree.flatten(self.inputs), strict=True):
            yield name, value
        for call in self.calls:
            for value in call.outputs:
                yield (call.name if len(call.outputs) == 1 else f"{call.name}[{value.index}]"), value


def rebuild(
    graph: Graph,
    call: Callable[[Call, tuple[Any, ...], dict[str, Any]], Any],
    after: Callable[[Value, Any], Any] | None = None,
) -> keras.Model:
    """A functional model of a graph.

    Args:
        graph: the calls.
        call: makes the results of a call from its arguments, symbolic tensors.
        after: what stands for a value from then on, such as what a holder makes of it; the value itself unless given.
    """
    tensors: dict[Value, Any] = {}

    def put(value: Value, tensor: Any) -> None:
        tensors[value] = tensor if after is None else after(value, tensor)

    def filled(structure: Any) -> Any:
        return keras.tree.map_structure(lambda leaf: tensors[leaf] if isinstance(leaf, Value) else leaf, structure)

    flat = keras.tree.flatten(graph.inputs)
    new = [
        keras.Input(batch_shape=value.shape, dtype=value.dtype, name=name)
        for value, name in zip(flat, graph.input_names, strict=True)
    ]
    for value, tensor in zip(flat, new, strict=True):
        put(value, tensor)
    for item in graph.calls:
        results = keras.tree.flatten(call(item, filled(item.args), filled(item.kwargs)))
        for value, tensor in zip(item.outputs, results, strict=True):
            put(value, tensor)
    inputs = keras.tree.pack_sequence_as(graph.inputs, new)
    model = ModelWithMetadata(inputs, filled(graph.outputs), name=graph.name)
    if graph.dtype_policy is not None:
        # By it `compile` decides whether losses are scaled.
        model.dtype_policy = graph.dtype_policy
    return model


def forget_calls(operations: Iterable[Operation]) -> None:
    """Let the next call of each operation be its first: `layer.output` is that of the first call."""
    for operation in operations:
        operation._inbound_nodes.clear()
        operation._outbound_nodes.clear()


def first_by_position(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, the first by its position: `Dense(3)(inputs=x)` is the call `Dense(3)(x)`.

    Args:
        call: the `call` of the layer or operation.
        args: positional arguments.
        kwargs: keyword arguments.
    """
    first = next(iter(inspect.signature(call).parameters.values()), None)
    if args or first is None or first.name not in kwargs or first.kind is not first.POSITIONAL_OR_KEYWORD:
        return args, kwargs
    return (kwargs[first.name],), {name: item for name, item in kwargs.items() if name != first.name}


def evaluated(operation: Operation, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call as `predict` makes it.

    That puts its training flag in the place of recorded ones, which are True for layers such as `RandomFlip`.
    """
    is_layer = isinstance(operation, keras.layers.Layer)
    return {**kwargs, TRAINING: False} if is_layer and takes_training(operation) else kwargs


def by_name(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a layer that follow its first, by their names."""
    names = list(inspect.signature(operation.call).parameters)
    return {**dict(zip(names[1:], args[1:], strict=False)), **kwargs}

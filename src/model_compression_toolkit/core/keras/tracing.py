# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Recording what the code of a layer or model does: its `call`, run on symbolic tensors."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from mct_quantizers.common.constants import TRAINING
from mct_quantizers.common.quantizer_dispatch import takes_training
from model_compression_toolkit.core.keras.sublayers import own_weights, sublayers

_SHAPES = ("newshape", "shape", "repeats")
"""Attributes of Keras's operations that hold sizes."""

Function = Any
"""A `keras.Model` whose calls Keras has recorded."""


class NotTraceable(ValueError):
    """The calls of a layer's code are not all that it does."""


class Traced:
    """The recorded calls of a layer's code.

    Attributes:
        function: a functional model of the tensors among the arguments, in their order.
        names: name of each operation, by its identity: for layers where they stand, such as `blocks/0`.
    """

    def __init__(self, function: Function, names: dict[int, str]) -> None:
        self.function, self._names = function, names

    def name_of(self, operation: Any) -> str:
        """Where a layer stands; of a function its own name without the number that depends on the program so far."""
        return self._names.get(id(operation)) or re.sub(r"_\d+$", "", operation.name)


def trace(layer: Any, make_arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]) -> Traced:
    """Record the calls of a built layer's code, nested layers closed. The layer is not changed.

    Args:
        layer: a layer or model with a `call` of its own.
        make_arguments: makes the arguments of the call, new `keras.Input`s for the tensors.

    Raises:
        NotTraceable: the code does something else than calling layers and functions of `keras.ops` on tensors, or what
            it does depends on `training` or on values.
    """
    _check(layer)
    with _unchanged(layer):
        evaluation, training = (_run(layer, make_arguments, flag) for flag in (False, True))
    if _signature(evaluation) != _signature(training):
        raise NotTraceable("its code does something else in training")
    for node, twin in zip(_nodes(evaluation), _nodes(training), strict=True):
        constant = node.arguments.kwargs.get(TRAINING)
        if constant is not None and constant == twin.arguments.kwargs.get(TRAINING):
            raise NotTraceable(f"it calls {node.operation.name!r} with training={constant}")
        if any(keras.ops.is_tensor(leaf) or isinstance(leaf, keras.Variable) for leaf in _leaves(node)):
            raise NotTraceable(f"{node.operation.name!r} takes a tensor that is no result of a call")
        _fix_sizes(node)
    return Traced(evaluation, {id(inner): path for path, inner in sublayers(layer)})


def trace_evaluation(
    layer: Any, make_arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
) -> tuple[Traced, list[keras.Variable]]:
    """Record what a built layer's code calls in evaluation. The layer is not changed.

    Args:
        layer: as of `trace`.
        make_arguments: as of `trace`.

    Returns:
        The recorded calls, in which weights and constants are arguments, and the weights that are inputs of the
        function, behind the tensors among the arguments.

    Raises:
        NotTraceable: the code does something else than calling layers and functions of `keras.ops`, makes masks,
            changes its state, or draws random numbers.
    """
    if type(layer).__call__ is not keras.layers.Layer.__call__:
        raise NotTraceable("it has a `__call__` of its own")
    with _unchanged(layer), keras.StatelessScope() as scope:
        weights: dict[str, keras.Variable] = {}
        try:
            functions = [_run(layer, make_arguments, False) for _ in range(2)]
        except NotTraceable as error:
            # A variable in front of an operator does not take symbolic tensors; a symbolic tensor does.
            weights = {name: value for name, value in vars(layer).items() if isinstance(value, keras.Variable)}
            try:
                functions = [_run(layer, make_arguments, False, weights) for _ in range(2)]
            except NotTraceable:
                raise error from None
        if _makes_mask(layer, make_arguments()[0]):
            raise NotTraceable("it makes a mask")
    if scope.state_mapping:
        raise NotTraceable("it changes its state, or draws random numbers")
    if _constants(functions[0]) != _constants(functions[1]):
        raise NotTraceable("it computes with other constants each time")
    return Traced(functions[0], {id(inner): path for path, inner in sublayers(layer)}), list(weights.values())


def _makes_mask(layer: Any, args: tuple[Any, ...]) -> bool:
    if type(layer).compute_mask is keras.layers.Layer.compute_mask:
        return False
    return any(item is not None for item in keras.tree.flatten(layer.compute_mask(args[0], None)))


def _constants(function: Function) -> list[bytes | None]:
    """The constant tensors in the order of the calls."""
    leaves = [leaf for node in _nodes(function) for leaf in _leaves(node)]
    return [
        keras.ops.convert_to_numpy(leaf).tobytes()
        if keras.ops.is_tensor(leaf) or isinstance(leaf, (keras.Variable, np.ndarray))
        else None
        for leaf in leaves
    ]


def _check(layer: Any) -> None:
    """What recorded calls would leave out.

    Raises:
        NotTraceable: there is something.
    """
    if own_weights(layer):
        raise NotTraceable(f"it has weights of its own: {[weight.name for weight in own_weights(layer)]}")
    methods = (type(layer).__call__, type(layer).compute_mask)
    if not all(method.__module__.startswith("keras.") for method in methods):
        raise NotTraceable("it has a `__call__` or a `compute_mask` of its own")


def _run(
    layer: Any,
    make_arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
    training: bool,
    weights: Mapping[str, keras.Variable] = MappingProxyType({}),
) -> Function:
    """The function of the tensors among the arguments, and of the weights, by attribute, that shall be inputs too."""
    args, kwargs = make_arguments()
    symbols = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]
    stand_ins = {name: keras.Input(batch_shape=weight.shape, dtype=weight.dtype) for name, weight in weights.items()}
    symbols += stand_ins.values()
    made: list[Function] = []

    class Recorder(keras.layers.Layer):
        """Gives the code what Keras gives it inside a call: the training flag, casts of the inputs."""

        def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
            raise NotImplementedError

        def compute_output_spec(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
            if takes_training(layer):
                kwargs[TRAINING] = training
            made.append(keras.Model(symbols, layer.call(*args, **kwargs)))
            return keras.KerasTensor((1,))

    recorder = Recorder(dtype=layer.dtype_policy)
    # Not by setattr, which Keras tracks.
    vars(layer).update(stand_ins)
    try:
        recorder(*args, training=training, **kwargs)
    except Exception as error:  # the user's code may raise anything
        raise NotTraceable(f"its code does not take symbolic tensors ({in_one_line(error)})") from error
    finally:
        vars(layer).update(weights)
    return made[0]


@contextmanager
def _unchanged(layer: Any) -> Iterator[None]:
    """Forget the calls that Keras records on the layer and all inside it."""
    operations = [layer, *(inner for _, inner in sublayers(layer))]
    lists = [nodes for item in operations for nodes in (item._inbound_nodes, item._outbound_nodes)]
    lengths = [len(nodes) for nodes in lists]
    try:
        yield
    finally:
        for nodes, length in zip(lists, lengths, strict=True):
            del nodes[length:]


def _fix_sizes(node: Any) -> None:
    """Give a reshape that read a size from a tensor, unknown while recording, the shape that it means.

    Raises:
        NotTraceable: an operation that needs the size itself.
    """
    operation = node.operation
    for name in _SHAPES:
        sizes = getattr(operation, name, None)
        if isinstance(operation, keras.layers.Layer) or not isinstance(sizes, (list, tuple)) or None not in sizes:
            continue
        fixed = _sizes_of_reshape(tuple(sizes), tuple(_leaf_shape(node))) if name == "newshape" else None
        if fixed is None:
            raise NotTraceable(f"it gives {operation.name!r} a size that is read from a tensor")
        node.operation = type(operation).from_config({**operation.get_config(), name: fixed})


def _leaf_shape(node: Any) -> tuple[int | None, ...]:
    """Shape of the first tensor that a call takes."""
    shape: tuple[int | None, ...] = next(leaf.shape for leaf in _leaves(node) if isinstance(leaf, keras.KerasTensor))
    return shape


def _sizes_of_reshape(sizes: tuple[int | None, ...], shape: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """The sizes with -1 for the one that is read from a tensor; None where they do not follow from the shape."""
    known = list(sizes)
    if -1 in known and known[0] is None is shape[0] and None not in shape[1:]:
        # As in `(batch, -1)`: the batch stays, and what is left follows.
        rest = math.prod(size for size in shape[1:] if size is not None)
        others = math.prod(size for size in known[1:] if size not in (None, -1))
        known[known.index(-1)] = rest // others if others else 0
    if known.count(None) + known.count(-1) != 1:
        return None
    return tuple(-1 if size is None else size for size in known)


def _nodes(function: Function) -> list[Any]:
    depths = function._nodes_by_depth
    return [node for depth in sorted(depths, reverse=True) for node in depths[depth] if not node.is_input]


def _leaves(node: Any) -> list[Any]:
    leaves: list[Any] = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    return leaves


def _signature(function: Function) -> list[Any]:
    """What is called with which tensors and constants, apart from the training flag."""
    numbers = {id(tensor): number for number, tensor in enumerate(function.inputs)}
    found: list[Any] = []
    for node in _nodes(function):
        operation = node.operation
        called = id(operation) if isinstance(operation, keras.layers.Layer) else type(operation).__name__
        kwargs = {name: value for name, value in node.arguments.kwargs.items() if name != TRAINING}
        leaves = keras.tree.flatten((node.arguments.args, kwargs))
        found.append((called, [numbers.get(id(leaf)) if id(leaf) in numbers else str(leaf) for leaf in leaves]))
        numbers.update({id(tensor): len(numbers) + index for index, tensor in enumerate(node.outputs)})
    return [*found, [numbers.get(id(tensor)) for tensor in function.outputs]]


def in_one_line(error: Exception) -> str:
    """Class and reason of an error; before the reason Keras puts a line of its own, and colours."""
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith("Exception encountered")]
    return f"{type(error).__name__}: {reasons[0] if reasons else 'no text'}"

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A model of any framework as a graph of operations: which tensors are quantized, and why the others are not."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import TensorSite


class Kind(Enum):
    """The part an operation plays."""

    WEIGHTED = auto()
    """A layer with a weight that can be quantized."""
    COMPUTE = auto()
    """A product of two tensors: accumulates in a wide integer."""
    ADD = auto()
    """An addition: can take in the accumulator of a product."""
    BATCH_NORM = auto()
    """An affine map of each channel in evaluation."""
    ACTIVATION = auto()
    """A function of one element, computed on the accumulator."""
    PRESERVING = auto()
    """Only moves or selects values: a quantized tensor stays on its grid."""
    OTHER = auto()
    """Anything else that makes new values."""


_FUSING = (Kind.WEIGHTED, Kind.COMPUTE, Kind.ADD, Kind.BATCH_NORM)


@dataclass(eq=False, slots=True)
class Operation:
    """One call of a layer or function, or an input or the output of the model.

    Attributes:
        layer: the name that plans use.
        kind: the part it plays.
        type: class of the layer or name of the function.
        sources: the operations whose results it takes, in the order of its arguments, each once.
        shape: of its result for one batch; None where that is no floating-point tensor.
        users: the operations that take its result, each once.
        is_input: whether it is an input of the model.
        is_output: whether it stands for the model's outputs.
        is_lookup: whether it only picks rows of a weight.
        has_activation: whether the layer applies an activation function of its own to its product.
    """

    layer: str
    kind: Kind
    type: str
    sources: Sequence["Operation"] = ()
    shape: tuple[int, ...] | None = None
    users: list["Operation"] = field(default_factory=list)
    is_input: bool = False
    is_output: bool = False
    is_lookup: bool = False
    has_activation: bool = False

    def __post_init__(self) -> None:
        for source in self.sources:
            source.users.append(self)


class OperationGraph:
    """The tensors of a captured graph.

    Every floating-point tensor that an operation makes is a site, except where an integer runtime keeps it in the wide
    accumulator: a product before its batch norm, an activation function after either, and one operand of an addition.

    Args:
        operations: all operations, in the order of execution.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = list(operations)
        self.fused = self._fused_into()
        self.end_layers, self._feeding_ends = self._first_and_last()

    def activation_site(self, operation: Operation, config: QuantizationConfig) -> TensorSite:
        """The result of an operation that has a shape."""
        reason, taker = "", self.fused.get(operation)
        if taker is not None and (config.fuse_additions or taker.kind is not Kind.ADD):
            reason = f"fused into {taker.layer}: stays in the accumulator"
        elif operation.kind is Kind.PRESERVING:
            reason = "keeps the grid of its input"
        elif operation.is_lookup:
            reason = "its rows come from the weight"
        elif not operation.users:
            reason = "its value is not used"
        elif all(user.is_output for user in operation.users) and not config.quantize_output:
            reason = "an output of the model (quantize_output=False)"
        return output_site(operation, reason, operation in self._feeding_ends)

    def _fused_into(self) -> dict[Operation, Operation]:
        """The operation that takes each fused tensor in."""
        fused: dict[Operation, Operation] = {}
        for operation in self.operations:
            candidates = [
                source
                for source in operation.sources
                if source.shape is not None
                and source.kind in _FUSING
                and not source.has_activation
                and len(source.users) == 1
            ]
            if operation.kind in (Kind.ACTIVATION, Kind.BATCH_NORM):
                fused.update({source: operation for source in candidates})
            elif operation.kind is Kind.ADD and len(operation.sources) > 1:
                # One operand can be the accumulator; the other is read from memory. The latest is the natural one.
                products = [source for source in candidates if source.kind is not Kind.ADD]
                fused.update({source: operation for source in products[-1:]})
        return fused

    def _first_and_last(self) -> tuple[set[Operation], set[Operation]]:
        """The first and last layers, and the operations whose outputs feed them."""
        first = _reachable((item for item in self.operations if item.is_input), forward=True)
        last = _reachable((item for item in self.operations if item.is_output), forward=False)
        layers = first | last
        return layers, {source for layer in layers for source in _feeding(layer)}


def output_site(operation: Operation, reason: str, near_end: bool = False) -> TensorSite:
    """The result of an operation as a site."""
    return TensorSite(
        layer=operation.layer,
        tensor="output",
        target=QuantizationTarget.Activation,
        type=operation.type,
        shape=operation.shape or (),
        first_or_last=near_end,
        reason=reason,
    )


def float_weight_site(layer: str, tensor: str, type_name: str, shape: tuple[int, ...], reason: str = "") -> TensorSite:
    """A matrix of a layer that has no rule, such as LSTM: it stays in float, and the report says so."""
    return TensorSite(
        layer=layer,
        tensor=tensor,
        target=QuantizationTarget.Weights,
        type=type_name,
        shape=shape,
        reason=reason or f"layers of type {type_name} are not quantized yet",
    )


def _reachable(starts: Iterable[Operation], forward: bool) -> set[Operation]:
    """Weighted layers that are reached from `starts` without passing another weighted layer."""
    found: set[Operation] = set()
    visited: set[Operation] = set()
    queue = list(starts)
    while queue:
        operation = queue.pop()
        for neighbour in operation.users if forward else operation.sources:
            if neighbour in visited:
                continue
            visited.add(neighbour)
            if neighbour.kind is Kind.WEIGHTED:
                found.add(neighbour)
            else:
                queue.append(neighbour)
    return found


def _feeding(operation: Operation) -> Iterator[Operation]:
    """The tensors that reach a layer through operations that only move values."""
    for source in operation.sources:
        if source.kind is Kind.PRESERVING:
            yield from _feeding(source)
        else:
            yield source

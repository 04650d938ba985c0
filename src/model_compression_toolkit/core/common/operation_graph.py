# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A model of any framework as a graph of operations: which tensors are quantized, and why the others are not."""

from collections.abc import Iterable, Iterator

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.exact_tensors import exact_tensors
from model_compression_toolkit.core.common.masked_tensors import masked_tensors
from model_compression_toolkit.core.common.operation import Kind, Operation
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import TensorSite

_FUSING = (Kind.WEIGHTED, Kind.COMPUTE, Kind.ADD, Kind.BATCH_NORM)


class OperationGraph:
    """The tensors of a captured graph.

    Every floating-point tensor that an operation makes is a site, except where an integer runtime keeps it in the wide
    accumulator: a product before its batch norm, an activation function after either, and one operand of an addition.
    What has to keep its values stays in float too: divisors, indices, masks; see `exact_tensors`, `masked_tensors`.

    Args:
        operations: all operations, in the order of execution.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = list(operations)
        masked = masked_tensors(self.operations)
        self._masked = masked.results
        self._exact = exact_tensors(self.operations, masked.masks)
        self.fused = self._fused_into()
        self.end_layers, self._feeding_ends = self._first_and_last()

    def activation_site(self, operation: Operation, config: QuantizationConfig) -> TensorSite:
        """The result of an operation that has a shape."""
        reason, taker = "", self.fused.get(operation)
        has_own_grid = operation.kind is not Kind.PRESERVING or self._leaves_float(operation)
        if operation in self._exact:
            reason = self._exact[operation].value
        elif operation in self._masked:
            reason = self._masked[operation]
        elif taker is not None and (config.fuse_additions or taker.kind is not Kind.ADD):
            reason = f"fused into {taker.layer}: stays in the accumulator"
        elif not has_own_grid:
            reason = "keeps the grid of its input"
        elif operation.is_lookup:
            reason = "its rows come from the weight"
        elif not operation.users:
            reason = "its value is not used"
        elif all(user.is_output for user in operation.users) and not config.quantize_output:
            reason = "an output of the model (quantize_output=False)"
        # A tensor that only moves values, and has a grid of its own, feeds what it comes from feeds.
        feeding = list(_feeding(operation)) if has_own_grid and operation.kind is Kind.PRESERVING else [operation]
        return output_site(operation, reason, not self._feeding_ends.isdisjoint(feeding))

    def _leaves_float(self, operation: Operation) -> bool:
        """Whether values that stay in float for other readers go from here to those that need a grid."""
        return any(
            source in self._exact
            or (source.kind is Kind.PRESERVING and source.shape is None and self._leaves_float(source))
            for source in operation.sources
        )

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
            elif operation.kind is Kind.ADD and len(operation.sources) > 1 and operation not in self._masked:
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

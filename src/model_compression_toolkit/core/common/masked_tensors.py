# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors that hold masks: one grid over the values and the mask would leave nothing of the values.

A mask in front of a softmax is -infinity, -1e9, the least number or -20: what it does must not depend on which. So the
scores are quantized before the mask, and what the softmax reads stays in float.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from model_compression_toolkit.core.common.operation import Kind, Operation, Reading, Trait

_BEFORE_SOFTMAX = "a mask stands in it: the scores are quantized before the mask"
_MARKED = "constants far from all values mark places in it: one grid for both would leave nothing of the values"
_PASSING = Trait.STEP | Trait.SUM


@dataclass
class MaskedTensors:
    """The operations of a graph that have to do with masks.

    Attributes:
        results: those in whose results a mask stands, with the reason that plans give.
        masks: those that make a mask.
    """

    results: dict[Operation, str] = field(default_factory=dict)
    masks: list[Operation] = field(default_factory=list)


def computed_tensors(operations: Iterable[Operation]) -> set[Operation]:
    """The operations whose results depend on a product: what is learned, and no mask.

    Args:
        operations: all operations, in the order of execution.
    """
    computed: set[Operation] = set()
    for operation in operations:
        if operation.kind in (Kind.WEIGHTED, Kind.COMPUTE) or not computed.isdisjoint(operation.sources):
            computed.add(operation)
    return computed


def masked_tensors(operations: Iterable[Operation]) -> MaskedTensors:
    """Find the masks before softmaxes, and what constants mark elsewhere.

    Args:
        operations: all operations, in the order of execution.
    """
    operations = list(operations)
    found, computed = MaskedTensors(), computed_tensors(operations)
    visited: dict[Operation, bool] = {}
    for operation in operations:
        for source in operation.sources:
            # A softmax, or attention that adds its argument before its own.
            if Trait.SOFTMAX in operation.traits or operation.readings.get(source) is Reading.MASK:
                _leads_from_mask(source, computed, found, visited)
    for operation in operations:
        is_marked = (Trait.SENTINEL in operation.traits and not feeds_product(operation)) or (
            _passes(operation) and any(found.results.get(source) == _MARKED for source in operation.sources)
        )
        if is_marked:
            found.results.setdefault(operation, _MARKED)
    return found


def _leads_from_mask(
    operation: Operation, computed: set[Operation], found: MaskedTensors, visited: dict[Operation, bool]
) -> bool:
    """Whether a mask stands in the result of an operation from which a softmax reads; all such results are noted."""
    if operation in visited:
        return visited[operation]
    visited[operation] = False
    masks = _masks_of(operation, computed)
    found.masks.extend(masks)
    leads = bool(masks) or Trait.MASKING in operation.traits
    if leads or _passes(operation):
        # Further masks may have been added before.
        leads |= any([_leads_from_mask(source, computed, found, visited) for source in operation.sources])
    if leads:
        found.results[operation] = _BEFORE_SOFTMAX
    visited[operation] = leads
    return leads


def _masks_of(operation: Operation, computed: set[Operation]) -> list[Operation]:
    """The arguments that are combined with learned values and depend on none themselves."""
    combines = bool((Trait.SUM | Trait.MASKING) & operation.traits)
    if not combines or computed.isdisjoint(operation.sources):
        return []
    return [source for source in operation.sources if source not in computed]


def feeds_product(operation: Operation) -> bool:
    """Whether a layer or product computes with the result of an operation: then it is no mark, and no mere factor."""
    return any(user.kind in (Kind.WEIGHTED, Kind.COMPUTE) for user in operation.users)


def _passes(operation: Operation) -> bool:
    return operation.kind is Kind.PRESERVING or bool(_PASSING & operation.traits)

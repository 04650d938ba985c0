# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors that have to keep their values, because of what reads them: divisors, indices, masks."""

from collections.abc import Iterable, Sequence

from model_compression_toolkit.core.common.masked_tensors import computed_tensors, feeds_product
from model_compression_toolkit.core.common.operation import Kind, Operation, Reading, Trait

_SIZES = (Reading.DIVISOR, Reading.ROOT, Reading.NORMALIZED)
_VALUES = (Reading.INDEX, Reading.INTEGER, Reading.EQUALITY)
_PRODUCTS = (Kind.WEIGHTED, Kind.COMPUTE)


def exact_tensors(operations: Sequence[Operation], masks: Iterable[Operation] = ()) -> dict[Operation, Reading]:
    """The operations whose results stay in float, and what reads them.

    A reading that needs the values reaches back through what only moves values; one that divides, also through what
    computes a length or a deviation; an index, through products with numbers; a mask, through all that it is made of.

    Args:
        operations: all operations, in the order of execution.
        masks: those that make a mask.
    """
    search = _Search(computed_tensors(operations))
    for operation in operations:
        for source, reading in operation.readings.items():
            if reading.is_strict:
                search.mark(source, reading)
        if Trait.INVERSE in operation.traits and not feeds_product(operation):
            search.mark(operation, Reading.INVERSE)
    for mask in masks:
        search.mark(mask, Reading.MASK)
    for operation in reversed(operations):
        search.mark_if_only_read(operation)
    return search.exact


class _Search:
    """What was found so far.

    Args:
        computed: the operations whose results depend on a product.
    """

    def __init__(self, computed: set[Operation]) -> None:
        self.exact: dict[Operation, Reading] = {}
        self._computed = computed

    def mark(self, operation: Operation, reading: Reading) -> None:
        """The result of an operation keeps its values, and what it is made of as far as that needs it."""
        queue = [operation]
        while queue:
            item = queue.pop()
            if item in self.exact or (reading is Reading.MASK and self._is_no_mask(item)):
                continue
            self.exact[item] = reading
            if self._reaches_back(item, reading):
                queue.extend(item.sources)

    def mark_if_only_read(self, operation: Operation) -> None:
        """The result of an operation keeps its values where each of its readers needs them, and no other reads it."""
        if operation in self.exact or not operation.users:
            return
        readings = [self._reading_by(user, operation) for user in operation.users]
        if all(reading is not None for reading in readings):
            self.exact[operation] = next(reading for reading in readings if reading is not None)

    def _reading_by(self, user: Operation, operation: Operation) -> Reading | None:
        reading = user.readings.get(operation) or self.exact.get(user)
        if operation in user.readings or reading is None:
            return reading
        is_step = Trait.STEP in user.traits and len(user.sources) == 1
        return reading if is_step or self._reaches_back(user, reading) else None

    def _reaches_back(self, operation: Operation, reading: Reading) -> bool:
        if operation.kind is Kind.PRESERVING:
            return True
        if reading is Reading.MASK:
            return operation not in self._computed
        passed = Trait.SIZE if reading in _SIZES else Trait.STEP if reading in _VALUES else Trait.NONE
        return bool(passed & operation.traits) and len(operation.sources) == 1

    def _is_no_mask(self, operation: Operation) -> bool:
        """Whether a tensor on the way to a mask is learned from, too: an input of a layer or of a product."""
        return operation in self._computed or any(
            user.kind in _PRODUCTS or (user.kind is Kind.PRESERVING and self._is_no_mask(user))
            for user in operation.users
        )

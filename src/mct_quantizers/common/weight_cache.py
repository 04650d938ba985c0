# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantized weights of an inference, kept for as long as what they were computed from stays as it was."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mct_quantizers.common.ops import Tensor
from mct_quantizers.common.wrapped_weights import WeightKey


class _Kept(NamedTuple):
    snapshots: list[Any]
    value: Tensor


class WeightCache:
    """Computes a quantized weight once; a copy or a pickle of the cache starts empty.

    Args:
        snapshot: what tells later whether a tensor has changed.
        is_unchanged: whether a tensor is still as its snapshot says.
        is_concrete: whether a tensor holds values now, and is no stand-in while a function is traced.
    """

    def __init__(
        self,
        snapshot: Callable[[Tensor], Any],
        is_unchanged: Callable[[Tensor, Any], bool],
        is_concrete: Callable[[Tensor], bool],
    ) -> None:
        self._snapshot, self._is_unchanged, self._is_concrete = snapshot, is_unchanged, is_concrete
        self._kept: dict[WeightKey, _Kept] = {}

    def fetch(self, key: WeightKey, sources: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """The quantized weight `key`.

        Args:
            key: name of the weight.
            sources: the tensors that `compute` reads.
            compute: quantizes the weight.
        """
        if not all(map(self._is_concrete, sources)):
            return compute()
        kept = self._kept.get(key)
        if kept is not None and len(kept.snapshots) == len(sources):
            if all(map(self._is_unchanged, sources, kept.snapshots)):
                return kept.value
        value = compute()
        # Constants that a traced function closes over are concrete; what it computes from them is not.
        if self._is_concrete(value):
            self._kept[key] = _Kept([self._snapshot(source) for source in sources], value)
        return value

    def drop(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._snapshot, self._is_unchanged, self._is_concrete)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Batches in pieces of a size that a file takes."""

from collections.abc import Callable, Iterator
from typing import Any

from model_compression_toolkit.core.common.batches import BATCH_SIZE

__all__ = ["pieces_of"]


def _taken(item: Any, indices: list[int]) -> Any:
    return item[indices]


def pieces_of(
    batch: tuple[Any, ...], fixed_size: int | None, take: Callable[[Any, list[int]], Any] = _taken
) -> Iterator[tuple[tuple[Any, ...], int]]:
    """The batch in pieces, each with the number of samples that matter.

    What has no axis, such as a time step, belongs to every piece. Inputs whose first axes have several lengths, which
    are no samples, are one piece.

    Args:
        batch: arrays or tensors, one for each input.
        fixed_size: the only batch size that the file takes; None if it takes any.
        take: picks samples of an item.
    """
    lengths = [item.shape[0] for item in batch if len(item.shape)]
    total = lengths[0] if lengths else 1
    if len(set(lengths)) != 1:
        yield batch, total
        return
    size = fixed_size or BATCH_SIZE
    for start in range(0, total, size):
        piece = tuple(item[start : start + size] if len(item.shape) else item for item in batch)
        count = min(size, total - start)
        if fixed_size is not None and count < size:
            # Filled up with samples again, because the file takes one size only.
            filled = [index % count for index in range(size)]
            piece = tuple(take(item, filled) if len(item.shape) else item for item in piece)
        yield piece, count

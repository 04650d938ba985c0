# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The user's data as a stream of batches, for any framework."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

BATCH_SIZE = 64

Batch = TypeVar("Batch")


def stream_of(
    data: Any, as_batch: Callable[[Any], Batch], is_tensor: Callable[[Any], bool], name: str = "data"
) -> Iterator[Batch]:
    """Batches of model inputs.

    Args:
        data: a function without arguments that returns an iterable of batches, an iterable of batches, or one tensor or
            array, which is split along its first axis.
        as_batch: makes a batch of what `data` yields.
        is_tensor: whether something is one tensor or array.
        name: of the argument, for errors.

    Raises:
        TypeError: `data` has another type.
        ValueError: there is no batch.
    """
    stream = (as_batch(batch) for batch in _iterable(data, is_tensor, name))
    first = next(stream, None)
    if first is None:
        raise ValueError(f"`{name}` must hold at least one batch. Received: none")
    return itertools.chain([first], stream)


def num_batches(data: Any) -> int | None:
    """Number of batches where it is known beforehand."""
    if not hasattr(data, "__len__"):
        return None
    return -(-len(data) // BATCH_SIZE) if hasattr(data, "shape") else len(data)


def checked_array(item: Any, name: str = "data") -> np.ndarray:
    """An array of samples; float64, NumPy's habit, becomes float32, the models'.

    Raises:
        TypeError: no array of numbers.
        ValueError: no samples.
    """
    if not isinstance(item, np.ndarray):
        raise TypeError(f"`{name}` must yield tensors or arrays, or lists of them. Received: {type(item).__name__}")
    if item.dtype == object:
        raise TypeError(f"`{name}` must hold numbers. Received: an array of objects")
    if item.size == 0:
        raise ValueError(f"`{name}` must yield batches with samples. Received: a batch of shape {item.shape}")
    return item.astype(np.float32) if item.dtype == np.float64 else item


def _iterable(data: Any, is_tensor: Callable[[Any], bool], name: str) -> Iterable[Any]:
    if is_tensor(data):
        if data.ndim == 0:
            raise ValueError(f"`{name}` must have a first axis of samples. Received: a tensor of shape ()")
        return (data[start : start + BATCH_SIZE] for start in range(0, len(data), BATCH_SIZE))
    source: Callable[[], Any] | None = data if callable(data) and not isinstance(data, Iterable) else None
    iterable = data if source is None else source()
    if not isinstance(iterable, Iterable) or isinstance(iterable, (str, bytes, Mapping)):
        raise TypeError(
            f"`{name}` must be a tensor, an array, an iterable of batches, or a function that returns one. "
            f"Received: {type(iterable).__name__}"
        )
    return iterable

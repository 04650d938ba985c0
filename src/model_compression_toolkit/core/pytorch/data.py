# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The user's data as batches of model inputs."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Batch = tuple[Any, ...]

BATCH_SIZE = 64


def batches_of(data: Any, device: torch.device | None = None) -> Iterator[Batch]:
    """Batches of model inputs, each a tuple of positional arguments.

    Args:
        data: a function without arguments that returns an iterable of batches (a representative-data generator), an
            iterable of batches, or one tensor or array, which is split along its first axis. A batch is a tensor, an
            array, or a list or tuple of them, one for each input of the model.
        device: where the tensors go; None leaves them.

    Raises:
        TypeError: `data` or a batch has another type.
        ValueError: there is no batch, or a batch has no samples.
    """
    stream = (_as_batch(batch, device) for batch in _iterable(data))
    first = next(stream, None)
    if first is None:
        raise ValueError("`data` must hold at least one batch. Received: none")
    return itertools.chain([first], stream)


def clone_batch(batch: Batch) -> Batch:
    """A copy for a run of the user's model, which may change its inputs in place."""
    return tuple(item.clone() for item in batch)


def to_float64(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Values of a tensor of any floating-point dtype, on any device, as a NumPy array."""
    array: npt.NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array


def num_batches(data: Any) -> int | None:
    """Number of batches where it is known beforehand."""
    if isinstance(data, (Tensor, np.ndarray)):
        return -(-len(data) // BATCH_SIZE)
    return len(data) if hasattr(data, "__len__") else None


def _iterable(data: Any) -> Iterable[Any]:
    if isinstance(data, (Tensor, np.ndarray)):
        if data.ndim == 0:
            raise ValueError("`data` must have a first axis of samples. Received: a tensor of shape ()")
        return (data[start : start + BATCH_SIZE] for start in range(0, len(data), BATCH_SIZE))
    source: Callable[[], Any] | None = data if callable(data) and not isinstance(data, Iterable) else None
    iterable = data if source is None else source()
    if not isinstance(iterable, Iterable) or isinstance(iterable, (str, bytes, Mapping)):
        raise TypeError(
            "`data` must be a tensor, an array, an iterable of batches, or a function that returns one. "
            f"Received: {type(iterable).__name__}"
        )
    return iterable


def _as_batch(batch: Any, device: torch.device | None) -> Batch:
    items = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return tuple(as_tensor(item, device) for item in items)


def as_tensor(item: Any, device: torch.device | None = None) -> Tensor:
    """A tensor or array of samples as a tensor; float64 arrays become float32.

    Raises:
        TypeError: neither a tensor nor an array of numbers.
        ValueError: no samples.
    """
    if isinstance(item, np.ndarray):
        if item.dtype == object:
            raise TypeError("`data` must hold numbers. Received: an array of objects")
        # float64 is NumPy's habit, float32 the model's.
        item = torch.tensor(item.astype(np.float32) if item.dtype == np.float64 else item)
    if not isinstance(item, Tensor):
        raise TypeError(f"`data` must yield tensors or arrays, or lists of them. Received: {type(item).__name__}")
    if item.numel() == 0:
        raise ValueError(f"`data` must yield batches with samples. Received: a batch of shape {tuple(item.shape)}")
    return item if device is None else item.to(device)

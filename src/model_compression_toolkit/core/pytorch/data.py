# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The user's data as batches of model inputs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_compression_toolkit.core.common.batches import checked_array, stream_of

Batch = tuple[Any, ...]


def batches_of(data: Any, device: torch.device | None = None, name: str = "data") -> Iterator[Batch]:
    """Batches of model inputs, each a tuple of positional arguments.

    Args:
        data: a function without arguments that returns an iterable of batches (a representative-data generator), an
            iterable of batches, or one tensor or array, which is split along its first axis. A batch is a tensor, an
            array, or a list or tuple of them, one for each input of the model.
        device: where the tensors go; None leaves them.
        name: of the argument, for errors.

    Raises:
        TypeError: `data` or a batch has another type.
        ValueError: there is no batch, or a batch has no samples.
    """
    return stream_of(data, lambda batch: _as_batch(batch, device, name), is_tensor, name)


def is_tensor(item: Any) -> bool:
    """Whether something is one tensor or array."""
    return isinstance(item, (Tensor, np.ndarray))


def clone_batch(batch: Batch) -> Batch:
    """A copy for a run of the user's model, which may change its inputs in place."""
    return tuple(item.clone() for item in batch)


def to_float64(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Values of a tensor of any floating-point dtype, on any device, as a NumPy array."""
    array: npt.NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array


def _as_batch(batch: Any, device: torch.device | None, name: str) -> Batch:
    items = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return tuple(as_tensor(item, device, name) for item in items)


def as_tensor(item: Any, device: torch.device | None = None, name: str = "data") -> Tensor:
    """A tensor or array of samples as a tensor; float64 arrays become float32.

    Raises:
        TypeError: neither a tensor nor an array of numbers.
        ValueError: no samples.
    """
    tensor = item if isinstance(item, Tensor) else torch.tensor(checked_array(item, name), device="cpu")
    if tensor.numel() == 0:
        raise ValueError(f"`{name}` must yield batches with samples. Received: a batch of shape {tuple(tensor.shape)}")
    return tensor if device is None else tensor.to(device)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The user's data as batches of model inputs."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from model_compression_toolkit.core.common.batches import checked_array, stream_of

Batch = tuple[Any, ...]
"""NumPy arrays, one for each input of the model."""


def batches_of(data: Any, name: str = "data") -> Iterator[Batch]:
    """Batches of model inputs, each a tuple of arrays in the order of the model's inputs.

    Args:
        data: a function without arguments that returns an iterable of batches (a representative-data generator), an
            iterable of batches, such as a `tf.data.Dataset`, or one tensor or array, which is split along its first
            axis. A batch is a tensor, an array, a list or tuple of them, or a dictionary by the names of the inputs.
        name: of the argument, for errors.

    Raises:
        TypeError: `data` or a batch has another type.
        ValueError: there is no batch, or a batch has no samples.
    """
    return stream_of(data, lambda batch: _as_batch(batch, name), is_tensor, name)


def is_tensor(item: Any) -> bool:
    """Whether something is one tensor or array."""
    return isinstance(item, np.ndarray) or keras.ops.is_tensor(item)


def _as_batch(batch: Any, name: str) -> Batch:
    # Keras too flattens dictionaries in the order of their keys.
    return tuple(as_array(item, name) for item in keras.tree.flatten(batch))


def as_array(item: Any, name: str = "data") -> Any:
    """A tensor or array of samples as an array; float64 becomes float32.

    Raises:
        TypeError: neither a tensor nor an array of numbers.
        ValueError: no samples.
    """
    if keras.ops.is_tensor(item):
        item = keras.ops.convert_to_numpy(item)
        if item.dtype == object and item.size and isinstance(item.flat[0], bytes):
            # Of a tensor of text, which layers such as TextVectorization take.
            item = np.char.decode(item.astype(bytes), "utf-8")
    return checked_array(item, name)

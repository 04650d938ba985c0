# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The user's data as batches of model inputs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_compression_toolkit.core.common.batches import checked_array, stream_of

Batch = tuple[Any, ...]
"""The positional arguments of a model; those that are passed by name stand in a `KeywordBatch`."""

_CONSTANTS = (bool, int, float, type(None))


class KeywordBatch(Batch):
    """A batch that is passed by the names of the model's arguments.

    Args:
        keywords: the arguments by their names.
    """

    keywords: Mapping[str, Any]

    def __new__(cls, keywords: Mapping[str, Any]) -> Self:
        """A batch without positional arguments."""
        batch = super().__new__(cls)
        batch.keywords = keywords
        return batch


def keywords_of(batch: Batch) -> Mapping[str, Any]:
    """The arguments of a batch that are passed by name."""
    return batch.keywords if isinstance(batch, KeywordBatch) else {}


def batches_of(data: Any, device: torch.device | None = None, name: str = "data") -> Iterator[Batch]:
    """Batches of model inputs, each the arguments of one call of the model.

    Args:
        data: a function without arguments that returns an iterable of batches (a representative-data generator), an
            iterable of batches, or one tensor or array, which is split along its first axis. A batch is a tensor, an
            array, a list or tuple of the model's positional arguments, or a dictionary of its arguments by name. An
            argument is a tensor, an array, a number, None, or a list, tuple or dictionary of those.
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


def only_tensors(batch: Batch, name: str) -> Batch:
    """The same batch, where it is one or several tensors by position.

    Raises:
        TypeError: it is passed by name, or holds something else; the text calls the data `name`.
    """
    if keywords_of(batch) or not all(isinstance(item, Tensor) for item in batch):
        kind = "dict" if keywords_of(batch) else "batch"
        raise TypeError(f"`{name}` must yield tensors or arrays, by position. Received: a {kind} of {described(batch)}")
    return batch


def clone_batch(batch: Batch) -> Batch:
    """A copy for a run of the user's model, which may change its inputs in place."""
    return map_batch(_clone, batch)


def call_model(model: Callable[..., Any], batch: Batch) -> Any:
    """What a model returns for a copy of a batch."""
    copied = clone_batch(batch)
    return model(*copied, **keywords_of(copied))


def map_batch(function: Callable[[Any], Any], batch: Batch) -> Batch:
    """The batch with `function` applied to each tensor, number and None in it, however deep."""
    if isinstance(batch, KeywordBatch):
        return KeywordBatch({name: map_nested(function, value) for name, value in batch.keywords.items()})
    return tuple(map_nested(function, item) for item in batch)


def map_nested(function: Callable[[Any], Any], value: Any) -> Any:
    """The value with `function` applied to each leaf of its lists, tuples and dictionaries."""
    if isinstance(value, Mapping):
        return {key: map_nested(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_nested(function, item) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_nested(function, item) for item in value)
    return function(value)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in an argument, or in a batch."""
    found: list[Tensor] = []

    def keep(leaf: Any) -> None:
        if isinstance(leaf, Tensor):
            found.append(leaf)

    map_nested(keep, (*value, keywords_of(value)) if isinstance(value, KeywordBatch) else value)
    return iter(found)


def described(batch: Batch) -> str:
    """Shapes and dtypes of a batch, and the names under which it is passed, for the text of errors."""
    named = [f"{name}: {_described_argument(value)}" for name, value in keywords_of(batch).items()]
    return ", ".join([_described_argument(item) for item in batch] + named)


def first_line(error: Exception) -> str:
    """Type and first line of an error, for the text of another one."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no text'}"


def to_float64(tensor: Tensor) -> npt.NDArray[np.float64]:
    """Values of a tensor of any floating-point dtype, on any device, as a NumPy array."""
    array: npt.NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array


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


def _as_batch(batch: Any, device: torch.device | None, argument: str) -> Batch:
    if not isinstance(batch, (tuple, list, Mapping)):
        return (as_tensor(batch, device, argument),)
    arguments: Batch
    if isinstance(batch, Mapping):
        words = (*_CONSTANTS, str)
        arguments = KeywordBatch({str(name): _as_argument(batch[name], device, argument, words) for name in batch})
    else:
        arguments = tuple(_as_argument(item, device, argument, _CONSTANTS) for item in batch)
    if not any(True for _ in tensors_of(arguments)):
        kinds = sorted({type(item).__name__ for item in (*arguments, *keywords_of(arguments).values())})
        found = ", ".join(kinds) or "nothing"
        raise TypeError(f"`{argument}` must yield tensors or arrays, or lists of them. Received: {found}")
    return arguments


def _as_argument(value: Any, device: torch.device | None, argument: str, constants: tuple[type, ...]) -> Any:
    def as_leaf(leaf: Any) -> Any:
        return leaf if isinstance(leaf, constants) else as_tensor(leaf, device, argument)

    return map_nested(as_leaf, value)


def _clone(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _described_argument(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype}"
    if isinstance(value, (list, tuple, Mapping)):
        shapes = [_described_argument(tensor) for tensor in tensors_of(value)]
        return f"{type(value).__name__} of {', '.join(shapes) or 'no tensor'}"
    return repr(value)

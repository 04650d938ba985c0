# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a plain training trains on: all samples of the user's data, and their classes, in two arrays."""

from collections.abc import Callable, Iterable
from typing import Any

from model_compression_toolkit.qat.common.fine_tuning import FineTuning

__all__ = ["check_order", "check_samples", "join_batches"]


def join_batches(
    batches: Iterable[tuple[Any, ...]], join: Callable[[list[Any]], Any], is_integer: Callable[[Any], bool]
) -> tuple[Any, Any]:
    """All samples of some batches, and their classes where the batches hold them.

    Args:
        batches: each an array of inputs, or one and the classes of its samples: integers, shape (N,).
        join: joins arrays along their first axis.
        is_integer: whether an array holds integers.

    Returns:
        Inputs, shape (N, …), and classes, shape (N,), or None.

    Raises:
        ValueError: batches of another form, or of several forms.
    """
    inputs: list[Any] = []
    classes: list[Any] = []
    for batch in batches:
        is_pair = len(batch) == 2 and is_integer(batch[1]) and tuple(batch[1].shape) == tuple(batch[0].shape[:1])
        if len(batch) != 1 and not is_pair:
            raise ValueError(
                "`inputs` must yield batches of one array, or of one array and its classes, integers of shape (N,): "
                "a model with one input learns the outputs of its teacher. Received: a batch of "
                f"{[(tuple(item.shape), str(item.dtype)) for item in batch]}"
            )
        inputs.append(batch[0])
        classes += batch[1:]
    shapes = sorted({tuple(item.shape[1:]) for item in inputs})
    if len(shapes) != 1:
        raise ValueError(f"`inputs` must hold samples of one shape. Received: samples of the shapes {shapes}")
    if len(classes) not in (0, len(inputs)):
        raise ValueError(
            f"`inputs` must yield classes with all batches or with none. Received: {len(inputs)} batches, "
            f"{len(classes)} with classes"
        )
    return join(inputs), join(classes) if classes else None


def check_order(inputs: Any, labels: Any) -> None:
    """Labels of their own belong to inputs that always come in the same order.

    Raises:
        ValueError: a loader of torch with another sampler than the sequential one.
    """
    sampler = getattr(inputs, "sampler", None)
    if labels is not None and sampler is not None and type(sampler).__name__ != "SequentialSampler":
        raise ValueError(
            "`labels` must be in the order of `inputs`, which a loader with `shuffle=True` changes: let it yield "
            f"batches of inputs and classes instead. Received: a loader with a {type(sampler).__name__}"
        )


def check_samples(inputs: Any, labels: Any, is_integer: Callable[[Any], bool], settings: FineTuning) -> None:
    """There is at least one batch of inputs, and a class for each where there are labels.

    Raises:
        ValueError: fewer samples than a batch has; labels that are no classes, or of another number.
    """
    if len(inputs) < settings.batch_size:
        raise ValueError(
            f"`inputs` must hold at least one batch of {settings.batch_size} samples. Received: {len(inputs)} samples"
        )
    if labels is None:
        return
    if labels.ndim != 1 or not is_integer(labels):
        raise ValueError(
            f"`labels` must be classes, integers of shape (N,). Received: shape {tuple(labels.shape)}, {labels.dtype}"
        )
    if len(labels) != len(inputs):
        raise ValueError(f"`labels` must have one class for each of {len(inputs)} inputs. Received: {len(labels)}")

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""New moving statistics for the batch norms of a model in quantization-aware training."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from model_compression_toolkit.core.keras.batch_norm import LiveBatchNormalization
from model_compression_toolkit.core.keras.random_state import preserved_random_state

_STATISTICS = ("moving_mean", "moving_variance")


@preserved_random_state()
def reestimate_batch_norm_statistics(model: keras.Model, batches: Iterable[Any]) -> None:
    """Replace the moving statistics of every batch norm by the averages over `batches`.

    The variance of a batch is that of the population, which is what `keras.layers.BatchNormalization` averages. When
    the model fails on a batch, the former statistics stay.

    Args:
        model: a model in quantization-aware training, compiled or not; also batch norms that are not trainable or whose
            statistics are frozen get new ones. A float model has none that live, and stays as it is.
        batches: inputs of the model: tensors or arrays, lists or tuples of them, or dictionaries by the names of the
            inputs.

    Raises:
        ValueError: `batches` is empty.
    """
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ValueError("`batches` must hold at least one batch. Received: none")
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, LiveBatchNormalization)]
    averages = [_Averages(norm) for norm in norms]
    with _in_place_of(norms, averages):
        for batch in itertools.chain([first], stream):
            model(_as_inputs(model, batch), training=False)
    for norm, average in zip(norms, averages, strict=True):
        average.write_to(norm)


class _Averages:
    """Computes what a batch norm computes in training, and averages the statistics of all calls, on a copy."""

    def __init__(self, norm: LiveBatchNormalization) -> None:
        config = {**norm.get_config(), "freeze_statistics": False, "trainable": True}
        if "renorm" in config:
            # It would mix the statistics that are to be forgotten into the outputs.
            config["renorm"] = False
        self._copy: LiveBatchNormalization = type(norm).from_config(config)
        self._copy.build_from_config(norm.get_build_config())
        for name in ("gamma", "beta"):
            if getattr(norm, name) is not None:
                getattr(self._copy, name).assign(getattr(norm, name))
        self._num_calls = 0

    def __call__(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """The inputs, normalized by their own statistics; `training` is that of the model, which is evaluated."""
        # With this momentum an exponential average is the plain one; the first call leaves nothing of what was before.
        self._copy.momentum = self._num_calls / (self._num_calls + 1)
        self._num_calls += 1
        return self._copy.call(inputs, training=True, mask=mask)

    def write_to(self, norm: LiveBatchNormalization) -> None:
        """Give a batch norm the averages, unless there was no call."""
        if self._num_calls:
            for name in _STATISTICS:
                getattr(norm, name).assign(getattr(self._copy, name))


@contextmanager
def _in_place_of(norms: list[LiveBatchNormalization], averages: list[_Averages]) -> Iterator[None]:
    """For a while, what computes averages is called instead of each batch norm."""
    for norm, average in zip(norms, averages, strict=True):
        # Past Keras, which would keep a list of what it sees.
        object.__setattr__(norm, "call", average)
    try:
        yield
    finally:
        for norm in norms:
            object.__delattr__(norm, "call")


def _as_inputs(model: keras.Model, batch: Any) -> Any:
    """A batch in the structure of the model's inputs; as it is where the model does not say."""
    if not model.inputs:
        return batch
    # A sequential model that was never called has `inputs` and no `input`.
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    items = keras.tree.flatten(batch)
    expected = len(keras.tree.flatten(structure))
    if len(items) != expected:
        raise ValueError(f"`batches` must hold the inputs of the model: {expected} tensors. Received: {len(items)}")
    return keras.tree.pack_sequence_as(structure, items)

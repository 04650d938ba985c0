# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A plain training of prepared models of any framework."""

from collections.abc import Callable
from typing import Any

from model_compression_toolkit.core.common.framework import wing_module
from model_compression_toolkit.qat.common.fine_tuning import FineTuning


def fine_tune(
    model: Any,
    teacher: Any,
    inputs: Any,
    labels: Any = None,
    settings: FineTuning | None = None,
    augment: Callable[[Any, Any], Any] | None = None,
) -> list[float]:
    """Train a prepared model in place to reproduce a float model.

    The distillation loss is the Kullback-Leibler divergence of class scores where labels say that the outputs are
    classes, and the mean squared error of the outputs otherwise.

    Args:
        model: what `prepare_qat` returned, with one input and one output.
        teacher: the float model, of the same framework; it is not changed.
        inputs: training samples in every form that `quantize` takes: a tensor or array, shape (N, …), an iterable of
            batches such as a `DataLoader`, or a function that returns one. A batch may hold the classes of its
            samples too, `(inputs, classes)`. All samples stay in memory; steps take `settings.batch_size` of them.
        labels: classes, integers, shape (N,), in the order of `inputs`; None where batches hold them, or without.
        settings: how to train. Keras freezes batch-norm statistics for whole epochs.
        augment: called with a batch and a random generator of torch, for Keras of NumPy; its result replaces the batch.

    Returns:
        The mean loss of each epoch.

    Raises:
        TypeError: no model, or data of another type.
        ValueError: fewer samples than a batch has; batches of another form; labels that are no classes, of another
            number, or given twice.
    """
    module = wing_module(model, "model_compression_toolkit.qat.{}.fine_tuning")
    losses: list[float] = module.fine_tune(model, teacher, inputs, labels, settings, augment)
    return losses

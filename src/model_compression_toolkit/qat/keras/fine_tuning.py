# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A plain training of prepared models with `fit`: distillation from the float model, with labels if there are any."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from model_compression_toolkit.core.keras.batch_norm import freeze_batch_norm_statistics
from model_compression_toolkit.core.keras.data import as_array, batches_of, is_tensor
from model_compression_toolkit.core.keras.package import PACKAGE
from model_compression_toolkit.qat.common.fine_tuning import FineTuning
from model_compression_toolkit.qat.common.training_samples import check_order, check_samples, join_batches
from model_compression_toolkit.qat.keras.finite_loss import check_loss

Array = npt.NDArray[Any]
Augment = Callable[[Array, np.random.Generator], Array]

_INITIAL, _FINAL = 25.0, 1e4
"""By what the peak of the learning rate is divided at first, and that at the end: those of Smith and Topin."""


@keras.saving.register_keras_serializable(PACKAGE)
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """The one-cycle schedule with cosines (Smith and Topin 2018, arXiv:1708.07120).

    Args:
        peak: the greatest learning rate.
        steps: number of steps in all.
        rising_share: share of the steps until the peak.
    """

    def __init__(self, peak: float, steps: int, rising_share: float = 0.1) -> None:
        self.peak, self.steps, self.rising_share = peak, steps, rising_share

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        top = max(self.rising_share * self.steps - 1.0, 1e-6)
        rising = keras.ops.clip(step / top, 0.0, 1.0)
        falling = keras.ops.clip((step - top) / max(self.steps - 1.0 - top, 1e-6), 0.0, 1.0)
        start, end = self.peak / _INITIAL, self.peak / _INITIAL / _FINAL
        up = start + (self.peak - start) * 0.5 * (1.0 - keras.ops.cos(math.pi * rising))
        return keras.ops.where(step < top, up, end + (self.peak - end) * 0.5 * (1.0 + keras.ops.cos(math.pi * falling)))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {"peak": self.peak, "steps": self.steps, "rising_share": self.rising_share}


def fine_tune(
    model: keras.Model,
    teacher: keras.Model,
    inputs: Any,
    labels: Any = None,
    settings: FineTuning | None = None,
    augment: Augment | None = None,
) -> list[float]:
    """Train a prepared model in place to reproduce a float model; afterwards it is compiled without a loss.

    The distillation loss is the Kullback-Leibler divergence of class scores where labels say that the outputs are
    classes, and the mean squared error of the outputs otherwise.

    Args:
        model: what `prepare_qat` returned, with one input and one output.
        teacher: the float model; it is not changed.
        inputs: training samples in every form that `quantize` takes: an array or tensor, shape (N, …), an iterable of
            batches such as a `tf.data.Dataset`, or a function that returns one. A batch may hold the classes of its
            samples too, `(inputs, classes)`. All samples stay in memory; steps take `settings.batch_size` of them.
        labels: classes, integers, shape (N,), in the order of `inputs`; None where batches hold them, or without.
        settings: how to train.
        augment: called with a batch and a random generator; its result replaces the batch.

    Returns:
        The mean loss of each epoch.

    Raises:
        TypeError: data of another type.
        ValueError: fewer samples than a batch has; batches of another form; labels that are no classes, of another
            number, or given twice; a loss that is not finite, with the first variable that is not.
    """
    settings = settings or FineTuning()
    inputs, labels = _samples(inputs, labels, settings)
    steps = len(inputs) // settings.batch_size
    optimizer = keras.optimizers.AdamW(OneCycle(settings.learning_rate, settings.epochs * steps), weight_decay=0.0)
    frozen = round(settings.epochs * settings.frozen_share)
    loss = _loss(settings, labels is not None)
    batches = _Batches(teacher, inputs, labels, settings, augment)
    losses: list[float] = []
    for start, end in ((0, settings.epochs - frozen), (settings.epochs - frozen, settings.epochs)):
        if start == end:
            continue
        if start:
            freeze_batch_norm_statistics(model)
        model.compile(optimizer, loss)
        watch = [keras.callbacks.TerminateOnNaN()]
        history = model.fit(batches, epochs=end, initial_epoch=start, shuffle=False, verbose=0, callbacks=watch)
        losses += history.history["loss"]
        for epoch, value in enumerate(losses):
            check_loss(value, f"in epoch {epoch + 1}", model, inputs)
    # Of what is local here nothing goes into a file of the model; an optimizer without variables does not load.
    model.compile(keras.optimizers.AdamW(settings.learning_rate, weight_decay=0.0))
    model.optimizer.build(model.trainable_variables)
    return losses


def _samples(inputs: Any, labels: Any, settings: FineTuning) -> tuple[Array, Array | None]:
    check_order(inputs, labels)
    if is_tensor(inputs):
        samples, classes = as_array(inputs, name="inputs"), None
    else:
        samples, classes = join_batches(batches_of(inputs, name="inputs"), np.concatenate, _is_integer)
    if labels is not None:
        if classes is not None:
            raise ValueError("`labels` must not be given where the batches of `inputs` hold classes. Received: both")
        classes = keras.ops.convert_to_numpy(labels) if is_tensor(labels) else np.asarray(labels)
    check_samples(samples, classes, _is_integer, settings)
    return samples, classes


def _is_integer(array: Array) -> bool:
    return np.issubdtype(array.dtype, np.integer)


class _Batches(keras.utils.PyDataset):
    """Batches of samples with the outputs of the teacher, in another order in each epoch."""

    def __init__(
        self, teacher: keras.Model, inputs: Array, labels: Array | None, settings: FineTuning, augment: Augment | None
    ) -> None:
        super().__init__()
        self._teacher, self._inputs, self._labels, self._augment = teacher, inputs, labels, augment
        self._batch_size = settings.batch_size
        self._random = np.random.default_rng(settings.seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self._inputs) // self._batch_size

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        batch = self._inputs[chosen]
        if self._augment is not None:
            batch = self._augment(batch, self._random)
        scores = keras.ops.convert_to_numpy(self._teacher(batch, training=False))
        if self._labels is None:
            return batch, scores
        # One array, because a loss takes one: the scores, and the class behind them.
        return batch, np.concatenate([scores, self._labels[chosen, np.newaxis].astype(scores.dtype)], axis=1)

    def on_epoch_end(self) -> None:
        """Draw the next order; Keras calls it."""
        self._order = self._random.permutation(len(self._inputs))


def _loss(settings: FineTuning, has_labels: bool) -> Callable[[Any, Any], Any]:
    temperature, share = settings.temperature, settings.label_weight

    def mean_squared_error(target: Any, output: Any) -> Any:
        return keras.ops.mean(keras.ops.square(output - target))

    def distillation(target: Any, output: Any) -> Any:
        scores, classes = target[:, :-1], keras.ops.cast(target[:, -1], "int32")
        wanted = keras.ops.log_softmax(scores / temperature, axis=1)
        found = keras.ops.log_softmax(output / temperature, axis=1)
        divergence = keras.ops.mean(keras.ops.sum(keras.ops.exp(wanted) * (wanted - found), axis=1))
        loss = temperature**2 * divergence
        if share == 0:
            return loss
        entropy = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(classes, output, from_logits=True))
        return share * entropy + (1.0 - share) * loss

    return distillation if has_labels else mean_squared_error

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A plain training loop for prepared models: distillation from the float model, with labels where there are any."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_compression_toolkit.core.common.progress import track
from model_compression_toolkit.core.pytorch.batch_norm import freeze_batch_norm_statistics
from model_compression_toolkit.core.pytorch.data import as_tensor, batches_of, is_tensor, only_tensors
from model_compression_toolkit.core.pytorch.modes import preserved_modes
from model_compression_toolkit.core.pytorch.unwrapping import plan_inside
from model_compression_toolkit.qat.common.fine_tuning import FineTuning
from model_compression_toolkit.qat.common.training_samples import check_order, check_samples, join_batches
from model_compression_toolkit.qat.pytorch.finite_loss import check_loss
from model_compression_toolkit.trainable_infrastructure.pytorch.regularization import regularization_loss

Augment = Callable[[Tensor, torch.Generator], Tensor]


def fine_tune(
    model: nn.Module,
    teacher: nn.Module,
    inputs: Any,
    labels: Any = None,
    settings: FineTuning | None = None,
    augment: Augment | None = None,
) -> list[float]:
    """Train a prepared model in place to reproduce a float model.

    The distillation loss is the Kullback-Leibler divergence of class scores where labels say that the outputs are
    classes, and the mean squared error of the outputs otherwise.

    Args:
        model: what `prepare_qat` returned, with one input and one output, or a module around it, which is then called.
        teacher: the float model; it is not changed.
        inputs: training samples in every form that `quantize` takes: a tensor or array, shape (N, …), an iterable of
            batches such as a `DataLoader`, or a function that returns one. A batch may hold the classes of its
            samples too, `(inputs, classes)`. All samples stay in memory; steps take `settings.batch_size` of them.
        labels: classes, integers, shape (N,), in the order of `inputs`; None where batches hold them, or without.
        settings: how to train.
        augment: called with a batch and a random generator; its result replaces the batch.

    Returns:
        The mean loss of each epoch.

    Raises:
        TypeError: data of another type.
        ValueError: fewer samples than a batch has; batches of another form; labels that are no classes, of another
            number, or given twice; a model that is not quantized; a loss that is not finite, with the first tensor
            that is not.
    """
    settings = settings or FineTuning()
    # A float model would train, and nothing would be quantized.
    plan_inside(model)
    inputs, labels = _samples(inputs, labels, settings)
    steps = len(inputs) // settings.batch_size
    total = settings.epochs * steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=total, pct_start=0.1)
    losses = []
    model.train()
    device = next((parameter.device for parameter in model.parameters()), inputs.device)
    batches = _batches(inputs, labels, settings, augment, device)
    with preserved_modes(teacher):
        teacher.eval()
        for step, (batch, classes) in enumerate(track(batches, "Training with quantization", total)):
            if step == total - int(total * settings.frozen_share):
                freeze_batch_norm_statistics(model)
            loss = _loss(model, teacher, batch, classes, settings) + regularization_loss(model).to(device)
            # Elsewhere looking at a number waits for the device: there once in an epoch.
            if loss.is_cpu or step % steps == steps - 1:
                check_loss(loss.item(), f"at step {step + 1}", model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
    model.eval()
    return torch.stack(losses).view(settings.epochs, steps).mean(dim=1).tolist()


def _samples(inputs: Any, labels: Any, settings: FineTuning) -> tuple[Tensor, Tensor | None]:
    check_order(inputs, labels)
    if is_tensor(inputs):
        samples, classes = as_tensor(inputs, name="inputs"), None
    else:
        batches = (only_tensors(batch, "inputs") for batch in batches_of(inputs, name="inputs"))
        samples, classes = join_batches(batches, torch.cat, _is_integer)
    if labels is not None:
        if classes is not None:
            raise ValueError("`labels` must not be given where the batches of `inputs` hold classes. Received: both")
        classes = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    check_samples(samples, classes, _is_integer, settings)
    return samples, None if classes is None else classes.long()


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool)


def _batches(
    inputs: Tensor, labels: Tensor | None, settings: FineTuning, augment: Augment | None, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    generator = torch.Generator().manual_seed(settings.seed)
    used = len(inputs) // settings.batch_size * settings.batch_size
    for _ in range(settings.epochs):
        order = torch.randperm(len(inputs), generator=generator)[:used]
        for index in torch.split(order, settings.batch_size):
            batch = inputs[index.to(inputs.device)]
            batch = batch if augment is None else augment(batch, generator)
            yield batch.to(device), None if labels is None else labels[index.to(labels.device)].to(device)


def _loss(model: nn.Module, teacher: nn.Module, batch: Tensor, classes: Tensor | None, settings: FineTuning) -> Any:
    with torch.no_grad():
        target = teacher(batch)
    output = model(batch)
    if classes is None:
        return functional.mse_loss(output, target)
    temperature = settings.temperature
    distillation = temperature**2 * functional.kl_div(
        functional.log_softmax(output / temperature, dim=1),
        functional.log_softmax(target / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    if settings.label_weight == 0:
        return distillation
    cross_entropy = functional.cross_entropy(output, classes)
    return settings.label_weight * cross_entropy + (1 - settings.label_weight) * distillation

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How the plain training loops of all frameworks train."""

import math
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How a prepared model is trained.

    Attributes:
        epochs: passes over the data, at least 1.
        learning_rate: peak of AdamW's one-cycle schedule (Smith and Topin 2018, arXiv:1708.07120); no weight decay.
        batch_size: samples in a step, at least 1.
        temperature: softens both outputs in the distillation loss (Hinton et al. 2015, arXiv:1503.02531).
        label_weight: share of the labels' cross entropy in the loss, 0 to 1; the rest is distillation, which without
            labels is all.
        frozen_share: share of the last steps in which batch-norm statistics stay frozen, 0 to 1.
        seed: of the order of the samples and of the augmentation.

    Raises:
        ValueError: a field out of bounds.
    """

    epochs: int = 30
    learning_rate: float = 1e-3
    batch_size: int = 64
    temperature: float = 2.0
    label_weight: float = 0.0
    frozen_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={value!r}")
        for name in ("learning_rate", "temperature"):
            if not _is_number(getattr(self, name)) or not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={getattr(self, name)!r}")
        for name in ("label_weight", "frozen_share"):
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be a number from 0 to 1. Received: {name}={getattr(self, name)!r}")


def refuse_loss(loss: float, where: str, not_finite: str | None) -> NoReturn:
    """A loss is not finite.

    Args:
        loss: the loss.
        where: when it came, for the text.
        not_finite: the first tensor that is not finite; None where all are.

    Raises:
        ValueError: always; the text names the tensor.
    """
    source = f"The first tensor that is not finite: {not_finite}" if not_finite else "Every tensor is finite"
    raise ValueError(
        f"The loss is not finite: {loss} {where}. {source}. Check the samples and labels, or train with a lower "
        "`learning_rate`."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

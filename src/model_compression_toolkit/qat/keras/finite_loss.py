# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A loss that is not finite is told when it comes, with the tensor that it comes from."""

import math
from typing import Any

import keras
import numpy as np

from model_compression_toolkit.qat.common.fine_tuning import refuse_loss


def check_loss(loss: float, where: str, model: keras.Model, batch: Any = None) -> None:
    """A loss is finite.

    Args:
        loss: the number.
        where: when it came, for the text of the error.
        model: after the steps that gave the loss.
        batch: an array, where one is to be looked at.

    Raises:
        ValueError: it is not; the text names the first array or variable of the model that is not.
    """
    if not math.isfinite(loss):
        is_wrong = batch is not None and not np.isfinite(np.asarray(batch)).all()
        refuse_loss(loss, where, "the samples" if is_wrong else _first_not_finite(model))


def _first_not_finite(model: keras.Model) -> str | None:
    for variable in model.variables:
        values = keras.ops.convert_to_numpy(variable)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return str(variable.path)
    return None

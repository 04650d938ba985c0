# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Schedules over the steps of training, with Keras tensors."""

from typing import Any

import keras

from mct_quantizers.keras import ops as keras_ops
from model_compression_toolkit.trainable_infrastructure.common.annealing_schedulers import (
    BaseLinearAnnealingScheduler,
    annealing_factor,
)

__all__ = ["KerasLinearAnnealingScheduler"]

Tensor = Any


class KerasLinearAnnealingScheduler(BaseLinearAnnealingScheduler):
    """A value that goes from one to another in a straight line: float32, shape ().

    Args:
        t_start: step at which it begins to move, not negative.
        t_end: step at which it arrives, above `t_start`.
        initial_val: the value until `t_start`.
        target_val: the value from `t_end` on.

    Raises:
        ValueError: the steps are not in order.
    """

    def _compute_factor(self, t: Any) -> Tensor:
        step = keras.ops.cast(keras.ops.convert_to_tensor(t), "float32")
        return annealing_factor(keras.ops.reshape(step, ()), self.t_start, self.t_end, keras_ops)

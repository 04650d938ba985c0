# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Schedules over the steps of training, with torch tensors."""

from typing import Any

import torch
from torch import Tensor

from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.quantizer_utils import get_working_device
from model_compression_toolkit.trainable_infrastructure.common.annealing_schedulers import (
    BaseLinearAnnealingScheduler,
    annealing_factor,
)

__all__ = ["PytorchLinearAnnealingScheduler"]


class PytorchLinearAnnealingScheduler(BaseLinearAnnealingScheduler):
    """A value that goes from one to another in a straight line: float32, shape (), on the working device.

    Args:
        t_start: step at which it begins to move, not negative.
        t_end: step at which it arrives, above `t_start`.
        initial_val: the value until `t_start`.
        target_val: the value from `t_end` on.

    Raises:
        ValueError: the steps are not in order.
    """

    def _compute_factor(self, t: Any) -> Tensor:
        step = torch.as_tensor(t, dtype=torch.float32, device=get_working_device())
        factor: Tensor = annealing_factor(step.reshape(()), self.t_start, self.t_end, torch_ops)
        return factor

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Schedules over the steps of training."""

from typing import Any

from mct_quantizers.common.ops import Ops, Tensor

__all__ = ["BaseLinearAnnealingScheduler", "annealing_factor"]


def annealing_factor(t: Tensor, t_start: float, t_end: float, ops: Ops) -> Tensor:
    """0 until `t_start`, 1 from `t_end` on, linear between."""
    return ops.clip((t - t_start) / (t_end - t_start), 0.0, 1.0)


class BaseLinearAnnealingScheduler:
    """A value that goes from one to another in a straight line; a framework's subclass computes it with its tensors.

    Args:
        t_start: step at which it begins to move, not negative.
        t_end: step at which it arrives, above `t_start`.
        initial_val: the value until `t_start`.
        target_val: the value from `t_end` on.

    Raises:
        ValueError: the steps are not in order.
    """

    def __init__(self, t_start: int, t_end: int, initial_val: float, target_val: float) -> None:
        if not 0 <= t_start < t_end:
            raise ValueError(
                f"`t_start` must be at least 0 and below `t_end`. Received: t_start={t_start!r}, t_end={t_end!r}"
            )
        self.t_start = t_start
        self.t_end = t_end
        self.initial_val = initial_val
        self.target_val = target_val

    def __call__(self, t: int) -> Any:
        """The value at step `t`."""
        return self.initial_val + self._compute_factor(t) * (self.target_val - self.initial_val)

    def _compute_factor(self, t: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must compute with the tensors of a framework.")

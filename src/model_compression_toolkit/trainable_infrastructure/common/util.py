# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Counts the steps of training."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from model_compression_toolkit.core.common.progress import track

__all__ = ["get_total_grad_steps"]


@functools.lru_cache
def get_total_grad_steps(representative_data_gen: Callable[[], Iterable[Any]]) -> int:
    """Number of batches of a data set, counted once for each function that yields it.

    Args:
        representative_data_gen: called without arguments, gives the batches.

    Raises:
        TypeError: no function.
    """
    if not callable(representative_data_gen):
        raise TypeError(
            "`representative_data_gen` must be a function without arguments that yields batches. "
            f"Received: {representative_data_gen!r}"
        )
    return sum(1 for _ in track(representative_data_gen(), "Counting the batches"))

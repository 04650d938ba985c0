# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What calibration remembers of a tensor over many batches: its extremes and a histogram that grows with them."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

NUM_BINS = 4096

HistogramFunction = Callable[[float, float, int], npt.NDArray[np.float64]]


class TensorStatistics:
    """Extremes and histogram of a stream of values.

    The histogram spans the first batch; when a later value falls outside, its width doubles and neighbouring bins are
    merged, so that counts stay exact and memory stays constant.

    Attributes:
        minimum: smallest value seen.
        maximum: largest value seen.
        counts: values in each bin, float64, shape (NUM_BINS,).
    """

    def __init__(self) -> None:
        self.minimum, self.maximum = math.inf, -math.inf
        self.counts: npt.NDArray[np.float64] = np.zeros(NUM_BINS)
        self._low, self._high = 0.0, 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen."""
        return self.minimum > self.maximum

    @property
    def bin_centers(self) -> npt.NDArray[np.float64]:
        """Middle of each bin, float64, shape (NUM_BINS,)."""
        edges = np.linspace(self._low, self._high, NUM_BINS + 1)
        return (edges[:-1] + edges[1:]) / 2

    def update(self, minimum: float, maximum: float, histogram: HistogramFunction) -> None:
        """Take in a batch.

        Args:
            minimum: smallest value of the batch.
            maximum: largest value of the batch.
            histogram: gives the batch's counts for a lower end, an upper end and a number of bins.

        Raises:
            ValueError: the batch has NaN or infinite values.
        """
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            raise ValueError(f"Expected finite values. Received: values from {minimum} to {maximum}")
        if self.is_empty:
            self._low, self._high = minimum, maximum
            if self._low == self._high:
                # A single value has no width; any width that float32 resolves around it serves.
                margin = max(abs(minimum), 2.0**-64) * 2.0**-10
                self._low, self._high = minimum - margin, maximum + margin
        while minimum < self._low:
            self._low -= self._high - self._low
            self.counts = np.concatenate([np.zeros(NUM_BINS // 2), self.counts.reshape(-1, 2).sum(axis=1)])
        while maximum > self._high:
            self._high += self._high - self._low
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(NUM_BINS // 2)])
        self.minimum, self.maximum = min(self.minimum, minimum), max(self.maximum, maximum)
        self.counts += histogram(self._low, self._high, NUM_BINS)

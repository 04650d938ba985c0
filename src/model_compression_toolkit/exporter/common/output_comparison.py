# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How the outputs of a file and of its model compare."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OutputComparison"]

Array = npt.NDArray[Any]


class OutputComparison:
    """Largest difference and share of equal classes of the outputs of many batches."""

    def __init__(self) -> None:
        self.largest, self.relative = 0.0, 0.0
        self._same_class: list[Array] = []

    @property
    def agreement(self) -> float | None:
        """Share of samples with the same class; None without classes."""
        return float(np.concatenate(self._same_class).mean()) if self._same_class else None

    def compare(self, received: list[Array], expected: list[Array], count: int) -> None:
        """Take in a batch.

        Args:
            received: the outputs of the file.
            expected: the outputs of the model.
            count: number of samples that matter; what follows them fills a batch of fixed size.

        Raises:
            ValueError: the outputs have other shapes.
        """
        shapes = [[item.shape for item in items] for items in (received, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The file must be exported from `model`, whose outputs have the shapes {shapes[1]}. "
                f"Received: a file with outputs of {shapes[0]}"
            )
        has_class = False
        for ours, theirs in zip(expected, received, strict=True):
            if not np.issubdtype(ours.dtype, np.floating):
                continue
            with np.errstate(invalid="ignore"):
                equal = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
                difference = np.where(equal, 0.0, np.abs(ours - theirs)).max(initial=0.0)
                magnitude = np.abs(ours).max(initial=np.finfo(np.float32).tiny)
            # Not `max` of Python, which would drop a NaN.
            self.largest = float(np.maximum(self.largest, difference))
            self.relative = float(np.maximum(self.relative, difference / magnitude))
            if ours.ndim == 2 and ours.shape[1] > 1 and not has_class:
                has_class = True
                self._same_class.append((ours.argmax(axis=1) == theirs.argmax(axis=1))[:count])

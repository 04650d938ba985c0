# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How the outputs of a file and of its model compare."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OutputComparison"]

Array = npt.NDArray[Any]


class OutputComparison:
    """Differences and share of equal classes of the outputs of many batches.

    Attributes:
        largest: the greatest difference.
        relative: the greatest difference of a batch relative to the output's greatest magnitude.
    """

    def __init__(self) -> None:
        self.largest, self.relative = 0.0, 0.0
        self._same_class: list[Array] = []
        self._squares: dict[int, tuple[float, float]] = {}

    @property
    def agreement(self) -> float | None:
        """Share of samples with the same class; None without classes."""
        return float(np.concatenate(self._same_class).mean()) if self._same_class else None

    @property
    def error(self) -> float:
        """Root of the mean squared difference relative to that of the output, of the worst output; NaN counts."""
        errors = [
            np.sqrt(np.float64(differences) / max(values, np.finfo(np.float64).tiny)) if differences else np.float64(0)
            for differences, values in self._squares.values()
        ]
        # Not `max` of Python, which would drop a NaN.
        return float(np.max(errors, initial=0.0))

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
        for index, (ours, theirs) in enumerate(zip(expected, received, strict=True)):
            if not np.issubdtype(ours.dtype, np.floating):
                continue
            with np.errstate(invalid="ignore"):
                equal = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
                distances = np.where(equal, 0.0, np.abs(ours - theirs)).astype(np.float64)
                difference = distances.max(initial=0.0)
                magnitude = np.abs(ours).max(initial=np.finfo(np.float32).tiny)
            # Not `max` of Python, which would drop a NaN.
            self.largest = float(np.maximum(self.largest, difference))
            self.relative = float(np.maximum(self.relative, difference / magnitude))
            sums = self._squares.get(index, (0.0, 0.0))
            values = np.where(np.isfinite(ours), ours, 0.0).astype(np.float64)
            self._squares[index] = sums[0] + float((distances**2).sum()), sums[1] + float((values**2).sum())
            if ours.ndim == 2 and ours.shape[1] > 1 and not has_class:
                has_class = True
                self._same_class.append((ours.argmax(axis=1) == theirs.argmax(axis=1))[:count])

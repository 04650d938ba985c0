# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the user's model computes on a sample, and whether a copy of it computes the same."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

RELATIVE_STEP = 1e-6
"""By this share float32 inputs are moved to see what rounding alone does to the outputs."""
_EXACT = 1e-4
_ROUNDED = {"float16": 0.1, "bfloat16": 0.1}
_ROUNDED_OTHERWISE = 1e-2
_MARGIN = 10.0


class ReferenceOutputs:
    """The outputs of the user's model for a sample.

    Randomness is no difference, and neither is a jump that rounding alone makes: where a copy differs, the model itself
    runs once more, on inputs that are moved by `RELATIVE_STEP`, and may differ from itself as much.

    Args:
        outputs: the outputs, flattened.
        run_again: runs the model on moved inputs.
    """

    def __init__(self, outputs: Sequence[Array], run_again: Callable[[], Sequence[Array]]) -> None:
        self.outputs = list(outputs)
        self._moved = functools.cache(run_again)

    def agree(self, received: Sequence[Array]) -> bool:
        """Whether outputs agree as two runs of one model do, whose layers a compiler fuses in different ways."""
        return self._agree(received, _close)

    def check_assembled(self, received: Sequence[Array], dtype: str = "float32") -> None:
        """Check the outputs of the assembled model, its quantizers off: folding batch norms has rounded them anew.

        Args:
            received: the outputs.
            dtype: the dtype in which the model computes.

        Raises:
            ValueError: it computes something else than the user's model.
        """
        tolerance = _ROUNDED.get(dtype, _ROUNDED_OTHERWISE)
        if not self._agree(received, lambda a, b: relative_error(a, b) <= tolerance):
            errors = [relative_error(a, b) for a, b in zip(self.outputs, received, strict=False)]
            raise ValueError(
                "The copy of `model` that was to be quantized computes something else than `model`, before anything is "
                f"quantized (relative errors of its outputs on the first batch: {[float(f'{e:.3g}') for e in errors]}; "
                f"allowed: {tolerance}). A layer was copied without what its result depends on. Use another `capture` "
                "('graph' or 'modules'), or plain layers in place of those with code of their own."
            )

    def _agree(self, received: Sequence[Array], close: Callable[[Array, Array], bool]) -> bool:
        if [item.shape for item in self.outputs] != [item.shape for item in received]:
            return False
        for index, (expected, other) in enumerate(zip(self.outputs, received, strict=True)):
            if not close(expected, other):
                own = relative_error(expected, self._moved()[index])
                if own == 0.0 or relative_error(expected, other) > _MARGIN * own:
                    return False
        return True


def relative_error(expected: Array, received: Array) -> float:
    """Root mean square of the differences, as a share of that of `expected`; of other dtypes the share that differs.

    NaN and infinite values must stand in the same places: otherwise the result is infinite.
    """
    if expected.shape != received.shape:
        return float("inf")
    if not (_is_float(expected) and _is_float(received)):
        return float(np.mean(expected != received)) if expected.size else 0.0
    a, b = expected.astype(np.float64), received.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    difference = np.sqrt(np.mean((a[finite] - b[finite]) ** 2))
    size = np.sqrt(np.mean(a[finite] ** 2))
    return float(difference / size) if size else float(difference)


def moved_inputs(inputs: Sequence[Array]) -> list[Array]:
    """The inputs, those of floating point moved by `RELATIVE_STEP`."""
    return [item * np.asarray(1 + RELATIVE_STEP, item.dtype) if _is_float(item) else item for item in inputs]


def _is_float(array: Array) -> bool:
    # Of the dtypes that NumPy does not know, bfloat16 and the floats of eight bits, the kind is "V".
    return np.issubdtype(array.dtype, np.floating) or "float" in array.dtype.name


def _close(expected: Array, received: Array) -> bool:
    if not (_is_float(expected) and _is_float(received)):
        return bool(np.array_equal(expected, received))
    a, b = expected.astype(np.float64), received.astype(np.float64)
    largest = np.abs(a[np.isfinite(a)]).max(initial=1.0)
    return bool(np.allclose(a, b, rtol=_EXACT, atol=_EXACT / 10 * largest, equal_nan=True))

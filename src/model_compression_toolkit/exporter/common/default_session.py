# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Judges the outputs of an engine as it comes, which is what users run.

With its optimizations an engine sums in integers, rounds biases and scales, and looks functions up in tables: a code
that lies near a tie may get its neighbour, and in a deep network one code moves others. That is no defect as long as it
changes the outputs no more than rounding does anyway. So the outputs may differ by a small share of their magnitude, or
by a few times what they differ when noise of up to half a step, which is the error of one rounding, is added to each
quantized activation. A wrong bias, scale or weight moves a whole channel, and the outputs by much more.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.exporter.common.output_comparison import OutputComparison

__all__ = ["DefaultSession", "rounding_noise"]

Array = npt.NDArray[Any]

SMALLEST_TOLERANCE = 2.0**-8
"""What an output may always differ by, relative to its root mean square: a step of 8 bits."""
_FACTOR = 4.0
"""How much more than noise of half a step changes outputs an engine may change them: its roundings are no noise, and
come several to an operation. Biases that were wrong made differences of 25 to 20,000 times as much."""


class DefaultSession:
    """Collects the outputs of an engine as it comes over many batches.

    Args:
        disturbed: the model's outputs for the present batch, with `rounding_noise` added to each activation that it
            quantizes. Called only for a batch whose outputs differ by more than the smallest tolerance.

    Attributes:
        outputs: how the outputs compare.
        tolerance: root of the mean squared difference that is allowed, relative to that of the outputs.
    """

    def __init__(self, disturbed: Callable[[], list[Array]]) -> None:
        self.outputs = OutputComparison()
        self._disturbed = disturbed
        self._noise = OutputComparison()

    @property
    def tolerance(self) -> float:
        """Root of the mean squared difference that is allowed, relative to that of the outputs."""
        noise = self._noise.error
        return max(SMALLEST_TOLERANCE, _FACTOR * noise if np.isfinite(noise) else 0.0)

    def compare(self, received: list[Array], expected: list[Array], count: int) -> None:
        """Take in a batch; see `OutputComparison.compare`.

        Raises:
            ValueError: the outputs have other shapes.
        """
        self.outputs.compare(received, expected, count)
        of_batch = OutputComparison()
        of_batch.compare(received, expected, count)
        if not of_batch.error <= SMALLEST_TOLERANCE:
            self._noise.compare(self._disturbed(), expected, count)


def rounding_noise(shape: tuple[int, ...], params: QuantParams | LookupTable | None) -> Array:
    """Noise of up to half a step of a grid, or half of the mean distance of a table's levels: float32, always the same.

    Args:
        shape: of the activation.
        params: its grid or table; without one nothing is added.
    """
    if params is None:
        return np.zeros(shape, np.float32)
    if isinstance(params, LookupTable):
        step = params.threshold / 2.0 ** (params.num_bits - params.signed)
    else:
        step = params.scale
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, shape)
    return (noise * step.reshape(broadcast_shape(len(shape), params.axis))).astype(np.float32)

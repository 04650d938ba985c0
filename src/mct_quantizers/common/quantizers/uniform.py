# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Uniform (asymmetric) quantizers: a grid over a range, with an integer that stands for zero."""

from collections.abc import Sequence
from typing import ClassVar

from mct_quantizers.common.quant_params import FloatArray, from_range
from mct_quantizers.common.quantizers.configurable import WeightsQuantizer
from mct_quantizers.common.quantizers.grid import GridQuantizer
from mct_quantizers.common.validation import checked_axis


class UniformGridQuantizer(GridQuantizer):
    """A quantizer whose grid is given by a range."""

    _params_arguments: ClassVar[tuple[str, ...]] = ("min_range", "max_range")

    @property
    def min_range(self) -> FloatArray:
        """Smallest value of the repaired range, float64, shape (1,) or (C,)."""
        min_range: FloatArray = self.params.min_range
        return min_range

    @property
    def max_range(self) -> FloatArray:
        """Largest value of the repaired range, float64, shape (1,) or (C,)."""
        max_range: FloatArray = self.params.max_range
        return max_range


class WeightsUniform(UniformGridQuantizer, WeightsQuantizer):
    """Weights on `2**num_bits` points over a range, repaired to contain zero exactly.

    Args:
        num_bits: 1 to 16.
        min_range: smallest value or values, one per tensor or one per channel.
        max_range: largest value or values, above `min_range`.
        per_channel: whether each slice along `channel_axis` has its own range.
        channel_axis: axis of the channels, negative from the end; needed per channel.
        input_rank: rank of the weights, to check the axis early; else the call tells.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a minimum that is not below its maximum, an axis that does not exist.
    """

    def __init__(
        self,
        num_bits: int,
        min_range: float | Sequence[float],
        max_range: float | Sequence[float],
        per_channel: bool,
        channel_axis: int | None = None,
        input_rank: int | None = None,
    ) -> None:
        axis = checked_axis(per_channel, channel_axis, input_rank)
        params = from_range(min_range, max_range, num_bits, axis=axis)
        super().__init__(
            params,
            num_bits=params.num_bits,
            min_range=min_range,
            max_range=max_range,
            per_channel=bool(per_channel),
            channel_axis=channel_axis,
            input_rank=input_rank,
        )


class ActivationUniform(UniformGridQuantizer):
    """Activations on `2**num_bits` points over a range, repaired to contain zero exactly.

    Args:
        num_bits: 1 to 16.
        min_range: smallest value, one number.
        max_range: largest value, one number above `min_range`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a minimum that is not below its maximum, or more than one range.
    """

    def __init__(self, num_bits: int, min_range: float | Sequence[float], max_range: float | Sequence[float]) -> None:
        params = from_range(min_range, max_range, num_bits)
        super().__init__(params, num_bits=params.num_bits, min_range=min_range, max_range=max_range)

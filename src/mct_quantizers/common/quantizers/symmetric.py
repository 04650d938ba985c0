# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Symmetric and power-of-two quantizers: a grid around zero, given by a threshold."""

from collections.abc import Sequence
from typing import Any, ClassVar

from mct_quantizers.common.quant_params import FloatArray, QuantParams, from_threshold
from mct_quantizers.common.quantizers.configurable import WeightsQuantizer
from mct_quantizers.common.quantizers.grid import GridQuantizer
from mct_quantizers.common.validation import checked_axis


class SymmetricGridQuantizer(GridQuantizer):
    """A quantizer whose grid is given by a threshold."""

    _params_arguments: ClassVar[tuple[str, ...]] = ("threshold",)
    _power_of_two: ClassVar[bool] = False

    @property
    def threshold(self) -> FloatArray:
        """`scale · 2**(num_bits - signed)`, float64, shape (1,) or (C,)."""
        threshold: FloatArray = self.params.threshold
        return threshold

    @classmethod
    def _arguments_from(cls, params: QuantParams) -> dict[str, Any]:
        return {**super()._arguments_from(params), "signed": params.signed}


class WeightsSymmetric(SymmetricGridQuantizer, WeightsQuantizer):
    """Weights on the grid `scale · {quant_min … quant_max}`, `scale = threshold / 2**(num_bits - signed)`.

    Args:
        num_bits: 1 to 16; one bit with sign has the levels -threshold and 0.
        threshold: positive number or numbers, one per tensor or one per channel.
        per_channel: whether each slice along `channel_axis` has its own threshold.
        channel_axis: axis of the channels, negative from the end; needed per channel.
        input_rank: rank of the weights, to check the axis early; else the call tells.
        signed: False for the unsigned grid `[0, threshold)`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a threshold that is not positive and finite, an axis that does not exist.
    """

    def __init__(
        self,
        num_bits: int,
        threshold: float | Sequence[float],
        per_channel: bool,
        channel_axis: int | None = None,
        input_rank: int | None = None,
        signed: bool = True,
    ) -> None:
        axis = checked_axis(per_channel, channel_axis, input_rank)
        params = from_threshold(threshold, num_bits, signed, axis=axis, power_of_two=self._power_of_two)
        super().__init__(
            params,
            num_bits=params.num_bits,
            threshold=threshold,
            per_channel=bool(per_channel),
            channel_axis=channel_axis,
            input_rank=input_rank,
            signed=bool(signed),
        )


class ActivationSymmetric(SymmetricGridQuantizer):
    """Activations on the grid `scale · {quant_min … quant_max}`, `scale = threshold / 2**(num_bits - signed)`.

    Args:
        num_bits: 1 to 16; one bit with sign has the levels -threshold and 0.
        threshold: one positive number.
        signed: whether the grid has negative values.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a threshold that is not positive and finite, or more than one.
    """

    def __init__(self, num_bits: int, threshold: float | Sequence[float], signed: bool) -> None:
        params = from_threshold(threshold, num_bits, signed, power_of_two=self._power_of_two)
        super().__init__(params, num_bits=params.num_bits, threshold=threshold, signed=bool(signed))


class WeightsPOT(WeightsSymmetric):
    """`WeightsSymmetric` whose thresholds are powers of two, so that scaling is a shift.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a threshold that is not a power of two, an axis that does not exist.
    """

    _power_of_two: ClassVar[bool] = True


class ActivationPOT(ActivationSymmetric):
    """`ActivationSymmetric` whose threshold is a power of two, so that scaling is a shift.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a threshold that is not a power of two, or more than one.
    """

    _power_of_two: ClassVar[bool] = True

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Lookup-table quantizers: any levels of a finer integer grid, given by a table and a threshold."""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from mct_quantizers.common.constants import EPS, LUT_VALUES_BITWIDTH
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quantizers.configurable import ConfigurableQuantizer, WeightsQuantizer
from mct_quantizers.common.validation import as_vector, check_power_of_two, checked_axis


class TableQuantizer(ConfigurableQuantizer):
    """A quantizer whose parameters are a `LookupTable`.

    Attributes:
        num_bits: width of the index into the table.
        signed: whether the levels may be negative.
        lut_values_bitwidth: width of the levels.
        eps: keeps the division finite.
    """

    _params_arguments: ClassVar[tuple[str, ...]] = ("lut_values", "threshold")

    def __init__(self, params: LookupTable, **arguments: Any) -> None:
        if params.num_bits == params.lut_values_bitwidth:
            warnings.warn(
                f"`num_bits` equals `lut_values_bitwidth` ({params.num_bits}): a uniform grid does the same, faster.",
                stacklevel=3,
            )
        super().__init__(params, **arguments)
        self.num_bits, self.signed = params.num_bits, params.signed
        self.lut_values_bitwidth, self.eps = params.lut_values_bitwidth, params.eps

    @classmethod
    def _arguments_from(cls, params: LookupTable) -> dict[str, Any]:
        arguments = super()._arguments_from(params)
        return {**arguments, "lut_values_bitwidth": params.lut_values_bitwidth, "eps": params.eps}


class WeightsLUTSymmetric(TableQuantizer, WeightsQuantizer):
    """Weights on the levels of a table, `lut_values / 2**(lut_values_bitwidth - 1) · threshold`.

    Args:
        num_bits: width of the index: at most 2**num_bits different levels.
        lut_values: the levels, signed integers of `lut_values_bitwidth` bits.
        threshold: positive number or numbers, one per tensor or one per channel.
        per_channel: whether each slice along `channel_axis` has its own threshold.
        channel_axis: axis of the channels, negative from the end; needed per channel.
        input_rank: rank of the weights, to check the axis early; else the call tells.
        lut_values_bitwidth: width of the levels, at least `num_bits`.
        eps: added to the threshold where it divides.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: levels that are too many, no integers or outside their width; a threshold that is not positive; an
            axis that does not exist.
    """

    _power_of_two: ClassVar[bool] = False

    def __init__(
        self,
        num_bits: int,
        lut_values: Sequence[float],
        threshold: float | Sequence[float],
        per_channel: bool,
        channel_axis: int | None = None,
        input_rank: int | None = None,
        lut_values_bitwidth: int = LUT_VALUES_BITWIDTH,
        eps: float = EPS,
    ) -> None:
        axis = checked_axis(per_channel, channel_axis, input_rank)
        thresholds = as_vector("threshold", threshold)
        if self._power_of_two:
            check_power_of_two("threshold", thresholds)
        params = LookupTable(
            as_vector("lut_values", lut_values), thresholds, num_bits, True, lut_values_bitwidth, eps, axis
        )
        super().__init__(
            params,
            num_bits=params.num_bits,
            lut_values=lut_values,
            threshold=threshold,
            per_channel=bool(per_channel),
            channel_axis=channel_axis,
            input_rank=input_rank,
            lut_values_bitwidth=params.lut_values_bitwidth,
            eps=params.eps,
        )


class WeightsLUTPOT(WeightsLUTSymmetric):
    """`WeightsLUTSymmetric` whose thresholds are powers of two, so that scaling is a shift.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: as there, and a threshold that is not a power of two.
    """

    _power_of_two: ClassVar[bool] = True


class ActivationLutPOT(TableQuantizer):
    """Activations on the levels of a table, `lut_values / 2**(lut_values_bitwidth - signed) · threshold`.

    Args:
        num_bits: width of the index: at most 2**num_bits different levels.
        lut_values: the levels, integers of `lut_values_bitwidth` bits.
        threshold: one power of two.
        signed: whether the levels may be negative.
        lut_values_bitwidth: width of the levels, at least `num_bits`.
        eps: added to the threshold where it divides.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: levels that are too many, no integers or outside their width; a threshold that is no power of two.
    """

    def __init__(
        self,
        num_bits: int,
        lut_values: Sequence[float],
        threshold: float | Sequence[float],
        signed: bool,
        lut_values_bitwidth: int = LUT_VALUES_BITWIDTH,
        eps: float = EPS,
    ) -> None:
        thresholds = as_vector("threshold", threshold)
        check_power_of_two("threshold", thresholds)
        params = LookupTable(
            as_vector("lut_values", lut_values), thresholds, num_bits, signed, lut_values_bitwidth, eps
        )
        super().__init__(
            params,
            num_bits=params.num_bits,
            lut_values=lut_values,
            threshold=threshold,
            signed=params.signed,
            lut_values_bitwidth=params.lut_values_bitwidth,
            eps=params.eps,
        )

    @classmethod
    def _arguments_from(cls, params: LookupTable) -> dict[str, Any]:
        return {**super()._arguments_from(params), "signed": params.signed}

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""From observed values to a grid: no clipping, percentile, or the least mean squared error.

Values come as rows, one row for each set of parameters: the channels of a weight, or the histogram of an activation
(bin centres, with counts as weights).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import FloatArray, QuantParams, from_range, from_threshold, integer_range
from model_compression_toolkit.core.common.quantization_config import RangeSearch, TensorConfig

# Below this, a float32 scale could be subnormal; such a tensor is as good as zero.
SMALLEST_RANGE = 2.0**-100
RANGE_OF_ZEROS = 2.0**-16

_COARSE_RATIOS = np.linspace(1.0, 0.05, 39)
_FINE_STEPS = np.linspace(-0.0225, 0.0225, 10)
_POWER_OF_TWO_RATIOS = np.exp2(-np.arange(8.0))


@dataclass(frozen=True, slots=True)
class ObservedValues:
    """What a search sees of a tensor.

    Attributes:
        values: float64, shape (C, N): N values for each of C sets of parameters.
        counts: how often each value occurred, shape (C, N); None for once each.
        minimum: smallest value of each row, shape (C,).
        maximum: largest value of each row, shape (C,).
    """

    values: FloatArray
    counts: FloatArray | None
    minimum: FloatArray
    maximum: FloatArray


def search_params(observed: ObservedValues, config: TensorConfig, signed: bool) -> QuantParams:
    """The grid for each row of `observed`, by the configured method and search.

    Args:
        observed: the values.
        config: bits, method and search.
        signed: whether symmetric grids have negative integers.

    Returns:
        Parameters of shape (C,) along axis 0.
    """
    low, high = _clipped_extremes(observed, config)
    search = RangeSearch(config.range_search)
    if config.method is QuantizationMethod.UNIFORM:
        return _search_uniform(observed, low, high, config, search)
    full = _full_threshold(low, high, config.num_bits, signed)

    if config.method is QuantizationMethod.POWER_OF_TWO:
        full = np.exp2(np.ceil(np.log2(full)))

    def scaled(ratio: FloatArray) -> QuantParams:
        return from_threshold(full * ratio, config.num_bits, signed, axis=0)

    if search is not RangeSearch.MSE:
        return scaled(np.ones(full.shape))
    if config.method is QuantizationMethod.POWER_OF_TWO:
        return scaled(_best_ratio(observed, _POWER_OF_TWO_RATIOS, scaled))
    return scaled(_coarse_to_fine(observed, scaled))


def squared_error(observed: ObservedValues, params: QuantParams) -> FloatArray:
    """Sum of squared quantization errors of each row, float64, shape (C,)."""
    # float32 is the arithmetic of every engine, and twice as fast as float64 here.
    values = observed.values.astype(np.float32)
    error = (arithmetic.fake_quantize(values, params, numpy_ops) - values).astype(np.float64) ** 2
    total: FloatArray = (error if observed.counts is None else error * observed.counts).sum(axis=1)
    return total


def _search_uniform(
    observed: ObservedValues, low: FloatArray, high: FloatArray, config: TensorConfig, search: RangeSearch
) -> QuantParams:
    # The grid contains zero in any case, so the range does too, and each end can be scaled on its own.
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    empty = high - low < SMALLEST_RANGE
    low, high = np.where(empty, 0.0, low), np.where(empty, RANGE_OF_ZEROS, high)
    if search is not RangeSearch.MSE:
        return from_range(low, high, config.num_bits, axis=0)

    both = _coarse_to_fine(observed, lambda ratio: from_range(low * ratio, high * ratio, config.num_bits, axis=0))
    low, high = low * both, high * both
    if (low < 0).any() and (high > 0).any():
        lower = _coarse_to_fine(observed, lambda ratio: from_range(low * ratio, high, config.num_bits, axis=0))
        low = low * lower
        upper = _coarse_to_fine(observed, lambda ratio: from_range(low, high * ratio, config.num_bits, axis=0))
        high = high * upper
    return from_range(low, high, config.num_bits, axis=0)


def _clipped_extremes(observed: ObservedValues, config: TensorConfig) -> tuple[FloatArray, FloatArray]:
    if config.range_search is not RangeSearch.PERCENTILE:
        return observed.minimum, observed.maximum
    share = config.percentile / 100.0
    low, high = np.quantile(
        observed.values, [1.0 - share, share], axis=1, weights=observed.counts, method="inverted_cdf"
    )
    return np.maximum(low, observed.minimum), np.minimum(high, observed.maximum)


def _full_threshold(low: FloatArray, high: FloatArray, num_bits: int, signed: bool) -> FloatArray:
    """The threshold whose grid reaches both extremes."""
    quant_min, quant_max = integer_range(num_bits, signed)
    levels = 2.0 ** (num_bits - signed)
    positive = high * levels / quant_max if quant_max > 0 else np.abs(high)
    negative = -low if quant_min < 0 else np.zeros_like(low)
    threshold = np.maximum(positive, negative)
    return np.where(threshold < SMALLEST_RANGE, RANGE_OF_ZEROS, threshold)


def _coarse_to_fine(observed: ObservedValues, params_of: Callable[[FloatArray], QuantParams]) -> FloatArray:
    coarse = _best_ratio(observed, _COARSE_RATIOS, params_of)
    candidates = np.clip(coarse[np.newaxis, :] + _FINE_STEPS[:, np.newaxis], 0.0125, 1.0)
    return _best_ratio(observed, np.concatenate([coarse[np.newaxis, :], candidates]), params_of)


def _best_ratio(
    observed: ObservedValues, ratios: FloatArray, params_of: Callable[[FloatArray], QuantParams]
) -> FloatArray:
    """For each row the ratio with the least error, the first of equals. `ratios`: (K,) or (K, C)."""
    best = np.ones(len(observed.minimum))
    least = np.full(best.shape, np.inf)
    for candidate in ratios:
        ratio = np.broadcast_to(candidate, best.shape)
        error = squared_error(observed, params_of(ratio))
        better = error < least
        best, least = np.where(better, ratio, best), np.where(better, error, least)
    return best

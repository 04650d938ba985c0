# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_compression_toolkit.ptq.common.statistics import NUM_BINS, TensorStatistics


def observe(statistics, batch):
    batch = np.asarray(batch, dtype=np.float64)
    statistics.update(
        float(batch.min()),
        float(batch.max()),
        lambda low, high, bins: np.histogram(batch, bins, (low, high))[0].astype(np.float64),
    )


def observed(batches):
    statistics = TensorStatistics()
    for batch in batches:
        observe(statistics, batch)
    return statistics


def check_counts(statistics, values):
    """Up to each edge, the histogram counts at least what lies below it and at most what lies at or below it."""
    centers = statistics.bin_centers
    width = (centers[-1] - centers[0]) / (NUM_BINS - 1)
    edges = centers + width / 2
    cumulative = np.cumsum(statistics.counts)
    # Values within rounding of an edge may fall on either side of it.
    slack = 1e-9 * (NUM_BINS * width + np.abs(centers).max())
    ordered = np.sort(values)
    assert (cumulative >= np.searchsorted(ordered, edges - slack, side="left")).all()
    assert (cumulative <= np.searchsorted(ordered, edges + slack, side="right")).all()
    assert cumulative[-1] == values.size


def test_one_batch_is_numpys_histogram():
    batch = np.random.default_rng(0).normal(size=5000)
    statistics = observed([batch])
    counts, edges = np.histogram(batch, NUM_BINS)
    assert np.array_equal(statistics.counts, counts)
    np.testing.assert_allclose(statistics.bin_centers, (edges[:-1] + edges[1:]) / 2, rtol=0, atol=1e-12)
    assert (statistics.minimum, statistics.maximum) == (batch.min(), batch.max())


@pytest.mark.parametrize(
    "scales", [(1, 3, 9, 100), (1, 1e6), (1e-6, 1), (5, 1, 0.1), (-1, -50, 50), (1, 1, 1)], ids=str
)
def test_counts_stay_exact_while_the_range_grows(scales):
    rng = np.random.default_rng(1)
    batches = [scale * rng.uniform(-0.3, 1.0, 700) for scale in scales]
    statistics = observed(batches)
    check_counts(statistics, np.concatenate(batches))
    assert statistics.counts.shape == (NUM_BINS,)


@given(st.lists(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=20), min_size=1, max_size=6))
def test_counts_and_extremes_hold_for_any_stream(batches):
    statistics = observed(batches)
    values = np.concatenate([np.asarray(batch, dtype=np.float64) for batch in batches])
    check_counts(statistics, values)
    assert (statistics.minimum, statistics.maximum) == (values.min(), values.max())
    assert statistics.bin_centers[0] <= statistics.maximum
    assert statistics.bin_centers[-1] >= statistics.minimum


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-45, 1e30, -(2.0**-120)])
def test_a_single_value_has_a_histogram_of_its_own(value):
    statistics = observed([np.full(7, value), np.full(5, value)])
    assert statistics.minimum == statistics.maximum == value
    assert statistics.counts.sum() == 12
    (occupied,) = np.nonzero(statistics.counts)
    # The value stands at the middle edge, and is 2**-10 of itself away from either end.
    assert occupied.size == 1
    assert abs(statistics.bin_centers[occupied[0]] - value) <= max(abs(value), 2.0**-64) * 2.0**-20


def test_zeros_after_values_and_values_after_zeros():
    values = np.linspace(-2.0, 3.0, 101)
    for batches in ([values, np.zeros(50)], [np.zeros(50), values]):
        statistics = observed(batches)
        check_counts(statistics, np.concatenate(batches))
        assert (statistics.minimum, statistics.maximum) == (-2.0, 3.0)


def test_a_new_instance_is_empty():
    statistics = TensorStatistics()
    assert statistics.is_empty
    assert not statistics.counts.any()
    observe(statistics, [1.0])
    assert not statistics.is_empty


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (0.0, math.nan), (-math.inf, 0.0), (0.0, math.inf)])
def test_nan_and_infinity_are_refused_and_change_nothing(bad):
    statistics = observed([[1.0, 2.0]])
    before = statistics.counts.copy()
    with pytest.raises(ValueError, match=r"finite.*from"):
        statistics.update(*bad, lambda low, high, bins: np.ones(bins))
    assert np.array_equal(statistics.counts, before)
    assert (statistics.minimum, statistics.maximum) == (1.0, 2.0)

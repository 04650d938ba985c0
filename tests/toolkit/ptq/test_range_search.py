# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import Granularity
from model_compression_toolkit.core.common.quantization_config import GRID_METHODS, RangeSearch, TensorConfig
from model_compression_toolkit.core.common.quantization_plan import TensorPlan, TensorSite
from model_compression_toolkit.ptq.common.calibration import activation_params, weight_params
from model_compression_toolkit.ptq.common.range_search import ObservedValues, search_params, squared_error
from model_compression_toolkit.ptq.common.statistics import TensorStatistics

POT, SYMMETRIC, UNIFORM = GRID_METHODS
EPS32 = 2.0**-23


def rows_of(values):
    rows = np.atleast_2d(np.asarray(values, dtype=np.float64))
    return ObservedValues(rows, None, rows.min(axis=1), rows.max(axis=1))


def search(values, num_bits, method, kind, signed=True, percentile=99.99):
    config = TensorConfig(num_bits, method, range_search=kind, percentile=percentile)
    return search_params(rows_of(values), config, signed)


def nearest(value, scale, zero_point, quant_min, quant_max):
    """The grid point for one number, in plain float64."""
    code = min(max(round(value / scale) + zero_point, quant_min), quant_max)
    return (code - zero_point) * scale


def errors(values, params):
    """Squared error of each row, element by element."""
    total = []
    for row, scale, zero_point in zip(np.atleast_2d(values), params.scale, params.zero_point, strict=True):
        grid = [nearest(float(x), float(scale), int(zero_point), params.quant_min, params.quant_max) for x in row]
        total.append(sum((x - y) ** 2 for x, y in zip(row, grid, strict=True)))
    return np.array(total)


def samples(seed, size=200):
    rng = np.random.default_rng(seed)
    return np.stack(
        [rng.normal(size=size), rng.uniform(-0.1, 4, size), rng.standard_t(2, size), -rng.exponential(1, size)]
    ).astype(np.float32)


@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("method", GRID_METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_min_max_reaches_both_extremes(method, num_bits, seed):
    values = samples(seed)
    params = search(values, num_bits, method, RangeSearch.MIN_MAX)
    for row, scale, zero_point in zip(values, params.scale, params.zero_point, strict=True):
        for extreme in (float(row.min()), float(row.max())):
            point = nearest(extreme, float(scale), int(zero_point), params.quant_min, params.quant_max)
            # The range is moved by at most half a step to hold zero; the scale is rounded to float32 after that.
            assert abs(point - extreme) <= scale / 2 + 2**num_bits * scale * EPS32


@pytest.mark.parametrize("num_bits", [2, 4, 8])
def test_min_max_symmetric_threshold_is_the_smallest_that_clips_nothing(num_bits):
    quant_max = 2 ** (num_bits - 1) - 1
    params = search([[-1.0, 0.3], [-0.2, 1.0]], num_bits, SYMMETRIC, RangeSearch.MIN_MAX)
    # -1 stands on quant_min, +1 on quant_max.
    np.testing.assert_allclose(params.scale, [1.0 / (quant_max + 1), 1.0 / quant_max], rtol=EPS32)


@pytest.mark.parametrize("num_bits", [2, 3, 8])
def test_unsigned_min_max_puts_the_maximum_on_the_last_code(num_bits):
    params = search([[0.0, 0.5, 3.0]], num_bits, SYMMETRIC, RangeSearch.MIN_MAX, signed=False)
    assert (params.quant_min, params.quant_max) == (0, 2**num_bits - 1)
    np.testing.assert_allclose(params.scale, 3.0 / (2**num_bits - 1), rtol=EPS32)


@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("method", GRID_METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_mse_is_never_worse_than_min_max(method, num_bits, seed):
    values = samples(seed)
    least = errors(values, search(values, num_bits, method, RangeSearch.MSE))
    full = errors(values, search(values, num_bits, method, RangeSearch.MIN_MAX))
    # The search measures in float32: rounding of x/scale may move a value across a tie, whose two errors are equal.
    assert (least <= full * (1 + 1e-4)).all()


def test_mse_clips_an_outlier_when_that_pays():
    values = np.concatenate([np.random.default_rng(0).normal(size=4000), [12.0]])[np.newaxis]
    for method in (SYMMETRIC, UNIFORM):
        least = errors(values, search(values, 4, method, RangeSearch.MSE))
        full = errors(values, search(values, 4, method, RangeSearch.MIN_MAX))
        assert least < 0.5 * full


def test_mse_finds_the_optimum_of_a_dense_scan_within_a_percent():
    values = np.random.default_rng(3).normal(size=(1, 1000)).astype(np.float32)
    found = errors(values, search(values, 4, SYMMETRIC, RangeSearch.MSE))
    base = search(values, 4, SYMMETRIC, RangeSearch.MIN_MAX)
    best = min(errors(values, base.replace_scale(base.scale * ratio))[0] for ratio in np.linspace(0.3, 1.0, 141))
    # The search looks in steps of 0.5 % of the range; near the optimum the error is flat.
    assert found[0] <= best * 1.01


@pytest.mark.parametrize("percentile", [60.0, 90.0, 99.0, 100.0])
@pytest.mark.parametrize("method", [SYMMETRIC, UNIFORM])
def test_percentile_equals_numpys_quantile(method, percentile):
    values = samples(5)
    params = search(values, 8, method, RangeSearch.PERCENTILE, percentile=percentile)
    for index, row in enumerate(values.astype(np.float64)):
        low, high = np.quantile(row, [1 - percentile / 100, percentile / 100], method="inverted_cdf")
        expected = dataclasses.replace(search([[low, high]], 8, method, RangeSearch.MIN_MAX), axis=None)
        np.testing.assert_allclose(params.scale[index], expected.scale[0], rtol=EPS32)
        assert params.zero_point[index] == expected.zero_point[0]


def test_percentile_of_a_histogram_weighs_the_bins_by_their_counts():
    centers, counts = np.array([[-1.0, 0.0, 1.0, 10.0]]), np.array([[50.0, 900.0, 49.0, 1.0]])
    observed = ObservedValues(centers, counts, np.array([-1.0]), np.array([10.0]))
    config = TensorConfig(8, UNIFORM, range_search="percentile", percentile=99.0)
    params = search_params(observed, config, signed=True)
    # A loop over the repeated values: the 1 % and 99 % quantiles of 1000 values are -1 and 1.
    repeated = np.repeat(centers[0], counts[0].astype(int))
    ordered = np.sort(repeated)
    assert (ordered[9], ordered[989]) == (-1.0, 1.0)
    np.testing.assert_allclose(params.scale, 2.0 / 255, rtol=EPS32)


@given(st.integers(2, 8), st.sampled_from(RangeSearch), st.floats(1e-20, 1e20), st.booleans())
def test_power_of_two_thresholds_are_powers_of_two(num_bits, kind, size, signed):
    values = np.abs(samples(0)[:2]) * np.float32(size)
    params = search(-values if signed else values, num_bits, POT, kind, signed)
    mantissa, _ = np.frexp(params.threshold)
    assert (mantissa == 0.5).all()
    assert not params.zero_point.any()


def test_power_of_two_min_max_is_the_next_power_above_the_extreme():
    params = search([[0.0, 0.9], [-3.0, 0.0], [-4.0, 1.0]], 8, POT, RangeSearch.MIN_MAX)
    # 0.9 needs quant_max: 0.9·128/127 is below 1.
    assert params.threshold.tolist() == [1.0, 4.0, 4.0]


@pytest.mark.parametrize("kind", RangeSearch)
@pytest.mark.parametrize("method", GRID_METHODS)
def test_rows_are_searched_independently(method, kind):
    values = samples(7)
    together = search(values, 4, method, kind)
    for index in range(len(values)):
        alone = search(values[index : index + 1], 4, method, kind)
        assert alone.scale[0] == together.scale[index]
        assert alone.zero_point[0] == together.zero_point[index]


def test_squared_error_equals_a_loop():
    values = samples(2)[:, :50]
    params = search(values, 4, UNIFORM, RangeSearch.MIN_MAX)
    # float32 elements, summed in float64.
    np.testing.assert_allclose(squared_error(rows_of(values), params), errors(values, params), rtol=1e-4)
    counts = np.arange(200.0).reshape(4, 50)
    weighted = ObservedValues(values.astype(np.float64), counts, values.min(axis=1), values.max(axis=1))
    singles = np.array(
        [[errors(values[r : r + 1, c : c + 1], _row(params, r))[0] for c in range(50)] for r in range(4)]
    )
    np.testing.assert_allclose(squared_error(weighted, params), (singles * counts).sum(axis=1), rtol=1e-4)


def _row(params, index):
    return dataclasses.replace(
        params, scale=params.scale[index : index + 1], zero_point=params.zero_point[index : index + 1]
    )


def weight_plan(shape, axis, num_bits=4, method=SYMMETRIC, kind=RangeSearch.MSE, granularity=Granularity.PER_CHANNEL):
    site = TensorSite("layer", "weight", QuantizationTarget.Weights, "Conv2d", tuple(shape), axis)
    return TensorPlan(site, TensorConfig(num_bits, method, granularity, kind))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (4, 6, 3, 3), (3, 4, 2, 2, 2)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("method", GRID_METHODS)
def test_per_channel_weights_equal_a_loop_over_slices(shape, axis, method):
    weight = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    params = weight_params(weight_plan(shape, axis, method=method), weight)
    assert params.axis == axis
    assert params.scale.shape == (shape[axis],)
    for index in range(shape[axis]):
        part = np.take(weight, [index], axis=axis)
        single = weight_params(weight_plan(part.shape, axis, method=method, granularity=Granularity.PER_TENSOR), part)
        assert single.axis is None
        assert (single.scale[0], single.zero_point[0]) == (params.scale[index], params.zero_point[index])


DEAD = [0.0, 1e-45, -1e-40, 1e-38]


@pytest.mark.parametrize("kind", RangeSearch)
@pytest.mark.parametrize("method", GRID_METHODS)
@pytest.mark.parametrize("num_bits", [2, 8, 16])
def test_zero_constant_subnormal_and_dead_channels_have_finite_scales_and_an_exact_zero(method, kind, num_bits):
    rng = np.random.default_rng(0)
    rows = [np.full(9, value) for value in (*DEAD, 1.0, -1.0, 1e30)] + [rng.normal(size=9)]
    weight = np.stack(rows).astype(np.float32)
    params = weight_params(weight_plan(weight.shape, 0, num_bits, method, kind), weight)
    single = params.scale.astype(np.float32)
    assert (single >= np.finfo(np.float32).tiny).all()
    assert np.isfinite(single).all()
    for scale, zero_point in zip(params.scale, params.zero_point, strict=True):
        assert nearest(0.0, float(scale), int(zero_point), params.quant_min, params.quant_max) == 0.0
    if num_bits == 8:
        # A constant channel is represented within half a step.
        values = np.array([nearest(float(r[0]), float(s), int(z), params.quant_min, params.quant_max)
                           for r, s, z in zip(weight, params.scale, params.zero_point, strict=True)])  # fmt: skip
        assert (np.abs(values - weight[:, 0])[:7] <= params.scale[:7] * (0.5 + 256 * EPS32)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_with_nan_or_infinity_are_refused_by_name(bad):
    weight = np.ones((3, 4), np.float32)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match=r"layer\.weight.*finite"):
        weight_params(weight_plan(weight.shape, 0), weight)


def activation_plan(method=UNIFORM, kind=RangeSearch.MSE, num_bits=8, reason=""):
    site = TensorSite("relu", "output", QuantizationTarget.Activation, "ReLU")
    return TensorPlan(site, None if reason else TensorConfig(num_bits, method, range_search=kind), reason=reason)


def statistics_of(*batches):
    statistics = TensorStatistics()
    for batch in batches:
        statistics.update(
            float(batch.min()), float(batch.max()), lambda a, b, n, v=batch: np.histogram(v, n, (a, b))[0] * 1.0
        )
    return statistics


def test_a_tensor_that_the_data_never_reaches_is_named():
    with pytest.raises(ValueError, match=r"never reached relu\.output"):
        activation_params(activation_plan(), TensorStatistics())


def test_parameters_of_a_float_tensor_are_refused_with_its_reason():
    tensor = activation_plan(reason="because")
    with pytest.raises(ValueError, match=r"relu\.output stays in float: because"):
        activation_params(tensor, statistics_of(np.ones(3)))
    with pytest.raises(ValueError, match=r"relu\.output stays in float: because"):
        weight_params(tensor, np.ones(3, np.float32))


@pytest.mark.parametrize("method", [POT, SYMMETRIC])
def test_activations_are_unsigned_exactly_when_no_negative_value_was_seen(method):
    positive, mixed = np.linspace(0, 4, 50), np.linspace(-1e-6, 4, 50)
    assert activation_params(activation_plan(method), statistics_of(positive)).quant_min == 0
    assert activation_params(activation_plan(method), statistics_of(positive, mixed)).quant_min == -128


@pytest.mark.parametrize("method", GRID_METHODS)
@pytest.mark.parametrize("num_bits", [4, 8])
def test_mse_of_activations_is_never_worse_than_min_max_on_the_values_themselves(method, num_bits):
    values = np.random.default_rng(1).standard_t(3, 2000)
    statistics = statistics_of(values[:500], values[500:])
    least, full = (
        errors(values, activation_params(activation_plan(method, kind, num_bits), statistics))
        for kind in (RangeSearch.MSE, RangeSearch.MIN_MAX)
    )
    # A bin is 1/4096 of the observed width, so that centres differ from values by that much: 2 % of the error
    # of 4-bit steps at most, more of the far smaller error of 8-bit steps.
    assert least <= full * (1.02 if num_bits == 4 else 1.1)


@pytest.mark.parametrize("value", [0.0, 2.5, -0.75, 1e-44])
@pytest.mark.parametrize("method", GRID_METHODS)
def test_a_constant_activation_is_represented_and_zero_exact(method, value):
    params = activation_params(activation_plan(method), statistics_of(np.full(10, value)))
    scale, zero_point = float(params.scale[0]), int(params.zero_point[0])
    assert nearest(0.0, scale, zero_point, params.quant_min, params.quant_max) == 0.0
    point = nearest(value, scale, zero_point, params.quant_min, params.quant_max)
    # The only bin's centre is within 2**-20 of the value; its best grid holds it within half a step.
    assert abs(point - value) <= scale / 2 * (1 + 1e-3)


def test_methods_of_the_library_are_those_with_a_grid():
    assert set(GRID_METHODS) == {
        QuantizationMethod.POWER_OF_TWO,
        QuantizationMethod.SYMMETRIC,
        QuantizationMethod.UNIFORM,
    }

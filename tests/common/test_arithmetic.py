# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_oracle import grids, scalar_codes, scalar_values, spanning

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold

HALF_ULP = 2.0**-24
TINY = np.finfo(np.float32).tiny
SPECIAL = np.array([0.0, -0.0, 1e-45, -1e-45, TINY, -TINY, 3.4e38, -3.4e38, np.inf, -np.inf], np.float32)


def fake_quantize(x, params):
    return arithmetic.fake_quantize(x, params, numpy_ops)


def every_code(params: QuantParams) -> np.ndarray:
    """int32, shape (channels, number of codes)."""
    codes = np.arange(params.quant_min, params.quant_max + 1, dtype=np.int32)
    return np.tile(codes, (params.scale.size, 1))


@given(grids(), st.integers(0, 2**32 - 1))
def test_formula_equals_the_scalar_loop(params, seed):
    generator = np.random.default_rng(seed)
    channels = params.scale.size
    normal = generator.normal(0, 0.7, (channels, 40)) * (params.max_range - params.min_range)[:, np.newaxis]
    # Half-way points, as exact as float32 has them.
    codes = generator.integers(params.quant_min - 1, params.quant_max + 2, (channels, 20))
    ties = (codes - params.zero_point[:, np.newaxis] + 0.5) * params.scale[:, np.newaxis]
    x = np.concatenate([normal, ties, np.tile(SPECIAL, (channels, 1))], axis=1).astype(np.float32)
    expected = scalar_codes(x, params)
    np.testing.assert_array_equal(arithmetic.quantize(x, params, numpy_ops), expected)
    np.testing.assert_array_equal(fake_quantize(x, params), scalar_values(expected, params))


@settings(max_examples=30)
@given(grids())
def test_every_code_survives_dequantize_and_quantize(params):
    codes = every_code(params)
    like = np.zeros(1, np.float32)
    values = arithmetic.dequantize(codes, params, numpy_ops, like=like)
    assert values.dtype == np.float32
    back = arithmetic.quantize(values, params, numpy_ops)
    assert back.dtype == np.int32
    np.testing.assert_array_equal(back, codes)
    # So each code is its own level, and fake quantization leaves it where it is.
    np.testing.assert_array_equal(fake_quantize(values, params), values)


@settings(max_examples=30)
@given(grids())
def test_levels_are_at_most_two_to_the_bits(params):
    outputs = fake_quantize(spanning(params, 3 * 2**params.num_bits, reach=0.25), params)
    for channel in outputs:
        assert 2 <= len(np.unique(channel)) <= 2**params.num_bits


@given(grids())
def test_fake_quantize_twice_is_fake_quantize_once(params):
    once = fake_quantize(spanning(params, 999, reach=0.3), params)
    np.testing.assert_array_equal(fake_quantize(once, params), once)


@given(grids())
def test_fake_quantize_is_monotonic(params):
    outputs = fake_quantize(spanning(params, 999, reach=0.3), params)
    assert (np.diff(outputs, axis=1) >= 0).all()


@given(grids())
def test_fake_quantize_keeps_zero_exact(params):
    zeros = np.zeros((params.scale.size, 2), np.float32)
    zeros[:, 1] = -0.0
    assert (fake_quantize(zeros, params) == 0.0).all()
    codes = arithmetic.quantize(zeros, params, numpy_ops)
    np.testing.assert_array_equal(codes, np.tile(params.zero_point[:, np.newaxis], (1, 2)))


@given(grids())
def test_error_is_at_most_half_a_step_inside_the_range(params):
    x = spanning(params, 999)
    outputs = fake_quantize(x, params).astype(np.float64)
    # Half a step, the rounding of the float32 quotient (half a unit of x) and that of the product (of the output).
    bound = params.scale[:, np.newaxis] / 2 + HALF_ULP * (np.abs(x) + np.abs(outputs))
    # spanning() rounds to float32 and so leaves the range by half a unit.
    bound += HALF_ULP * np.abs(x)
    assert (np.abs(outputs - x) <= bound).all()


@given(grids())
def test_values_beyond_the_range_saturate_at_its_ends(params):
    channels = params.scale.size
    x = np.tile(np.array([-np.inf, -3e38, 3e38, np.inf], np.float32), (channels, 1))
    low, high = params.min_range.astype(np.float32), params.max_range.astype(np.float32)
    np.testing.assert_array_equal(fake_quantize(x, params), np.stack([low, low, high, high], axis=1))


@pytest.mark.parametrize("zero_point", [0, 1, 2, 3, 7])
def test_ties_go_to_even_before_the_zero_point_is_added(zero_point):
    # Scale 1/4: every half-way point is exact. Adding an odd zero point first would send each tie the other way.
    params = QuantParams(np.array([0.25]), np.array([zero_point]), 4, 0, 15)
    quotients = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5])
    nearest_even = np.array([-2, -2, 0, 0, 2, 2, 4, 4])
    codes = arithmetic.quantize((quotients * 0.25).astype(np.float32), params, numpy_ops)
    np.testing.assert_array_equal(codes, np.clip(nearest_even + zero_point, 0, 15))


def test_numbers_beside_a_tie_go_to_their_own_side():
    params = from_threshold(8.0, 4)
    tie = np.float32(2.5)
    below, above = np.nextafter(tie, np.float32(0)), np.nextafter(tie, np.float32(9))
    x = np.array([below, tie, above], np.float32)
    assert arithmetic.quantize(x, params, numpy_ops).tolist() == [2, 2, 3]


def test_division_is_not_multiplication_by_the_inverse():
    # A point where x * (1 / s) rounds to 0.5 or beyond and x / s does not, found by search; the two codes differ.
    found = 0
    for scale in np.linspace(0.011, 0.97, 500).astype(np.float32):
        params = QuantParams(np.array([scale], np.float64), np.array([0]), 8, -128, 127)
        k = np.arange(-120, 120, dtype=np.float32) + np.float32(0.5)
        near = k * scale
        x = np.concatenate(
            [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf) * np.sign(k))]
        )
        wrong = np.round(x * (np.float32(1) / scale)).astype(np.int32)
        codes = arithmetic.quantize(x, params, numpy_ops)
        differs = codes != wrong
        found += int(differs.sum())
        np.testing.assert_array_equal(codes[differs], scalar_codes(x[differs], params))
    assert found > 0


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_per_channel_equals_a_loop_over_slices(axis):
    x = np.random.default_rng(0).normal(0, 1, (3, 4, 5)).astype(np.float32)
    size = x.shape[axis]
    low, high = -np.linspace(0.2, 1.5, size), np.linspace(1.0, 0.4, size)
    together = fake_quantize(x, from_range(low, high, 3, axis=axis))
    for channel in range(size):
        alone = fake_quantize(np.take(x, channel, axis), from_range(low[channel], high[channel], 3))
        np.testing.assert_array_equal(np.take(together, channel, axis), alone)


@pytest.mark.parametrize("params", [from_threshold(1.0, 4), from_range(-1.0, 2.0, 4)], ids=["symmetric", "uniform"])
def test_nan_stays_nan_and_has_no_code(params):
    x = np.array([0.5, np.nan, -0.5], np.float32)
    outputs = fake_quantize(x, params)
    assert np.isnan(outputs).tolist() == [False, True, False]
    np.testing.assert_array_equal(outputs[[0, 2]], fake_quantize(x[[0, 2]], params))
    with pytest.raises(ValueError, match="NaN"):
        arithmetic.quantize(x, params, numpy_ops)


@pytest.mark.parametrize("params", [from_threshold(1.3, 5), from_range(-1.1, 2.3, 5)], ids=["symmetric", "uniform"])
def test_half_precision_is_computed_in_float32(params):
    x = np.random.default_rng(1).normal(0, 1, 10_000).astype(np.float16)
    outputs = fake_quantize(x, params)
    assert outputs.dtype == np.float16
    single = fake_quantize(x.astype(np.float32), params)
    np.testing.assert_array_equal(outputs, single.astype(np.float16))
    np.testing.assert_array_equal(arithmetic.quantize(x, params, numpy_ops), scalar_codes(x, params))


def test_half_precision_saturates_to_infinity_beyond_its_own_range():
    # 2**20 is no float16: as in the frameworks, the cast gives infinity, without a warning.
    outputs = fake_quantize(np.array([np.inf, -np.inf, 1.0], np.float16), from_threshold(2.0**20, 8))
    assert outputs.tolist() == [np.inf, -np.inf, 0.0]


def test_double_precision_stays_double():
    params = from_range(-1.1, 2.3, 8)
    x = np.random.default_rng(2).normal(0, 1, 10_000)
    outputs = fake_quantize(x, params)
    assert outputs.dtype == np.float64
    quotients = np.array([round(value) for value in (x / params.scale[0]).tolist()])
    codes = np.clip(quotients + params.zero_point[0], 0, 255)
    np.testing.assert_array_equal(outputs, (codes - params.zero_point[0]) * params.scale[0])


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3, 1, 1)])
def test_shape_is_kept(shape):
    params = from_range(-1.0, 2.0, 4)
    x = np.zeros(shape, np.float32)
    assert fake_quantize(x, params).shape == shape
    assert arithmetic.quantize(x, params, numpy_ops).shape == shape
    assert arithmetic.dequantize(np.zeros(shape, np.int32), params, numpy_ops, like=x).shape == shape


def test_input_is_not_changed():
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    before = x.copy()
    fake_quantize(x, from_range(-1.0, 1.0, 2))
    arithmetic.quantize(x, from_range(-1.0, 1.0, 2), numpy_ops)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-45, float(TINY)])
@pytest.mark.parametrize("params", [from_threshold(1.0, 8), from_range(-0.3, 1.7, 8)], ids=["symmetric", "uniform"])
def test_dead_and_subnormal_input_becomes_zero(value, params):
    assert (fake_quantize(np.full(8, value, np.float32), params) == 0.0).all()


def test_constant_input_stays_constant():
    outputs = fake_quantize(np.full(8, 0.7, np.float32), from_threshold(1.0, 8))
    # round(0.7 * 128) = 90
    assert (outputs == np.float32(90 / 128)).all()


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64])
def test_input_that_is_not_floating_point_is_refused(dtype):
    x, params = np.zeros(3, dtype), from_threshold(1.0, 8)
    for function in (arithmetic.quantize, arithmetic.fake_quantize):
        with pytest.raises(TypeError, match=f"floating-point.*{np.dtype(dtype)}"):
            function(x, params, numpy_ops)


@pytest.mark.parametrize(("shape", "axis"), [((3, 2), 0), ((2, 3), 1), ((2,), 1), ((2, 2), -3), ((), 0)])
def test_channels_that_do_not_match_are_refused(shape, axis):
    params = from_threshold([1.0, 2.0], 8, axis=axis)
    for function in (arithmetic.quantize, arithmetic.fake_quantize):
        with pytest.raises(ValueError, match=r"Received"):
            function(np.zeros(shape, np.float32), params, numpy_ops)


@pytest.mark.parametrize(
    ("rank", "axis", "expected"),
    [(4, None, (1,)), (4, 0, (-1, 1, 1, 1)), (4, 2, (1, 1, -1, 1)), (4, -1, (1, 1, 1, -1)), (1, 0, (-1,))],
)
def test_broadcast_shape_lines_parameters_up(rank, axis, expected):
    assert arithmetic.broadcast_shape(rank, axis) == expected


@pytest.mark.parametrize("zero_point", [None, 3])
def test_fake_quantize_learned_has_the_values_of_fake_quantize(zero_point):
    params = QuantParams(np.array([0.21]), np.array([zero_point or 0]), 4, 0, 15)
    x = np.concatenate([np.linspace(-5, 5, 1001, dtype=np.float32), SPECIAL, [np.float32(np.nan)]])
    scale = params.scale.astype(np.float32)
    point = None if zero_point is None else np.array([zero_point], np.float32)
    # `inside` minus itself in the straight-through part: a value, no infinity, wherever x is finite or saturates.
    with np.errstate(invalid="ignore"):
        learned = arithmetic.fake_quantize_learned(x, scale, point, 0, 15, 0.5, numpy_ops)
    np.testing.assert_array_equal(learned, fake_quantize(x, params))
    np.testing.assert_array_equal(
        numpy_ops.fake_quantize_learned(x, scale, point, 0, 15, 0.5), fake_quantize(x, params)
    )


@given(st.floats(2.0**-100, 2.0**100))
def test_power_of_two_is_the_nearest_in_the_logarithm(x):
    result = float(arithmetic.power_of_two(np.array([x]), numpy_ops)[0])
    assert np.frexp(result)[0] == 0.5
    # |log2(result / x)| <= 1/2; the ratio is exact, the square root is rounded.
    assert 0.5**0.5 * (1 - 2**-52) <= result / x <= 2**0.5 * (1 + 2**-52)


@pytest.mark.parametrize("exponent", range(-126, 128, 23))
def test_power_of_two_keeps_powers_of_two(exponent):
    x = np.array([2.0**exponent], np.float32)
    assert arithmetic.power_of_two(x, numpy_ops) == x


def test_straight_through_rounding_and_scaled_gradient_keep_values():
    x = np.array([-1.5, -0.5, 0.5, 1.5, 2.5, 0.3], np.float32)
    np.testing.assert_array_equal(arithmetic.round_ste(x, numpy_ops), [-2, 0, 0, 2, 2, 0])
    # x - x/4 and x/4 are exact for these.
    np.testing.assert_array_equal(arithmetic.scale_gradient(x[:-1], 0.25, numpy_ops), x[:-1])

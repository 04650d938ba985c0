# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scalar_oracle import THRESHOLDS, grids, ranges

from mct_quantizers.common import numpy_ops
from mct_quantizers.common.arithmetic import fake_quantize
from mct_quantizers.common.quant_params import (
    Granularity,
    QuantParams,
    adjust_range_to_include_zero,
    from_range,
    from_threshold,
    integer_range,
)

# A float32 scale differs from the float64 one by half a unit in the last of 24 bits.
SINGLE = 2.0**-24


@pytest.mark.parametrize("num_bits", range(1, 17))
@pytest.mark.parametrize(("signed", "low", "high"), [(True, -1, 1), (False, 0, 2)])
def test_integer_range_holds_every_integer_of_its_bits(num_bits, signed, low, high):
    half = 2 ** (num_bits - 1)
    assert integer_range(num_bits, signed) == (low * half, high * half - 1)


@pytest.mark.parametrize(
    ("threshold", "num_bits", "signed", "scale"),
    [(4.0, 8, True, 1 / 32), (4.0, 8, False, 1 / 64), (1.0, 1, True, 1.0), (1.0, 1, False, 0.5), (3, 2, True, 1.5)],
)
def test_scale_of_a_threshold_is_threshold_over_the_number_of_steps(threshold, num_bits, signed, scale):
    params = from_threshold(threshold, num_bits, signed)
    # Exact: every number here has few bits.
    assert params.scale.tolist() == [scale]
    assert params.zero_point.tolist() == [0]
    assert (params.quant_min, params.quant_max) == integer_range(num_bits, signed)
    assert params.signed is signed


@given(THRESHOLDS, st.integers(1, 16), st.booleans())
def test_threshold_comes_back_within_float32(threshold, num_bits, signed):
    params = from_threshold(threshold, num_bits, signed)
    assert abs(params.threshold[0] - threshold) <= SINGLE * threshold
    assert params.max_range[0] == (params.quant_max) * params.scale[0]


@given(ranges(), st.integers(1, 16))
def test_range_repair_keeps_the_width_and_puts_zero_on_the_grid(ends, num_bits):
    params = from_range(*ends, num_bits)
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    scale, steps = params.scale[0], 2**num_bits - 1
    # Rounding of the float32 scale, and of the float64 repair (a few of 53 bits, covered by the factor).
    assert abs(scale * steps - (high - low)) <= 1.01 * SINGLE * (high - low)
    assert params.min_range[0] <= 0.0 <= params.max_range[0]
    # The ends move by at most half a step.
    slack = (0.5 + 1.01 * SINGLE * steps) * scale
    assert abs(params.min_range[0] - low) <= slack
    assert abs(params.max_range[0] - high) <= slack
    assert (params.quant_min, params.quant_max) == (0, steps)
    assert not params.signed


@pytest.mark.parametrize(
    ("ends", "num_bits", "expected"),
    [
        # Both ends are ties of the repair at the odd number of steps, and go to the even side.
        ((-4.0, 4.0), 7, (-4.03149606, 3.96850394)),
        ((-3.0, 3.0), 5, (-3.09677419, 2.90322581)),
        ((-2.0, 2.0), 3, (-16 / 7, 12 / 7)),
        ((1.0, 3.0), 8, (0.0, 3.0)),
        ((-3.0, -1.0), 8, (-3.0, 0.0)),
        ((0.0, 3.0), 4, (0.0, 3.0)),
        ((-3.0, 0.0), 4, (-3.0, 0.0)),
        ((-1.0, 1.0), 1, (0.0, 2.0)),
    ],
)
def test_range_repair_gives_the_expected_ends(ends, num_bits, expected):
    repaired = adjust_range_to_include_zero(np.array([ends[0]]), np.array([ends[1]]), num_bits)
    # The table has nine digits.
    np.testing.assert_allclose([repaired[0][0], repaired[1][0]], expected, rtol=0, atol=5e-9)
    params = from_range(*ends, num_bits)
    # float32 scale.
    np.testing.assert_allclose([params.min_range[0], params.max_range[0]], expected, rtol=1e-7, atol=0)


@given(ranges(), st.integers(1, 16))
def test_range_repair_of_a_repaired_range_changes_nothing(ends, num_bits):
    params = from_range(*ends, num_bits)
    assert from_range(params.min_range, params.max_range, num_bits) == params


def test_range_repair_treats_each_channel_alone():
    low, high = [-4.0, 1.0, -3.0, -1.0], [4.0, 3.0, -1.0, 0.1]
    together = from_range(low, high, 7, axis=0)
    for channel, ends in enumerate(zip(low, high, strict=True)):
        alone = from_range(*ends, 7)
        assert together.scale[channel] == alone.scale[0]
        assert together.zero_point[channel] == alone.zero_point[0]


@given(grids())
def test_every_scale_is_a_float32_number(params):
    assert (params.scale.astype(np.float32).astype(np.float64) == params.scale).all()
    assert params.scale.dtype == np.float64
    assert params.zero_point.dtype == np.int32
    assert params.scale.shape == params.zero_point.shape
    assert params.scale.ndim == 1


@given(grids())
def test_dictionary_round_trip_restores_an_equal_value(params):
    restored = QuantParams.from_dict(json.loads(json.dumps(params.to_dict())))
    assert restored == params
    assert hash(restored) == hash(params)
    assert restored.scale.tobytes() == params.scale.tobytes()


@given(grids())
def test_replaced_scale_keeps_the_integers(params):
    doubled = params.replace_scale(params.scale * 2)
    assert (doubled.scale == params.scale * 2).all()
    assert doubled != params
    assert {**doubled.to_dict(), "scale": None} == {**params.to_dict(), "scale": None}
    assert doubled.replace_scale(params.scale) == params


def test_params_cannot_be_changed_and_are_a_copy():
    scale = np.array([1.0, 2.0])
    params = QuantParams(scale, np.array([0, 3]), 4, 0, 15, axis=1)
    scale[0] = 7.0
    assert params.scale.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        params.scale[0] = 7.0
    with pytest.raises(ValueError, match="read-only"):
        params.zero_point[0] = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.num_bits = 3


def test_equality_sees_every_field():
    base = {"scale": [1.0], "zero_point": [1], "num_bits": 4, "quant_min": 0, "quant_max": 15, "axis": None}
    changes = [
        {"scale": [2.0]},
        {"zero_point": [2]},
        {"num_bits": 5},
        {"quant_min": 1},
        {"quant_max": 14},
        {"axis": 0},
    ]
    for change in changes:
        assert QuantParams(**{**base, **change}) != QuantParams(**base)
    assert QuantParams(**base) != "something else"


def test_granularity_follows_the_axis():
    assert from_threshold(1.0, 8).granularity is Granularity.PER_TENSOR
    assert from_threshold([1.0], 8, axis=-1).granularity is Granularity.PER_CHANNEL
    assert [member.value for member in Granularity] == ["per_tensor", "per_channel"]


@pytest.mark.parametrize(
    "threshold",
    [[3.0], (3.0,), np.array(3.0), np.array([[3.0]], np.float16), np.float32(3), np.int64(3), 3],
    ids=lambda value: f"{type(value).__name__}",
)
def test_numbers_lists_and_arrays_mean_the_same(threshold):
    assert from_threshold(threshold, np.int64(4), np.bool_(True)) == from_threshold(3.0, 4, True)


FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)


@pytest.mark.parametrize("threshold", [FLOAT32_TINY / 2, 1e-45, 1e-310, 5e-324])
def test_scale_below_float32_is_refused(threshold):
    with pytest.raises(ValueError, match=r"`scale` must be"):
        from_threshold(threshold, 8)


@pytest.mark.parametrize("threshold", [1e42, 1e300])
def test_scale_above_float32_is_refused(threshold):
    with pytest.raises(ValueError, match=r"`scale` must be"):
        from_threshold(threshold, 8)


def test_scales_at_the_ends_of_float32_are_kept():
    assert from_threshold(FLOAT32_TINY * 2**7, 8).scale[0] == FLOAT32_TINY
    # 1 bit, signed: the codes are -1 and 0, so even the largest number is on the grid.
    assert from_threshold(FLOAT32_MAX, 1).scale[0] == FLOAT32_MAX


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1e-40, 1e-40), (0.0, 5e-324), (-5e-324, 0.0), (-1e42, 1e42), (-1.7e308, 1.7e308), (0.0, 1.7e308)],
)
def test_ranges_outside_float32_are_refused_without_a_warning(low, high):
    with pytest.raises(ValueError, match=r"`(scale|min_range|max_range)` must"):
        from_range(low, high, 8)


@pytest.mark.parametrize("make", [lambda: from_threshold(3.5e38, 8), lambda: from_range(0.0, 1e39, 8)])
def test_grid_whose_ends_leave_float32_is_refused(make):
    # The scale is a float32 number but the ends are not: saturation would give infinity.
    with pytest.raises(ValueError, match="float32"):
        make()


GOOD = {"scale": np.array([1.0]), "zero_point": np.array([0]), "num_bits": 4, "quant_min": -8, "quant_max": 7}


@pytest.mark.parametrize(
    ("change", "error", "name", "received"),
    [
        ({"scale": [0.0]}, ValueError, "scale", "0.0"),
        ({"scale": [-1.0]}, ValueError, "scale", "-1.0"),
        ({"scale": [float("nan")]}, ValueError, "scale", "nan"),
        ({"scale": [float("inf")]}, ValueError, "scale", "inf"),
        ({"scale": []}, ValueError, "scale", r"\[\]"),
        ({"scale": "1"}, TypeError, "scale", "'1'"),
        ({"scale": None}, TypeError, "scale", "None"),
        ({"scale": [1.0, 2.0], "zero_point": [0, 0]}, ValueError, "scale", r"\[1.0, 2.0\]"),
        ({"zero_point": [0, 0]}, ValueError, "zero_point", "2 zero points"),
        ({"zero_point": [8]}, ValueError, "zero_point", "8"),
        ({"zero_point": [-9]}, ValueError, "zero_point", "-9"),
        ({"zero_point": [1.5]}, (TypeError, ValueError), "zero_point", "1.5"),
        ({"zero_point": [2**40]}, ValueError, "zero_point", str(2**40)),
        ({"num_bits": 0}, ValueError, "num_bits", "0"),
        ({"num_bits": 17}, ValueError, "num_bits", "17"),
        ({"num_bits": 8.0}, TypeError, "num_bits", "8.0"),
        ({"quant_max": 8}, ValueError, "quant_max", "8"),
        ({"quant_min": 7}, ValueError, "quant_min", "7"),
        ({"axis": "channels", "scale": [1.0]}, TypeError, "axis", "channels"),
    ],
)
def test_wrong_params_are_refused_by_name_and_value(change, error, name, received):
    with pytest.raises(error, match=f"(?s)`{name}`.*{received}"):
        QuantParams(**{**GOOD, **change})


@pytest.mark.parametrize("values", [{}, {"scale": [1.0]}, {**GOOD, "step": 1}])
def test_dictionary_with_wrong_keys_is_refused(values):
    with pytest.raises(ValueError, match="Expected the keys"):
        QuantParams.from_dict(values)


def test_one_bit_with_sign_has_the_levels_minus_threshold_and_zero():
    params = from_threshold([0.5, 2.0], 1, axis=0)
    x = np.array([[-9.0, -0.26, -0.24, 0.0, 9.0], [-9.0, -1.1, -0.9, 0.0, 9.0]])
    expected = [[-0.5, -0.5, 0.0, 0.0, 0.0], [-2.0, -2.0, 0.0, 0.0, 0.0]]
    np.testing.assert_array_equal(fake_quantize(x, params, numpy_ops), expected)
    # Without a sign zero and half of the threshold, on a range of one side its end.
    np.testing.assert_array_equal(fake_quantize(x[:1], from_threshold(1.0, 1, False), numpy_ops)[0, -2:], [0.0, 0.5])
    np.testing.assert_array_equal(fake_quantize(x[:1], from_range(0.0, 3.0, 1), numpy_ops)[0, -2:], [0.0, 3.0])

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.constants import EPS, LUT_VALUES_BITWIDTH
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import integer_range

TINY = np.finfo(np.float32).tiny
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, TINY, -TINY, TINY / 2, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]


def nearest(x: np.ndarray, lut: list, threshold: np.ndarray, bitwidth: int, signed: bool, eps: float) -> np.ndarray:
    """Distance to every level in float32, the first of equally near ones; `threshold` broadcasts against `x`."""
    scale = np.float32(2.0 ** (bitwidth - signed))
    low, high = (-(2 ** (bitwidth - 1)), 2 ** (bitwidth - 1) - 1) if signed else (0, 2**bitwidth - 1)
    threshold = threshold.astype(np.float32)
    with np.errstate(over="ignore"):
        u = np.clip(x / (threshold + np.float32(eps)) * scale, np.float32(low), np.float32(high))
    assert u.dtype == np.float32
    best, chosen = np.full(u.shape, np.inf, np.float32), np.full(u.shape, np.nan, np.float32)
    for level in np.asarray(lut, np.float32):
        distance = np.abs(u - level)
        nearer = distance < best
        best[nearer], chosen[nearer] = distance[nearer], level
    return (chosen / scale * threshold).astype(np.float32)


def corners(table: LookupTable, random: int) -> np.ndarray:
    """float32, shape (channels, n): random numbers, every level and midpoint with its neighbours, special numbers."""
    generator = np.random.default_rng(table.num_bits)
    levels = np.unique(table.lut_values)
    exact = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2, [levels[0] - 0.5, levels[-1] + 0.5]])
    rows = []
    for threshold in table.threshold.astype(np.float32):
        points = (exact / table.level_scale).astype(np.float32) * (threshold + np.float32(table.eps))
        near = [points]
        # A division that rounds may move a tie by a few numbers.
        for _ in range(3):
            near = [
                np.nextafter(near[0], np.float32(-np.inf)),
                *near,
                np.nextafter(near[-1], np.float32(np.inf)),
            ]
        spread = generator.normal(0, threshold * 0.6, random)
        rows.append(np.concatenate([spread, *near, SPECIAL]).astype(np.float32))
    return np.stack(rows)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    same = (actual.view(np.int32) == expected.view(np.int32)) | (np.isnan(actual) & np.isnan(expected))
    assert same.all(), (actual[~same][:5], expected[~same][:5], int((~same).sum()))


def levels_of(num_bits: int, bitwidth: int, signed: bool, repeat: bool = False) -> list[float]:
    """2**num_bits different levels in random order; `repeat`: each may come again, anywhere."""
    low, high = integer_range(bitwidth, signed)
    generator = np.random.default_rng(1000 * num_bits + bitwidth)
    levels = generator.choice(np.arange(low, high + 1), 2**num_bits, replace=False)
    if repeat:
        levels = generator.permutation(np.concatenate([levels, generator.choice(levels, levels.size)]))
    return [float(level) for level in levels]


def check(table: LookupTable, random: int) -> None:
    x = corners(table, random)
    aligned = dataclasses.replace(table, axis=None if table.threshold.size == 1 else 0)
    threshold = table.threshold[:, None]
    expected = nearest(x, table.lut_values, threshold, table.lut_values_bitwidth, table.signed, table.eps)
    before = x.copy()
    # Another test asks for silence.
    with np.errstate(over="ignore"):
        assert_same_bits(arithmetic.lut_quantize(x, aligned, numpy_ops), expected)
    np.testing.assert_array_equal(x.view(np.int32), before.view(np.int32))
    assert (np.isnan(expected) == np.isnan(x)).all()


# Numbers.


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("num_bits", "bitwidth"),
    [(bits, width) for bits in range(1, 9) for width in (2, 5, 8, 11, 16) if bits <= width],
)
def test_every_number_goes_to_the_nearest_level_bit_for_bit(num_bits, bitwidth, signed):
    levels = levels_of(num_bits, bitwidth, signed, repeat=bitwidth == 8)
    # Powers of two make ties exact, the other thresholds make the division round.
    check(LookupTable(levels, [1.0, 1.3, 0.0078125, 77.7], num_bits, signed, bitwidth, axis=0), random=8_000)


def test_a_million_numbers_go_to_the_nearest_of_256_levels():
    check(LookupTable(levels_of(8, 16, True), [1.3], 8, True, 16), random=1_000_000)


def test_levels_of_twelve_bits_are_found_too():
    check(LookupTable(levels_of(12, 16, True), [0.9], 12, True, 16), random=5_000)


@pytest.mark.parametrize("lut_values", [[0], [5], [-128], [127], [3, 3, 3]])
def test_one_level_takes_every_number(lut_values):
    table = LookupTable(lut_values, 2.0, 1)
    check(table, random=100)
    outputs = arithmetic.lut_quantize(np.array([-np.inf, -1.0, 0.0, 3.0, np.inf], np.float32), table, numpy_ops)
    assert (outputs == lut_values[0] / 128 * 2.0).all()


@pytest.mark.parametrize(
    ("lut_values", "expected"), [([0, 1], 0), ([1, 0], 1), ([1, 0, 1], 1), ([0, 5, 1, 0], 0), ([-9, 1, 5, 0, 0], 1)]
)
def test_of_two_equally_near_levels_the_first_of_the_table_wins(lut_values, expected):
    table = LookupTable(lut_values, 128.0, 4)
    assert arithmetic.lut_quantize(np.array([0.5], np.float32), table, numpy_ops).tolist() == [expected]


@pytest.mark.parametrize("threshold", [0.5, 2.0, 1024.0])
@pytest.mark.parametrize("value", [3.4e38, 1e37, np.inf])
def test_huge_numbers_saturate_without_a_warning(value, threshold):
    table = LookupTable([0, -128, 127], threshold, 2)
    outputs = arithmetic.lut_quantize(np.array([value, -value], np.float32), table, numpy_ops)
    assert outputs.tolist() == [127 / 128 * threshold, -threshold]


@st.composite
def tables(draw):
    bitwidth = draw(st.integers(1, 16))
    num_bits = draw(st.integers(1, bitwidth))
    signed = draw(st.booleans())
    levels = st.integers(*integer_range(bitwidth, signed))
    different = draw(st.lists(levels, min_size=1, max_size=min(2**num_bits, 40), unique=True))
    again = draw(st.lists(st.sampled_from(different), max_size=5))
    order = draw(st.permutations(different + again))
    thresholds = st.floats(2.0**-10, 2.0**10, width=32)
    threshold = draw(st.lists(thresholds, min_size=1, max_size=3))
    eps = draw(st.sampled_from([0.0, EPS, 1e-3]))
    return LookupTable(order, threshold, num_bits, signed, bitwidth, eps, 0)


@given(tables())
def test_random_tables_assign_the_nearest_level(table):
    check(table, random=300)


@given(tables())
def test_boundaries_rise_and_stand_beside_the_midpoints(table):
    levels, boundaries = table.assignment()
    size = table.lut_values.size
    assert levels.dtype == boundaries.dtype == np.float32
    assert levels.shape == (size + 1,)
    assert boundaries.shape == (size,)
    assert np.isnan(levels[-1])
    assert boundaries[-1] == np.inf
    assert (np.diff(levels[:-1]) >= 0).all()
    assert (np.diff(boundaries[:-1]) >= 0).all()
    integers = levels[:-1].astype(np.float64) * table.level_scale
    np.testing.assert_array_equal(integers, np.sort(table.lut_values))
    between = np.diff(integers) > 0
    middle = (integers[1:] + integers[:-1])[between] / 2
    # Distances of 16 bits are rounded to 24: the search sees a tie up to a 2**-8 around a midpoint.
    assert (np.abs(boundaries[:-1][between] - middle) <= 2.0**-8).all()


@pytest.mark.parametrize("axis", range(-3, 3))
def test_per_channel_equals_a_loop_over_slices(axis):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    thresholds = [0.7, 2.0, 0.31, 1.9][: x.shape[axis]]
    levels = [3, -7, 0, 6]
    outputs = arithmetic.lut_quantize(x, LookupTable(levels, thresholds, 2, True, 4, axis=axis), numpy_ops)
    for channel, threshold in enumerate(thresholds):
        alone = arithmetic.lut_quantize(x.take(channel, axis), LookupTable(levels, threshold, 2, True, 4), numpy_ops)
        assert_same_bits(outputs.take(channel, axis), alone)


def test_half_precision_is_computed_in_float32():
    table = LookupTable(levels_of(4, 8, True), 1.3, 4)
    x = np.random.default_rng(0).normal(size=500).astype(np.float16)
    outputs = arithmetic.lut_quantize(x, table, numpy_ops)
    assert outputs.dtype == np.float16
    expected = arithmetic.lut_quantize(x.astype(np.float32), table, numpy_ops).astype(np.float16)
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shape_and_type_are_kept(shape, dtype):
    outputs = arithmetic.lut_quantize(np.full(shape, 0.3, dtype), LookupTable([0, 5], 1.0, 1), numpy_ops)
    assert np.shape(outputs) == shape
    assert outputs.dtype == dtype


def test_integer_input_is_refused():
    with pytest.raises(TypeError, match=r"floating-point.*int32"):
        arithmetic.lut_quantize(np.zeros(3, np.int32), LookupTable([0, 5], 1.0, 1), numpy_ops)


@pytest.mark.parametrize(("shape", "axis"), [((3, 2), 0), ((), 0), ((2,), 1), ((2, 3), -1), ((2,), -2)])
def test_input_of_other_channels_is_refused(shape, axis):
    table = LookupTable([0, 5], [1.0, 2.0], 1, axis=axis)
    with pytest.raises(ValueError, match="Received"):
        arithmetic.lut_quantize(np.zeros(shape, np.float32), table, numpy_ops)


def test_numpy_formula_needs_no_axis_of_the_table():
    table = LookupTable(levels_of(8, 16, True), 1.0, 8, True, 16)
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    tracemalloc.start()
    try:
        arithmetic.lut_quantize(x, table, numpy_ops)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Indices of NumPy have eight bytes. An axis of the table would take 256.
    assert peak <= 6 * x.nbytes


# The value.


def test_defaults_are_those_of_the_interface():
    table = LookupTable([1, 2], 4.0, 1)
    assert (table.signed, table.lut_values_bitwidth, table.eps, table.axis) == (True, 8, 1e-8, None)
    assert (LUT_VALUES_BITWIDTH, EPS) == (8, 1e-8)
    assert table.lut_values.dtype == table.threshold.dtype == np.float64
    assert (table.lut_values.shape, table.threshold.shape) == ((2,), (1,))


@pytest.mark.parametrize(("bitwidth", "signed", "scale"), [(8, True, 128.0), (8, False, 256.0), (1, True, 1.0)])
def test_level_scale_is_the_number_of_steps_in_a_threshold(bitwidth, signed, scale):
    assert LookupTable([0], 1.0, 1, signed, bitwidth).level_scale == scale


@given(tables())
def test_dictionary_round_trip_restores_an_equal_value(table):
    restored = LookupTable(**json.loads(json.dumps(table.to_dict())))
    assert restored == table
    assert hash(restored) == hash(table)
    assert restored.lut_values.tobytes() == table.lut_values.tobytes()


def test_dictionary_is_json_whatever_the_arguments_were():
    table = LookupTable(
        np.array([1, 2], np.int8), np.float32(2), np.int64(1), np.bool_(True), np.int32(8), np.float32(0), np.int64(0)
    )
    assert LookupTable(**json.loads(json.dumps(table.to_dict()))) == table


@pytest.mark.parametrize("convert", [list, tuple, np.array, lambda values: np.array(values, np.int8).reshape(2, 2)])
def test_levels_may_come_in_any_form(convert):
    assert LookupTable(convert([3, -1, 0, 7]), 1.0, 2) == LookupTable([3.0, -1.0, 0.0, 7.0], [1.0], 2)


def test_table_cannot_be_changed_and_is_a_copy():
    levels, threshold = np.array([1.0, 2.0]), np.array([3.0])
    table = LookupTable(levels, threshold, 1)
    levels[0] = threshold[0] = 7.0
    assert table.lut_values.tolist() == [1.0, 2.0]
    assert table.threshold.tolist() == [3.0]
    for array in (table.lut_values, table.threshold):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.num_bits = 3


GOOD = {"lut_values": [1, -2], "threshold": [1.0], "num_bits": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"lut_values": [1, -3]},
        {"lut_values": [-2, 1]},
        {"lut_values": [1, -2, 1]},
        {"threshold": [2.0]},
        {"num_bits": 4},
        {"signed": False, "lut_values": [1, 2]},
        {"lut_values_bitwidth": 9},
        {"eps": 0.0},
        {"axis": 0},
    ],
)
def test_equality_sees_every_field(change):
    assert LookupTable(**{**GOOD, **change}) != LookupTable(**GOOD)
    assert LookupTable(**GOOD) != "something else"


def test_equal_tables_have_equal_hashes_whatever_the_sign_of_zero():
    plain, negative = LookupTable([0.0, 1.0], 1.0, 1), LookupTable([-0.0, 1.0], 1.0, 1)
    assert plain == negative
    assert hash(plain) == hash(negative)


@pytest.mark.parametrize("lut_values", [[0.0, -0.0], [-0.0, 0.0], [-0.0]])
def test_zero_of_the_table_has_no_sign(lut_values):
    outputs = arithmetic.lut_quantize(
        np.array([-0.1, -0.0, 0.0, 0.1], np.float32), LookupTable(lut_values, 1.0, 1), numpy_ops
    )
    assert not np.signbit(outputs).any()


def test_threshold_is_a_float32_number():
    threshold = LookupTable([1], [1.3, 0.1], 1, axis=0).threshold
    assert (threshold.astype(np.float32).astype(np.float64) == threshold).all()


@pytest.mark.parametrize("threshold", [1e39, 1e300, 1e-46, 5e-324])
def test_threshold_outside_float32_is_refused(threshold):
    with pytest.raises(ValueError, match=r"`threshold`"):
        LookupTable([1], threshold, 1)


# Refusals.

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "error", "name", "received"),
    [
        ({"lut_values": list(range(9))}, ValueError, "lut_values", "9"),
        ({"lut_values": [1, 2, 3], "num_bits": 1}, ValueError, "lut_values", "3"),
        ({"lut_values": [1.5, 2]}, ValueError, "lut_values", r"1\.5"),
        ({"lut_values": [128]}, ValueError, "lut_values", "128"),
        ({"lut_values": [-129]}, ValueError, "lut_values", "-129"),
        ({"lut_values": [8], "lut_values_bitwidth": 4}, ValueError, "lut_values", "8"),
        ({"lut_values": [-1], "signed": False}, ValueError, "lut_values", "-1"),
        ({"lut_values": [256], "signed": False}, ValueError, "lut_values", "256"),
        ({"lut_values": []}, ValueError, "lut_values", r"\[\]"),
        ({"lut_values": None}, TypeError, "lut_values", "None"),
        ({"lut_values": "1"}, TypeError, "lut_values", "'1'"),
        ({"lut_values": [True, False]}, TypeError, "lut_values", "True"),
        ({"lut_values": [[1], [2, 3]]}, TypeError, "lut_values", r"\[2, 3\]"),
        ({"lut_values": [NAN]}, ValueError, "lut_values", "nan"),
        ({"lut_values": [INFINITY]}, ValueError, "lut_values", "inf"),
        ({"threshold": [0.0]}, ValueError, "threshold", r"0\.0"),
        ({"threshold": [-1.0]}, ValueError, "threshold", r"-1\.0"),
        ({"threshold": [NAN]}, ValueError, "threshold", "nan"),
        ({"threshold": [INFINITY]}, ValueError, "threshold", "inf"),
        ({"threshold": [1.0, 0.0], "axis": 0}, ValueError, "threshold", r"1\.0, 0\.0"),
        ({"threshold": [1.0, 2.0]}, ValueError, "threshold", r"1\.0, 2\.0"),
        ({"threshold": []}, ValueError, "threshold", r"\[\]"),
        ({"threshold": None}, TypeError, "threshold", "None"),
        ({"threshold": "1"}, TypeError, "threshold", "'1'"),
        ({"num_bits": 0}, ValueError, "num_bits", "0"),
        ({"num_bits": 17}, ValueError, "num_bits", "17"),
        ({"num_bits": 3.0}, TypeError, "num_bits", r"3\.0"),
        ({"num_bits": True}, TypeError, "num_bits", "True"),
        ({"num_bits": 9}, ValueError, "num_bits", "num_bits=9, lut_values_bitwidth=8"),
        ({"lut_values_bitwidth": 2}, ValueError, "lut_values_bitwidth", "num_bits=3, lut_values_bitwidth=2"),
        ({"lut_values_bitwidth": 17}, ValueError, "lut_values_bitwidth", "17"),
        ({"lut_values_bitwidth": 0}, ValueError, "lut_values_bitwidth", "0"),
        ({"lut_values_bitwidth": 8.0}, TypeError, "lut_values_bitwidth", r"8\.0"),
        ({"signed": 2}, TypeError, "signed", "2"),
        ({"signed": None}, TypeError, "signed", "None"),
        ({"eps": -1e-8}, ValueError, "eps", "-1e-08"),
        ({"eps": NAN}, ValueError, "eps", "nan"),
        ({"eps": [0.1, 0.2]}, ValueError, "eps", r"0\.1, 0\.2"),
        ({"eps": None}, TypeError, "eps", "None"),
        ({"eps": "0"}, TypeError, "eps", "'0'"),
        ({"axis": 0.5}, TypeError, "axis", r"0\.5"),
        ({"axis": True}, TypeError, "axis", "True"),
        ({"axis": "channels"}, TypeError, "axis", "channels"),
    ],
)
def test_wrong_table_is_refused_by_name_and_value(change, error, name, received):
    with pytest.raises(error, match=f"(?s)`{name}`.*Received.*{received}"):
        LookupTable(**{**GOOD, **change})


@pytest.mark.parametrize(("signed", "low", "high"), [(True, -128, 127), (False, 0, 255)])
def test_levels_at_the_ends_of_their_width_are_kept(signed, low, high):
    assert LookupTable([low, high], 1.0, 1, signed).lut_values.tolist() == [low, high]


def test_levels_that_come_again_do_not_count():
    assert LookupTable([1, 2, 1, 2, 2], 1.0, 1).lut_values.tolist() == [1, 2, 1, 2, 2]

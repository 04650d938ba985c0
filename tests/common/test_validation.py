# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Every argument error of the public words: its type, the name of the argument and the value that came."""

import re

import numpy as np
import pytest

from mct_quantizers.common import validation
from mct_quantizers.common.quant_params import from_range, from_threshold

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("num_bits", "error", "received"),
    [
        (0, ValueError, "0"),
        (-1, ValueError, "-1"),
        (17, ValueError, "17"),
        (8.0, TypeError, "8.0"),
        (True, TypeError, "True"),
        ("8", TypeError, "'8'"),
        (None, TypeError, "None"),
        ([8], TypeError, "[8]"),
    ],
)
@pytest.mark.parametrize("make", [lambda b: from_threshold(1.0, b), lambda b: from_range(-1.0, 1.0, b)])
def test_wrong_num_bits_is_refused(make, num_bits, error, received):
    with pytest.raises(error, match=re.escape(f"num_bits={received}")):
        make(num_bits)


VECTORS = [
    (None, TypeError, "None"),
    ("1", TypeError, "'1'"),
    (b"1", TypeError, "b'1'"),
    (True, TypeError, "True"),
    ([True], TypeError, "[True]"),
    (["1"], TypeError, "['1']"),
    ([None], TypeError, "[None]"),
    ([[1.0], [1.0, 2.0]], TypeError, "[[1.0], [1.0, 2.0]]"),
    (1j, TypeError, "1j"),
    ({"a": 1.0}, TypeError, "{'a': 1.0}"),
    (object, TypeError, "object"),
    ([], ValueError, "[]"),
    (NAN, ValueError, "nan"),
    ([1.0, NAN], ValueError, "[1.0, nan]"),
    (INF, ValueError, "inf"),
    (-INF, ValueError, "-inf"),
]


@pytest.mark.parametrize(("value", "error", "received"), VECTORS)
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("threshold", lambda value: from_threshold(value, 8, axis=0)),
        ("min_range", lambda value: from_range(value, [1.0], 8, axis=0)),
        ("max_range", lambda value: from_range([-1.0], value, 8, axis=0)),
    ],
    ids=["threshold", "min_range", "max_range"],
)
def test_wrong_numbers_are_refused(name, make, value, error, received):
    with pytest.raises(error, match=f"`{name}`.*{re.escape(received)}"):
        make(value)


@pytest.mark.parametrize("threshold", [0, 0.0, -0.0, -1.0, [1.0, 0.0], [1.0, -2.0]])
def test_threshold_that_is_not_positive_is_refused(threshold):
    with pytest.raises(ValueError, match=r"`threshold` must be positive.*Received: threshold=\[.*(0|-1|-2)\.0"):
        from_threshold(threshold, 8, axis=0)


@pytest.mark.parametrize("threshold", [0.3, 3.0, 1.0000001, 0.5 * (1 + 2.0**-52), [1.0, 2.0, 5.0]])
def test_threshold_that_is_no_power_of_two_is_refused(threshold):
    with pytest.raises(ValueError, match=r"`threshold` must be a power of two.*Received: \["):
        from_threshold(threshold, 8, axis=0, power_of_two=True)


@pytest.mark.parametrize("exponent", [-100, -3, -1, 0, 1, 10, 100])
def test_powers_of_two_are_accepted(exponent):
    params = from_threshold(2.0**exponent, 8, power_of_two=True)
    assert params.scale[0] == 2.0 ** (exponent - 7)


@pytest.mark.parametrize("number", [0, 1, np.int64(0), np.int64(1)])
def test_zero_and_one_stand_for_false_and_true(number):
    assert from_threshold(1.0, 8, number) == from_threshold(1.0, 8, bool(number))


@pytest.mark.parametrize("signed", [2, -1, None, "True", 1.0])
def test_signed_that_is_no_bool_is_refused(signed):
    with pytest.raises(TypeError, match=re.escape(f"`signed` must be True or False. Received: signed={signed!r}")):
        from_threshold(1.0, 8, signed)


@pytest.mark.parametrize(("low", "high"), [(1.0, -1.0), (1.0, 1.0), (0.0, 0.0), ([-1.0, 2.0], [1.0, 2.0])])
def test_range_that_is_not_ordered_is_refused(low, high):
    with pytest.raises(ValueError, match=r"`min_range` must be below `max_range`.*min_range=\[.*max_range=\["):
        from_range(low, high, 8, axis=0)


@pytest.mark.parametrize(
    ("low", "high", "text"), [([-1.0, -2.0], [1.0], "2 minima and 1 maxima"), (-1, [1, 2], "1 minima and 2")]
)
def test_range_of_two_lengths_is_refused(low, high, text):
    with pytest.raises(ValueError, match=f"`min_range` and `max_range`.*{text}"):
        from_range(low, high, 8, axis=0)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("threshold", lambda: from_threshold([1.5, 2.5], 8)),
        ("min_range", lambda: from_range([1.5, 2.5], [3.0, 4.0], 8)),
    ],
)
def test_several_numbers_per_tensor_are_refused(name, make):
    with pytest.raises(ValueError, match=rf"`{name}` must hold one number.*Received: \[1\.5, 2\.5\]"):
        make()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((2, 0), TypeError, "`per_channel` must be True or False. Received: per_channel=2"),
        ((None, 0), TypeError, "per_channel=None"),
        (
            (True, None),
            ValueError,
            "`channel_axis` must be given when `per_channel` is True. Received: channel_axis=None",
        ),
        ((True, 1.0), TypeError, "`channel_axis` must be an integer. Received: channel_axis=1.0"),
        ((True, "1"), TypeError, "channel_axis='1'"),
        ((True, True), TypeError, "channel_axis=True"),
        ((True, 0, "4"), TypeError, "`input_rank` must be an integer. Received: input_rank='4'"),
        ((True, 0, True), TypeError, "input_rank=True"),
        ((True, 4, 4), ValueError, "`input_rank`=4. Received: channel_axis=4"),
        ((True, -5, 4), ValueError, "`input_rank`=4. Received: channel_axis=-5"),
    ],
)
def test_wrong_axis_is_refused(arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        validation.checked_axis(*arguments)


@pytest.mark.parametrize(
    ("arguments", "axis"),
    [
        ((False, None), None),
        ((False, 3), None),
        ((True, 3), 3),
        ((True, np.int64(-4), 4), -4),
        ((np.bool_(True), 0), 0),
    ],
)
def test_axis_counts_only_per_channel(arguments, axis):
    assert validation.checked_axis(*arguments) == axis


@pytest.mark.parametrize(
    ("shape", "axis", "text"),
    [
        ((2, 3), 2, "from -2 to 1 for shape (2, 3). Received: 2"),
        ((2, 3), -3, "Received: -3"),
        ((2, 3), 0, "3 channels along axis 0, one for each parameter. Received: shape (2, 3)"),
        ((), 0, "Received: 0"),
    ],
)
def test_input_with_other_channels_is_refused(shape, axis, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        validation.check_channels(shape, axis, 3)


@pytest.mark.parametrize(("shape", "axis"), [((2, 3), 1), ((2, 3), -1), ((3,), 0), ((7, 9), None)])
def test_input_with_matching_channels_passes(shape, axis):
    assert validation.check_channels(shape, axis, 3) is None

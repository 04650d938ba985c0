# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mct_quantizers.common.packing import pack_integers, packed_size, unpack_integers


def every_code(num_bits: int, signed: bool) -> list[int]:
    low = -(2 ** (num_bits - 1)) if signed else 0
    return list(range(low, low + 2**num_bits))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("num_bits", range(1, 17))
def test_every_code_survives_packing(num_bits, signed):
    codes = every_code(num_bits, signed)
    packed = pack_integers(np.array(codes), num_bits)
    assert packed.dtype == np.uint8
    assert packed.size == packed_size(len(codes), num_bits)
    back = unpack_integers(packed, num_bits, len(codes), signed)
    assert back.dtype == np.int32
    assert back.tolist() == codes


@given(st.integers(1, 16), st.booleans(), st.data())
def test_any_number_of_integers_survives_packing(num_bits, signed, data):
    codes = data.draw(st.lists(st.sampled_from(every_code(num_bits, signed)), max_size=33))
    packed = pack_integers(np.array(codes, np.int32), num_bits)
    # A Python integer as the stream of bits, low bits first.
    stream = sum((code % 2**num_bits) << (position * num_bits) for position, code in enumerate(codes))
    assert packed.tobytes() == stream.to_bytes(packed_size(len(codes), num_bits), "little")
    assert unpack_integers(packed, num_bits, len(codes), signed).tolist() == codes


def test_four_bits_have_the_low_nibble_first():
    # ONNX INT4: element 0 in the low nibble of byte 0; negative numbers in two's complement; the last byte padded.
    assert pack_integers([1, 2, -1, 7, -8], 4).tolist() == [0x21, 0x7F, 0x08]
    assert unpack_integers(np.array([0x21, 0x7F, 0x08], np.uint8), 4, 5, signed=True).tolist() == [1, 2, -1, 7, -8]
    assert unpack_integers(np.array([0xF1], np.uint8), 4, 2, signed=False).tolist() == [1, 15]


def test_two_bits_have_the_low_pair_first():
    assert pack_integers([0, 1, 2, 3], 2).tolist() == [0b11_10_01_00]


def test_three_bits_run_across_bytes():
    assert pack_integers([7, 0, 7], 3).tolist() == [0b11_000_111, 0b1]


def test_eight_and_sixteen_bits_are_plain_little_endian_integers():
    values = np.array([-128, 0, 127])
    assert pack_integers(values, 8).tobytes() == values.astype("<i1").tobytes()
    values = np.array([-32768, 258, 32767])
    assert pack_integers(values, 16).tobytes() == values.astype("<i2").tobytes()


def test_packing_flattens_in_row_order():
    values = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(pack_integers(values, 3), pack_integers(values.reshape(-1), 3))
    np.testing.assert_array_equal(pack_integers(values.T, 3), pack_integers([0, 3, 1, 4, 2, 5], 3))


@pytest.mark.parametrize(
    ("num_elements", "num_bits", "size"), [(0, 4, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (3, 3, 2), (5, 4, 3), (3, 16, 6)]
)
def test_packed_size_is_the_bits_in_whole_bytes(num_elements, num_bits, size):
    assert packed_size(num_elements, num_bits) == size


@pytest.mark.parametrize(
    ("values", "num_bits", "error", "text"),
    [
        ([8, -1], 4, ValueError, "-1 to 8"),
        ([-9], 4, ValueError, "-9"),
        ([16], 4, ValueError, "16"),
        ([1.0], 4, TypeError, "float64"),
        ([True], 4, TypeError, "bool"),
        ([1], 0, ValueError, "num_bits=0"),
        ([1], 17, ValueError, "num_bits=17"),
        ([1], 4.0, TypeError, "num_bits=4.0"),
    ],
)
def test_integers_that_do_not_fit_are_refused(values, num_bits, error, text):
    with pytest.raises(error, match=f"`(values|num_bits)`.*{text}"):
        pack_integers(np.array(values), num_bits)


@pytest.mark.parametrize("packed", [np.zeros(2, np.uint8), np.zeros(4, np.uint8), np.zeros(3, np.int8)])
def test_bytes_of_the_wrong_length_or_type_are_refused(packed):
    with pytest.raises(ValueError, match=f"`packed`.*{packed.size} elements of {packed.dtype}"):
        unpack_integers(packed, 4, 5, signed=True)

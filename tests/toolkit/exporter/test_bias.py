# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from model_compression_toolkit.exporter.common.bias import (
    LARGEST_BIAS,
    fits_accumulator,
    same_scales,
    scales_of_zeros,
    zero_channels,
)


@pytest.mark.parametrize(
    ("bias", "output_scale", "fits"),
    [(LARGEST_BIAS * 1e-6, None, True), (LARGEST_BIAS * 1.01e-6, None, False), (-LARGEST_BIAS * 1.01e-6, None, False),
     (1.0, 1.6e-5, True), (1.0, 1.5e-5, False), (0.0, None, True)],
)  # fmt: skip
def test_a_bias_fits_where_the_steps_are_few_and_fine(bias, output_scale, fits):
    assert fits_accumulator(np.array([0.0, bias]), np.array([1e-6]), output_scale) is fits


def test_nothing_fits_in_steps_that_vanish_in_float32():
    assert not fits_accumulator(np.array([0.0]), np.array([1e-39]))
    assert fits_accumulator(np.array([0.0]), np.array([1e-37]))


def test_scales_of_zeros_rise_by_powers_of_two_as_far_as_their_bias_needs():
    scale = np.array([2.0**-30, 2.0**-30, 2.0**-30], np.float32)
    raised = scales_of_zeros(scale, np.array([True, False, True]), np.array([3.0, 3.0, 0.0]), 2.0**-8)
    assert raised.tolist() == [2.0**-14, 2.0**-30, 2.0**-30]  # 3 / (2**-8 · 2**-14) is below 2**24, half of it above
    assert fits_accumulator(np.array([3.0]), raised[:1] * 2.0**-8)


def test_only_the_scales_of_zeros_are_free():
    codes = np.array([[0, 0], [1, 0]])
    assert zero_channels(codes, 0).tolist() == [True, False]
    assert zero_channels(codes, -1).tolist() == [False, True]
    assert zero_channels(codes, None).tolist() == [False]
    model = np.array([1.0, 2.0], np.float32)
    assert same_scales(np.array([5.0, 2.0], np.float32), model, codes, 0)
    assert not same_scales(np.array([1.0, 5.0], np.float32), model, codes, 0)
    assert not same_scales(np.array([np.nan, 2.0], np.float32), model, codes, 0)
    assert not same_scales(np.array([1.0], np.float32), model, codes, 0)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a copy of a model computes what the model does."""

import numpy as np
import pytest

from model_compression_toolkit.core.common.reference_outputs import ReferenceOutputs, moved_inputs, relative_error

VALUES = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)


def never():
    raise AssertionError("The model ran again although its copy agrees.")


def test_outputs_that_are_close_agree_and_the_model_does_not_run_again():
    reference = ReferenceOutputs([VALUES, np.arange(3)], never)
    assert reference.agree([VALUES * np.float32(1 + 1e-6), np.arange(3)])
    reference.check_assembled([VALUES * np.float32(1.005), np.arange(3)])


@pytest.mark.parametrize(
    "received",
    [VALUES * np.float32(1.02), VALUES[:, :4], np.where(VALUES > 2, np.nan, VALUES), -VALUES],
    ids=["scaled", "another shape", "NaN", "negative"],
)
def test_other_outputs_do_not_agree_and_the_error_says_by_how_much(received):
    reference = ReferenceOutputs([VALUES], lambda: [VALUES * np.float32(1 + 1e-6)])
    assert not reference.agree([received])
    with pytest.raises(ValueError, match=r"computes something else than `model`.*relative errors.*allowed: 0\.01"):
        reference.check_assembled([received])
    assert not reference.agree([])


def test_half_precision_may_round_more():
    reference = ReferenceOutputs([VALUES], lambda: [VALUES])
    reference.check_assembled([VALUES * np.float32(1.05)], "bfloat16")
    with pytest.raises(ValueError, match=r"allowed: 0\.1"):
        reference.check_assembled([VALUES * np.float32(1.2)], "float16")


def test_what_the_model_itself_does_from_run_to_run_is_no_difference():
    other = np.random.default_rng(1).normal(size=VALUES.shape).astype(np.float32)
    third = np.random.default_rng(2).normal(size=VALUES.shape).astype(np.float32)
    assert ReferenceOutputs([VALUES], lambda: [other]).agree([third])
    # Only where it does: the second output is the same in each run.
    assert not ReferenceOutputs([VALUES, VALUES], lambda: [other, VALUES]).agree([third, third])


def test_the_relative_error_is_a_share_of_the_size():
    assert relative_error(VALUES, VALUES) == 0.0
    assert relative_error(VALUES, 1.25 * VALUES) == pytest.approx(0.25)
    assert relative_error(np.zeros(4), np.full(4, 0.5)) == 0.5
    assert relative_error(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert relative_error(np.array([np.nan, np.inf]), np.array([np.nan, np.inf])) == 0.0
    assert relative_error(np.array([np.inf, 1.0]), np.array([-np.inf, 1.0])) == np.inf


def test_moved_inputs_differ_by_rounding_and_integers_stay():
    floats, integers = moved_inputs([VALUES, np.arange(3)])
    assert 0 < np.abs(floats - VALUES).max() < 1e-5
    assert floats.dtype == np.float32
    assert np.array_equal(integers, np.arange(3))

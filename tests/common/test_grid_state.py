# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The numbers of a quantizer's state that say of which grid it is."""

import dataclasses

import numpy as np
import pytest

from mct_quantizers.common.grid_state import GRID_LENGTH, GridDescription, grid_mismatch
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold

SYMMETRIC, UNIFORM = QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM
SIGNED = GridDescription.of_params(from_threshold(1.0, 4), SYMMETRIC)
TABLE = LookupTable(np.array([-8.0, 0, 3]), np.ones(1), 2, True, 4)

OTHERS = {
    "num_bits": GridDescription.of_params(from_threshold(1.0, 8), SYMMETRIC),
    "signed": GridDescription.of_params(from_threshold(1.0, 4, False), SYMMETRIC),
    "quant_min": GridDescription.of_params(QuantParams(np.ones(1), np.zeros(1), 4, -7, 7), SYMMETRIC),
    "method": GridDescription.of_params(from_threshold(1.0, 4), QuantizationMethod.POWER_OF_TWO),
    "axis": GridDescription.of_params(from_threshold([1.0], 4, axis=1), SYMMETRIC),
    "lut_values_bitwidth": GridDescription.of_params(TABLE, QuantizationMethod.LUT_SYM_QUANTIZER),
    "training": dataclasses.replace(SIGNED, trained_by="LSQ"),
    "settings": dataclasses.replace(SIGNED, settings='{"steps": 3}'),
}


def test_a_description_is_equal_to_itself_in_every_precision_that_states_have():
    for description in (SIGNED, *OTHERS.values(), GridDescription.of_params(from_range(-1.0, 2.0, 16), UNIFORM)):
        vector = description.to_vector()
        assert vector.shape == (GRID_LENGTH,)
        assert vector.dtype == np.float32
        # Whole numbers that the 8 digits of bfloat16 hold.
        assert (vector == np.rint(vector)).all()
        assert np.abs(vector).max() <= 256
        for stored in (vector.astype(np.float16), vector * np.float32(0.999) + vector * np.float32(0.001)):
            assert description.differences(stored) == []
            assert grid_mismatch("q", description, stored) == ""


@pytest.mark.parametrize("word", OTHERS)
def test_what_differs_is_named_with_both_values(word):
    text = grid_mismatch("conv.weight_quantizer", SIGNED, OTHERS[word].to_vector())
    assert text.startswith("conv.weight_quantizer: the state is of a quantizer with")
    assert word in text
    assert "Make the model as the saved one was made" in text


def test_the_values_in_the_text_are_those_of_state_and_model():
    differences = OTHERS["signed"].differences(SIGNED.to_vector())
    assert differences == [("signed", "True", "False"), ("quant_min", "-8", "0"), ("quant_max", "7", "15")]
    trained = dataclasses.replace(SIGNED, trained_by="LSQ", freeze_quant_params=True)
    assert trained.differences(OTHERS["training"].to_vector()) == [("freeze_quant_params", "False", "True")]


def test_numbers_that_are_no_description_are_refused():
    for stored in (np.zeros(GRID_LENGTH), np.full(GRID_LENGTH, np.nan), np.full(GRID_LENGTH, 1e30)):
        assert grid_mismatch("q", SIGNED, stored) != ""


def test_settings_count_by_their_values_and_objects_by_their_class():
    params = from_threshold(1.0, 4)

    def described(**settings):
        return GridDescription.of_params(params, SYMMETRIC, "X", False, settings).to_vector()

    assert (described(a=np.array([1.0]), b=object()) == described(b=object(), a=[1.0])).all()
    assert (described(a=1) != described(a=2)).any()

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Outputs recorded from the original released package."""

import json
from pathlib import Path

import numpy as np
import pytest
from engines import WINGS, quantizers_of, run_on

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "inferable.json").read_text())
GRID_CASES = {
    "WeightsPOTInferableQuantizer": 40,
    "WeightsSymmetricInferableQuantizer": 40,
    "WeightsUniformInferableQuantizer": 40,
    "ActivationPOTInferableQuantizer": 10,
    "ActivationSymmetricInferableQuantizer": 10,
    "ActivationUniformInferableQuantizer": 20,
}
TABLE_CASES = {
    "WeightsLUTSymmetricInferableQuantizer": 32,
    "WeightsLUTPOTInferableQuantizer": 32,
    "ActivationLutPOTInferableQuantizer": 8,
}
ALL_CASES = {**GRID_CASES, **TABLE_CASES}


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "inferable.npz", allow_pickle=False) as file:
        return dict(file)


def params_of(arguments: dict) -> QuantParams:
    axis = arguments["channel_axis"] if arguments.get("per_channel") else None
    if "min_range" in arguments:
        return from_range(arguments["min_range"], arguments["max_range"], arguments["num_bits"], axis=axis)
    return from_threshold(arguments["threshold"], arguments["num_bits"], arguments.get("signed", True), axis=axis)


def table_of(arguments: dict) -> LookupTable:
    names = ("lut_values", "threshold", "num_bits", "signed", "lut_values_bitwidth", "eps")
    axis = arguments["channel_axis"] if arguments.get("per_channel") else None
    return LookupTable(**{name: arguments[name] for name in names if name in arguments}, axis=axis)


def numpy_formula(arguments: dict, x: np.ndarray) -> np.ndarray:
    if "lut_values" in arguments:
        return arithmetic.lut_quantize(x, table_of(arguments), numpy_ops)
    return arithmetic.fake_quantize(x, params_of(arguments), numpy_ops)


def check(name: str, arrays: dict, run) -> int:
    """Compare every case of one quantizer; the number of compared cases."""
    cases = [case for case in CASES if case["quantizer"] == name]
    for case in cases:
        number = case["case"]
        x, expected, agree = (arrays[f"{key}{number}"] for key in ("x", "y", "agree"))
        outputs = run(case["arguments"], x)
        assert outputs.shape == expected.shape
        assert outputs.dtype == np.float32
        # Few elements are left out, so that a case cannot become empty.
        assert agree.mean() > 0.9
        # The original multiplies by the float32 inverse of a scale that it rounded twice.
        bound = 1e-6 + 1e-5 * np.abs(expected)
        wrong = (np.abs(outputs - expected) > bound) & agree
        assert not wrong.any(), f"case {number} {case['arguments']}: {x[wrong][:5]} -> {outputs[wrong][:5]}"
    return len(cases)


def test_the_file_holds_what_the_tests_expect():
    names = [case["quantizer"] for case in CASES]
    assert {name: names.count(name) for name in sorted(set(names))} == ALL_CASES
    assert [case["case"] for case in CASES] == list(range(232))
    assert sum(GRID_CASES.values()) == 160
    assert sum(TABLE_CASES.values()) == 72


@pytest.mark.parametrize("name", ALL_CASES)
def test_numpy_formula_equals_the_recorded_outputs(name, arrays):
    assert check(name, arrays, numpy_formula) == ALL_CASES[name]


@pytest.mark.parametrize("name", ALL_CASES)
@pytest.mark.parametrize("wing", WINGS)
def test_class_equals_the_recorded_outputs(wing, name, arrays):
    cls = getattr(quantizers_of(wing), name)
    checked = check(name, arrays, lambda arguments, x: run_on(wing, [cls(**arguments)], x)[0])
    assert checked == ALL_CASES[name]

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The bodies of the lookup-table quantizers without a framework: a NumPy wing of a few lines carries them."""

import json
import warnings

import numpy as np
import pytest

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quantizers.lut import ActivationLutPOT, WeightsLUTPOT, WeightsLUTSymmetric


class NumpyWing:
    def _bind_params(self, params: LookupTable) -> None:
        self.bound = params

    @property
    def params(self) -> LookupTable:
        return self.bound


def on_numpy(body: type) -> type:
    return type(f"Numpy{body.__name__}", (NumpyWing, body), {})


LEVELS = [-25.0, 25.0, 0.0, 100.0]
CASES = [
    (
        WeightsLUTSymmetric,
        {"num_bits": 2, "lut_values": LEVELS, "threshold": [1.3], "per_channel": False},
        LookupTable(LEVELS, 1.3, 2),
    ),
    (
        WeightsLUTSymmetric,
        {
            "num_bits": 3,
            "lut_values": LEVELS,
            "threshold": [1.3, 0.2],
            "per_channel": True,
            "channel_axis": -1,
            "input_rank": 3,
            "lut_values_bitwidth": 9,
            "eps": 1e-6,
        },
        LookupTable(LEVELS, [1.3, 0.2], 3, True, 9, 1e-6, -1),
    ),
    (
        WeightsLUTPOT,
        {"num_bits": 2, "lut_values": LEVELS, "threshold": [0.5, 2.0], "per_channel": True, "channel_axis": 1},
        LookupTable(LEVELS, [0.5, 2.0], 2, axis=1),
    ),
    (
        ActivationLutPOT,
        {"num_bits": 2, "lut_values": [3.0, 200.0, 3.0], "threshold": [4.0], "signed": False, "eps": 0.0},
        LookupTable([3, 200, 3], 4.0, 2, False, eps=0.0),
    ),
    (
        ActivationLutPOT,
        {"num_bits": 4, "lut_values": [-4.0, 7.0], "threshold": [0.25], "signed": True, "lut_values_bitwidth": 5},
        LookupTable([-4, 7], 0.25, 4, True, 5),
    ),
]
cases = pytest.mark.parametrize(("body", "arguments", "table"), CASES, ids=lambda value: getattr(value, "__name__", ""))


@cases
def test_quantizer_is_its_table(body, arguments, table):
    quantizer = on_numpy(body)(**arguments)
    assert quantizer.params == table
    for name in ("num_bits", "signed", "lut_values_bitwidth", "eps"):
        assert getattr(quantizer, name) == getattr(table, name)


@cases
def test_config_holds_what_was_given_and_makes_an_equal_quantizer(body, arguments, table):
    cls = on_numpy(body)
    config = json.loads(json.dumps(cls(**arguments).get_config()))
    assert arguments.items() <= config.items()
    assert cls(**config).params == table
    assert cls.from_config(config).get_config() == config


@cases
def test_quantizer_from_params_has_these_params(body, arguments, table):
    cls = on_numpy(body)
    quantizer = cls.from_params(table)
    assert quantizer.params == table
    assert cls(**quantizer.get_config()).params == table


@cases
def test_config_follows_a_table_that_was_replaced(body, arguments, table):
    quantizer = on_numpy(body)(**arguments)
    values = {**table.to_dict(), "lut_values": [1.0, 0.0], "threshold": (table.threshold * 2).tolist()}
    quantizer.bound = LookupTable(**values)
    assert type(quantizer)(**quantizer.get_config()).params == quantizer.bound


@pytest.mark.parametrize(
    ("body", "table"),
    [
        (WeightsLUTSymmetric, LookupTable([1, 2], 1.0, 1, signed=False)),
        (WeightsLUTPOT, LookupTable([1, 2], 1.3, 1)),
        (ActivationLutPOT, LookupTable([1, 2], 1.3, 1)),
        (ActivationLutPOT, LookupTable([1, 2], [1.0, 2.0], 1, axis=0)),
        (ActivationLutPOT, LookupTable([1, 2], [1.0], 1, axis=0)),
    ],
)
def test_quantizer_refuses_params_that_it_cannot_represent(body, table):
    with pytest.raises(ValueError, match=r"cannot represent|must"):
        on_numpy(body).from_params(table)


def test_config_is_a_copy_of_the_arguments():
    levels, threshold = [1.0, 2.0], [1.0, 2.0]
    quantizer = on_numpy(WeightsLUTSymmetric)(1, levels, threshold, True, 0)
    levels[0] = threshold[0] = 9.0
    quantizer.get_config()["lut_values"][0] = 9.0
    assert quantizer.get_config()["lut_values"] == [1.0, 2.0]
    assert quantizer.get_config()["threshold"] == [1.0, 2.0]


def test_config_is_json_whatever_the_arguments_were():
    quantizer = on_numpy(WeightsLUTSymmetric)(
        np.int64(2),
        np.array([1, 2], np.int8),
        np.array([1.0, 2.0], np.float32),
        np.bool_(True),
        np.int64(0),
        np.int64(2),
        np.int64(8),
        np.float64(1e-8),
    )
    restored = type(quantizer)(**json.loads(json.dumps(quantizer.get_config())))
    assert restored.params == quantizer.params == LookupTable([1, 2], [1.0, 2.0], 2, axis=0)


@pytest.mark.parametrize("body", [WeightsLUTPOT, ActivationLutPOT])
@pytest.mark.parametrize("threshold", [0.3, 3.0, 0.0, -2.0])
def test_power_of_two_quantizers_refuse_other_thresholds(body, threshold):
    with pytest.raises(ValueError, match=rf"`threshold` must be.*{threshold}"):
        on_numpy(body)(2, [1, 2], threshold, False)


FULL = {
    WeightsLUTSymmetric: {"num_bits": 2, "lut_values": [1, 0], "threshold": [1.3], "per_channel": False},
    WeightsLUTPOT: {"num_bits": 2, "lut_values": [1, 0], "threshold": [2.0], "per_channel": False},
    ActivationLutPOT: {"num_bits": 2, "lut_values": [1, 0], "threshold": [2.0], "signed": False},
}


@pytest.mark.parametrize("body", FULL)
def test_construction_warns_once_when_the_index_is_as_wide_as_the_levels(body):
    cls = on_numpy(body)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantizer = cls(**FULL[body], lut_values_bitwidth=2)
    assert [warning.category for warning in caught] == [UserWarning]
    assert "`num_bits`" in str(caught[0].message)
    assert "`lut_values_bitwidth`" in str(caught[0].message)
    # The line of the caller is shown.
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert quantizer.params == LookupTable(**quantizer.params.to_dict())
        config = quantizer.get_config()
        cls(**{**config, "lut_values_bitwidth": 3})
    assert caught == []

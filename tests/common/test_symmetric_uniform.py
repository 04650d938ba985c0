# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The bodies of the quantizers without a framework: a NumPy wing of a few lines carries them."""

import json

import numpy as np
import pytest

from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold
from mct_quantizers.common.quantizers.symmetric import ActivationPOT, ActivationSymmetric, WeightsPOT, WeightsSymmetric
from mct_quantizers.common.quantizers.uniform import ActivationUniform, WeightsUniform


class NumpyWing:
    def _bind_params(self, params: QuantParams) -> None:
        self.bound = params

    @property
    def params(self) -> QuantParams:
        return self.bound


def on_numpy(body: type) -> type:
    return type(f"Numpy{body.__name__}", (NumpyWing, body), {})


CASES = [
    (WeightsSymmetric, {"num_bits": 4, "threshold": [1.3], "per_channel": False}, from_threshold(1.3, 4)),
    (
        WeightsSymmetric,
        {"num_bits": 4, "threshold": [1.3, 0.2], "per_channel": True, "channel_axis": -1, "signed": False},
        from_threshold([1.3, 0.2], 4, False, axis=-1),
    ),
    (
        WeightsPOT,
        {"num_bits": 8, "threshold": [2.0, 0.5], "per_channel": True, "channel_axis": 1, "input_rank": 4},
        from_threshold([2.0, 0.5], 8, axis=1),
    ),
    (
        WeightsUniform,
        {"num_bits": 3, "min_range": [-2.0, 0.5], "max_range": [2.0, 0.9], "per_channel": True, "channel_axis": 0},
        from_range([-2.0, 0.5], [2.0, 0.9], 3, axis=0),
    ),
    (ActivationSymmetric, {"num_bits": 2, "threshold": [0.7], "signed": False}, from_threshold(0.7, 2, False)),
    (ActivationPOT, {"num_bits": 2, "threshold": [0.25], "signed": True}, from_threshold(0.25, 2)),
    (ActivationUniform, {"num_bits": 16, "min_range": [-0.1], "max_range": [7.0]}, from_range(-0.1, 7.0, 16)),
]
cases = pytest.mark.parametrize(
    ("body", "arguments", "params"), CASES, ids=lambda value: getattr(value, "__name__", "")
)


@cases
def test_quantizer_is_its_params(body, arguments, params):
    quantizer = on_numpy(body)(**arguments)
    assert quantizer.params == params
    assert (quantizer.num_bits, quantizer.signed) == (params.num_bits, params.signed)
    assert (quantizer.quant_min, quantizer.quant_max) == (params.quant_min, params.quant_max)


@cases
def test_config_holds_what_was_given_and_makes_an_equal_quantizer(body, arguments, params):
    cls = on_numpy(body)
    config = json.loads(json.dumps(cls(**arguments).get_config()))
    assert arguments.items() <= config.items()
    assert cls(**config).params == params
    assert cls.from_config(config).get_config() == config


@cases
def test_quantizer_from_params_has_these_params(body, arguments, params):
    cls = on_numpy(body)
    quantizer = cls.from_params(params)
    assert quantizer.params == params
    assert cls(**quantizer.get_config()).params == params


@cases
def test_config_follows_params_that_were_replaced(body, arguments, params):
    quantizer = on_numpy(body)(**arguments)
    quantizer.bound = params.replace_scale(params.scale * 2)
    assert type(quantizer)(**quantizer.get_config()).params == quantizer.bound


@pytest.mark.parametrize(
    ("body", "params"),
    [
        (WeightsSymmetric, from_range(-1.0, 2.0, 4)),
        (WeightsUniform, from_threshold(1.0, 4)),
        (ActivationUniform, from_threshold(1.0, 4)),
        (ActivationSymmetric, from_range(-1.0, 2.0, 4)),
        (ActivationSymmetric, from_threshold([1.0, 2.0], 4, axis=0)),
        (WeightsPOT, from_threshold(0.3, 4)),
        # A narrow range of integers has no constructor argument.
        (WeightsSymmetric, QuantParams(np.array([0.5]), np.array([0]), 4, -7, 7)),
    ],
)
def test_quantizer_refuses_params_that_it_cannot_represent(body, params):
    with pytest.raises(ValueError, match=r"cannot represent|must"):
        on_numpy(body).from_params(params)


def test_config_is_a_copy_of_the_arguments():
    threshold = [1.0, 2.0]
    quantizer = on_numpy(WeightsSymmetric)(4, threshold, True, 0)
    threshold[0] = 9.0
    assert quantizer.get_config()["threshold"] == [1.0, 2.0]
    quantizer.get_config()["threshold"][0] = 9.0
    assert quantizer.get_config()["threshold"] == [1.0, 2.0]


@pytest.mark.parametrize(
    "threshold", [(1.0, 2.0), np.array([1.0, 2.0]), [np.float32(1), np.float64(2)], np.array([1, 2])]
)
def test_config_is_json_whatever_the_arguments_were(threshold):
    quantizer = on_numpy(WeightsSymmetric)(np.int64(4), threshold, np.bool_(True), np.int64(0), np.int64(2))
    restored = type(quantizer)(**json.loads(json.dumps(quantizer.get_config())))
    assert restored.params == quantizer.params == from_threshold([1.0, 2.0], 4, axis=0)


@pytest.mark.parametrize("body", [WeightsSymmetric, WeightsPOT])
def test_public_attributes_of_symmetric_weights(body):
    quantizer = on_numpy(body)(4, [1.0, 2.0], True, -1)
    assert quantizer.threshold.tolist() == [1.0, 2.0]
    assert quantizer.per_channel is True
    assert quantizer.channel_axis == -1
    assert quantizer.signed is True


def test_public_attributes_of_uniform_weights_show_the_repaired_range():
    quantizer = on_numpy(WeightsUniform)(3, -2, 2, False)
    # 16/7 and 12/7 up to the float32 scale.
    np.testing.assert_allclose([quantizer.min_range[0], quantizer.max_range[0]], [-16 / 7, 12 / 7], rtol=1e-7)
    assert (quantizer.per_channel, quantizer.channel_axis, quantizer.signed) == (False, None, False)


@pytest.mark.parametrize("body", [WeightsPOT, ActivationPOT])
@pytest.mark.parametrize("threshold", [0.3, 3.0, 0.0, -2.0])
def test_power_of_two_quantizers_refuse_other_thresholds(body, threshold):
    third = False if body is WeightsPOT else True
    with pytest.raises(ValueError, match=rf"`threshold` must be.*{threshold}"):
        on_numpy(body)(8, threshold, third)

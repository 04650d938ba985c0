# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The configurations of trainable quantizers: attributes, grids that they describe, plain values and back."""

import copy
import inspect
import json
import pickle
from enum import Enum

import numpy as np
import pytest

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import from_range, from_threshold
from model_compression_toolkit.core.common.quantization_config import Granularity, TensorConfig
from model_compression_toolkit.core.common.quantization_plan import TensorPlan, TensorSite
from model_compression_toolkit.trainable_infrastructure.common import get_quantizer_config
from model_compression_toolkit.trainable_infrastructure.common.quant_utils import get_threshold_reshape_shape
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
    initial_params,
    method_of,
)
from model_compression_toolkit.trainable_infrastructure.keras.config_serialization import (
    config_deserialization,
    config_serialization,
    transform_enum,
)

POT, SYMMETRIC, UNIFORM = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
WEIGHT, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
THRESHOLDS = np.array([[0.5], [1.25], [3.0]])


def weights_config(method=SYMMETRIC, params=None, **arguments):
    params = {"threshold": THRESHOLDS} if params is None else params
    defaults = {"weights_channels_axis": 0, "weights_per_channel_threshold": True, "min_threshold": 2.0**-16}
    return TrainableQuantizerWeightsConfig(method, 4, params, True, **{**defaults, **arguments})


def activation_config(method=SYMMETRIC, params=None, **arguments):
    params = {"threshold": 2.5, "is_signed": False} if params is None else params
    return TrainableQuantizerActivationConfig(method, 8, params, True, **{"min_threshold": 2.0**-16, **arguments})


CANDIDATES = [TrainableQuantizerCandidateConfig(bits, {"threshold": THRESHOLDS / bits}) for bits in (2, 4)]
CONFIGS = {
    "weights": weights_config,
    "weights per tensor": lambda: weights_config(
        POT, {"threshold": 2.0}, weights_channels_axis=None, weights_per_channel_threshold=False
    ),
    "weights uniform": lambda: weights_config(
        UNIFORM, {"range_min": -THRESHOLDS, "range_max": 2 * THRESHOLDS}, weights_channels_axis=[0, 1]
    ),
    "weights with candidates": lambda: weights_config(weights_quantization_candidates=CANDIDATES),
    "weights without candidates": lambda: weights_config(weights_quantization_candidates=[]),
    "activation": activation_config,
    "activation uniform": lambda: activation_config(UNIFORM, {"range_min": -0.5, "range_max": np.float32(1.5)}),
    "activation with candidates": lambda: activation_config(
        activation_quantization_candidates=[TrainableQuantizerCandidateConfig(2, {"threshold": 1.0})]
    ),
}
every_config = pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)


def plain(value):
    """Values of a configuration that compare with `==`, the type of arrays included."""
    if isinstance(value, np.ndarray):
        return ("array", value.shape, value.tolist())
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(vars(value)) if isinstance(value, TrainableQuantizerCandidateConfig) else value


def as_arrays(values):
    return {name: np.array(value) for name, value in values.items()}


def expected_after(config):
    """Attributes after a round trip: the parameters of weights are arrays, those of activations numbers."""
    values = dict(vars(config))
    if isinstance(config, TrainableQuantizerWeightsConfig):
        values["weights_quantization_params"] = as_arrays(values["weights_quantization_params"])
        if values["weights_bits_candidates"]:
            values["weights_bits_candidates"] = [
                TrainableQuantizerCandidateConfig(item.n_bits, as_arrays(item.quantization_params))
                for item in values["weights_bits_candidates"]
            ]
    return plain(values)


# The classes.


def test_attributes_are_as_given_but_for_the_candidates_name():
    params, candidates = {"threshold": THRESHOLDS}, [object()]
    weights = TrainableQuantizerWeightsConfig(
        weights_quantization_method=POT,
        weights_n_bits=4,
        weights_quantization_params=params,
        enable_weights_quantization=False,
        weights_channels_axis=(3, 2),
        weights_per_channel_threshold=True,
        min_threshold=0.25,
        weights_quantization_candidates=candidates,
    )
    assert vars(weights) == {
        "weights_quantization_method": POT,
        "weights_n_bits": 4,
        "weights_quantization_params": params,
        "enable_weights_quantization": False,
        "weights_channels_axis": (3, 2),
        "weights_per_channel_threshold": True,
        "min_threshold": 0.25,
        "weights_bits_candidates": candidates,
    }
    assert weights.weights_quantization_params is params
    assert weights.weights_bits_candidates is candidates
    activation = TrainableQuantizerActivationConfig(
        activation_quantization_method=UNIFORM,
        activation_n_bits=8,
        activation_quantization_params=params,
        enable_activation_quantization=True,
        min_threshold=0.5,
        activation_quantization_candidates=candidates,
    )
    assert vars(activation) == {
        "activation_quantization_method": UNIFORM,
        "activation_n_bits": 8,
        "activation_quantization_params": params,
        "enable_activation_quantization": True,
        "min_threshold": 0.5,
        "activation_bits_candidates": candidates,
    }
    candidate = TrainableQuantizerCandidateConfig(n_bits=2, quantization_params=params)
    assert vars(candidate) == {"n_bits": 2, "quantization_params": params}
    assert weights_config().weights_bits_candidates is activation_config().activation_bits_candidates is None


def test_arguments_have_the_order_of_the_interface():
    assert list(inspect.signature(TrainableQuantizerWeightsConfig).parameters) == [
        "weights_quantization_method",
        "weights_n_bits",
        "weights_quantization_params",
        "enable_weights_quantization",
        "weights_channels_axis",
        "weights_per_channel_threshold",
        "min_threshold",
        "weights_quantization_candidates",
    ]
    assert list(inspect.signature(TrainableQuantizerActivationConfig).parameters) == [
        "activation_quantization_method",
        "activation_n_bits",
        "activation_quantization_params",
        "enable_activation_quantization",
        "min_threshold",
        "activation_quantization_candidates",
    ]


@every_config
def test_configurations_copy_and_pickle(make):
    config = make()
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert type(twin) is type(config)
        assert plain(vars(twin)) == plain(vars(config))


# The grids that they describe.


def test_method_is_the_grid_of_either_class():
    assert method_of(weights_config(POT)) is POT
    assert method_of(activation_config(UNIFORM)) is UNIFORM


def test_weights_per_channel_give_a_scale_for_each_channel_whatever_the_shape():
    expected = from_threshold([0.5, 1.25, 3.0], 4, axis=0)
    for thresholds in (THRESHOLDS, THRESHOLDS.reshape(3, 1, 1, 1), THRESHOLDS.ravel(), [0.5, 1.25, 3.0]):
        for axis in (0, [0], (0, 1)):
            config = weights_config(params={"threshold": thresholds}, weights_channels_axis=axis)
            assert initial_params(config) == expected


def test_weights_per_tensor_take_numbers_and_arrays_of_one_number():
    for threshold in (2, 2.0, np.float32(2), np.array(2.0), [2.0], np.full((1, 1, 1), 2.0)):
        config = weights_config(params={"threshold": threshold}, weights_per_channel_threshold=False)
        assert initial_params(config) == from_threshold(2.0, 4)


def test_activations_are_signed_as_told():
    for signed in (True, False):
        config = activation_config(params={"threshold": [2.5], "is_signed": signed})
        assert initial_params(config) == from_threshold(2.5, 8, signed)
    assert initial_params(activation_config(params={"threshold": 2.5})).signed


def test_uniform_ranges_are_repaired_to_contain_zero():
    config = activation_config(UNIFORM, {"range_min": 0.5, "range_max": 2.0})
    assert initial_params(config) == from_range(0.5, 2.0, 8)
    assert initial_params(config).min_range[0] == 0
    per_channel = weights_config(UNIFORM, {"range_min": -THRESHOLDS, "range_max": 2 * THRESHOLDS})
    assert initial_params(per_channel) == from_range([-0.5, -1.25, -3.0], [1.0, 2.5, 6.0], 4, axis=0)


def test_small_thresholds_are_raised_and_powers_of_two_rounded_up():
    config = activation_config(params={"threshold": 1e-9, "is_signed": True}, min_threshold=0.125)
    assert initial_params(config) == from_threshold(0.125, 8)
    config = weights_config(POT, min_threshold=2.0**-16)
    assert initial_params(config) == from_threshold([0.5, 2.0, 4.0], 4, axis=0)
    config = activation_config(POT, {"threshold": 1e-9}, min_threshold=0.3)
    assert initial_params(config) == from_threshold(0.5, 8)


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        (weights_config(params={}), ValueError, r"must have 'threshold'. Received: \{\}"),
        (weights_config(UNIFORM, {"range_min": [1.0]}), ValueError, r"must have 'range_max'. Received: \{'range_min'"),
        (activation_config(params={"is_signed": True}), ValueError, "must have 'threshold'"),
        (weights_config(weights_channels_axis=None), ValueError, r"`weights_channels_axis` must be an axis"),
        (weights_config(weights_per_channel_threshold=False), ValueError, r"`threshold`.*\[0.5, 1.25, 3.0\]"),
        (activation_config(params={"threshold": [1.0, 2.0]}), ValueError, r"`threshold`.*\[1.0, 2.0\]"),
        (activation_config(params={"threshold": "1"}), TypeError, r"`threshold`.*'1'"),
        (activation_config(params={"threshold": float("nan")}), ValueError, "`threshold`.*nan"),
        (activation_config(UNIFORM, {"range_min": 2.0, "range_max": 1.0}), ValueError, "below"),
    ],
)
def test_what_describes_no_grid_is_refused(config, error, text):
    with pytest.raises(error, match=text):
        initial_params(config)


# Plain values and back.


def test_enumerations_become_their_values():
    class Color(Enum):
        RED = "red"

    assert transform_enum(Color.RED) == "red"
    assert transform_enum(POT) == POT.value
    for value in (None, 5, "text", [Color.RED]):
        assert transform_enum(value) is value


@every_config
def test_serialized_configurations_are_plain_and_say_what_they_are(make):
    config = make()
    values = config_serialization(config)
    is_weights = isinstance(config, TrainableQuantizerWeightsConfig)
    assert set(values) == {*vars(config), "is_weights", "is_activations"}
    assert (values["is_weights"], values["is_activations"]) == (is_weights, not is_weights)
    assert json.loads(json.dumps(values)) == values
    method = values["weights_quantization_method" if is_weights else "activation_quantization_method"]
    assert type(method) is int
    assert method == method_of(config).value


@every_config
@pytest.mark.parametrize("through_text", [False, True], ids=["values", "text"])
def test_round_trip_gives_equal_attributes(make, through_text):
    config = make()
    values = config_serialization(config)
    before = copy.deepcopy(values)
    restored = config_deserialization(json.loads(json.dumps(values)) if through_text else values)
    assert values == before
    assert type(restored) is type(config)
    assert plain(vars(restored)) == expected_after(config)
    assert list(vars(restored)) == list(vars(config))
    assert method_of(restored) is method_of(config)
    assert initial_params(restored) == initial_params(config)
    # Once more changes nothing.
    again = config_deserialization(config_serialization(restored))
    assert plain(vars(again)) == plain(vars(restored))


def test_the_configuration_is_not_changed_and_shares_nothing():
    config = weights_config(weights_quantization_candidates=CANDIDATES)
    before = plain(vars(config))
    values = config_serialization(config)
    values["weights_quantization_params"]["threshold"][0][0] = 77.0
    restored = config_deserialization(values)
    restored.weights_quantization_params["threshold"][1] = 99.0
    assert values["weights_quantization_params"]["threshold"][1] == [1.25]
    assert plain(vars(config)) == before


def test_arrays_are_read_in_the_form_in_which_keras_writes_them():
    array = {"class_name": "__numpy__", "config": {"value": [[0.5], [1.25], [3.0]], "dtype": "float32"}}
    values = config_serialization(weights_config(weights_quantization_candidates=CANDIDATES))
    values["weights_quantization_params"]["threshold"] = array
    values["weights_bits_candidates"][0]["quantization_params"]["threshold"] = array
    restored = config_deserialization(values)
    for params in (restored.weights_quantization_params, restored.weights_bits_candidates[0].quantization_params):
        assert isinstance(params["threshold"], np.ndarray)
        np.testing.assert_array_equal(params["threshold"], THRESHOLDS)
    assert initial_params(restored) == initial_params(weights_config())


def test_activation_parameters_are_taken_as_they_are():
    restored = config_deserialization(config_serialization(activation_config()))
    assert restored.activation_quantization_params == {"threshold": 2.5, "is_signed": False}
    assert type(restored.activation_quantization_params["is_signed"]) is bool
    assert type(restored.activation_quantization_params["threshold"]) is float


@pytest.mark.parametrize("value", [None, {}, 5, "weights", TrainableQuantizerCandidateConfig(4, {})])
def test_what_is_no_configuration_is_not_serialized(value):
    with pytest.raises(TypeError, match=rf"`quantization_config`.*Received: {type(value).__name__}"):
        config_serialization(value)


@pytest.mark.parametrize("flags", [{}, {"is_weights": False, "is_activations": False}, {"is_weights": None}])
def test_values_of_neither_class_are_refused(flags):
    values = config_serialization(weights_config())
    del values["is_weights"], values["is_activations"]
    with pytest.raises(TypeError, match="'is_weights' or 'is_activations'"):
        config_deserialization({**values, **flags})


def test_an_unknown_grid_is_refused():
    values = {**config_serialization(activation_config()), "activation_quantization_method": 99}
    with pytest.raises(ValueError, match="99"):
        config_deserialization(values)


# From the plan of a tensor.


def weight_plan(method=SYMMETRIC, granularity=Granularity.PER_CHANNEL, tensor="weight", num_bits=4):
    axis = 0 if granularity is Granularity.PER_CHANNEL else None
    size = 1 if axis is None else 3
    params = {
        SYMMETRIC: lambda: from_threshold(np.linspace(0.5, 2.0, size), num_bits, axis=axis),
        POT: lambda: from_threshold(2.0 ** np.arange(size), num_bits, axis=axis, power_of_two=True),
        UNIFORM: lambda: from_range(-np.linspace(0.5, 2.0, size), np.linspace(1.0, 2.0, size), num_bits, axis=axis),
    }[method]()
    site = TensorSite("conv", tensor, WEIGHT, "Conv2d", shape=(3, 5, 2, 2), channel_axis=0)
    return TensorPlan(site, TensorConfig(num_bits, method, granularity), params)


def activation_plan(method=SYMMETRIC, num_bits=8):
    params = from_range(-0.5, 1.5, num_bits) if method is UNIFORM else from_threshold(2.0, num_bits, signed=False)
    config = TensorConfig(num_bits, method)
    return TensorPlan(TensorSite("conv", "output", ACTIVATION, "Conv2d", shape=(1, 3, 4, 4)), config, params)


@pytest.mark.parametrize("method", [POT, SYMMETRIC, UNIFORM])
@pytest.mark.parametrize("granularity", list(Granularity))
def test_the_configuration_of_a_weight_describes_its_calibrated_grid(method, granularity):
    plan = weight_plan(method, granularity)
    config = get_quantizer_config.get_trainable_quantizer_weights_config(plan, "weight", CANDIDATES)
    assert isinstance(config, TrainableQuantizerWeightsConfig)
    assert config.weights_quantization_method is method
    assert config.weights_n_bits == 4
    assert config.enable_weights_quantization is True
    assert config.weights_bits_candidates is CANDIDATES
    assert initial_params(config) == plan.params
    per_channel = granularity is Granularity.PER_CHANNEL
    assert config.weights_per_channel_threshold is per_channel
    assert config.weights_channels_axis == (0 if per_channel else None)
    keys = {"range_min", "range_max"} if method is UNIFORM else {"threshold"}
    assert set(config.weights_quantization_params) == keys
    for value in config.weights_quantization_params.values():
        # Broadcasts against the weight.
        assert np.shape(value) == ((3, 1, 1, 1) if per_channel else ())


@pytest.mark.parametrize("method", [POT, SYMMETRIC, UNIFORM])
def test_the_configuration_of_an_activation_describes_its_calibrated_grid(method):
    plan = activation_plan(method)
    config = get_quantizer_config.get_trainable_quantizer_activation_config(plan)
    assert isinstance(config, TrainableQuantizerActivationConfig)
    assert config.activation_quantization_method is method
    assert config.activation_n_bits == 8
    assert config.activation_bits_candidates is None
    assert initial_params(config) == plan.params
    assert all(type(value) in (float, bool) for value in config.activation_quantization_params.values())


@pytest.mark.parametrize(
    "call",
    [
        lambda: get_quantizer_config.get_trainable_quantizer_weights_config(activation_plan(), "output"),
        lambda: get_quantizer_config.get_trainable_quantizer_weights_config(weight_plan(), "bias"),
        lambda: get_quantizer_config.get_trainable_quantizer_activation_config(weight_plan()),
        lambda: get_quantizer_config.get_trainable_quantizer_activation_config(
            TensorPlan(activation_plan().site, TensorConfig(8, SYMMETRIC))
        ),
        lambda: get_quantizer_config.get_trainable_quantizer_weights_config(TensorPlan(weight_plan().site)),
    ],
)
def test_a_plan_of_something_else_is_refused(call):
    with pytest.raises(ValueError, match="conv"):
        call()


def test_candidates_are_those_of_the_alternatives():
    find = get_quantizer_config.get_trainable_quantizer_quantization_candidates
    plans = [weight_plan(num_bits=2), activation_plan(num_bits=8), weight_plan(num_bits=4)]
    weights, activations = find([*plans, weight_plan(UNIFORM, tensor="bias")], attr="weight")
    assert all(isinstance(item, TrainableQuantizerCandidateConfig) for item in (*weights, *activations))
    assert [item.n_bits for item in weights] == [2, 4]
    assert [item.n_bits for item in activations] == [8]
    for item, plan in zip(weights, (plans[0], plans[2]), strict=True):
        np.testing.assert_array_equal(item.quantization_params["threshold"].ravel(), plan.params.threshold)
    assert activations[0].quantization_params == {"threshold": 2.0, "is_signed": False}
    assert [item.n_bits for item in find(plans[0])[0]] == [2]
    assert find(plans[0])[1] == []
    assert find([]) == ([], [])


def test_candidates_on_several_grids_are_refused():
    find = get_quantizer_config.get_trainable_quantizer_quantization_candidates
    with pytest.raises(ValueError, match=r"one grid.*\['SYMMETRIC', 'UNIFORM'\]"):
        find([weight_plan(), weight_plan(UNIFORM)])
    with pytest.raises(ValueError, match="calibrated"):
        find([TensorPlan(weight_plan().site)])
    # A weight and an activation are two tensors.
    assert len(find([weight_plan(), activation_plan(UNIFORM)])[0]) == 1


@pytest.mark.parametrize(
    ("shape", "axis", "dim", "expected"),
    [
        ((3, 5, 2), 0, 3, [3, 1, 1]),
        ((3, 5, 2), -1, 2, [1, 1, 2]),
        ((3, 5, 2), 1, 7, [1, 7, 1]),
        ([4], -1, 4, [4]),
    ],
)
def test_shape_of_a_threshold_lines_up_with_the_axis(shape, axis, dim, expected):
    assert get_threshold_reshape_shape(shape, quant_axis=axis, quant_axis_dim=dim) == expected
    with pytest.raises(IndexError):
        get_threshold_reshape_shape(shape, len(shape), dim)

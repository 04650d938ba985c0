# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import Granularity
from model_compression_toolkit.core.common.quantization_config import (
    GRID_METHODS,
    BatchNorm,
    CaptureMode,
    QuantizationConfig,
    RangeSearch,
    Rule,
    TensorConfig,
)

WEIGHTS, ACTIVATIONS = QuantizationTarget.Weights, QuantizationTarget.Activation
LUT = QuantizationMethod.LUT_POT_QUANTIZER


def tensor_configs(granularities=tuple(Granularity)):
    return st.builds(
        TensorConfig,
        num_bits=st.integers(1, 16),
        method=st.sampled_from(GRID_METHODS),
        granularity=st.sampled_from(granularities),
        range_search=st.sampled_from(RangeSearch),
        percentile=st.floats(50, 100, exclude_min=True),
    )


RULES = st.builds(
    Rule,
    name=st.sampled_from([None, "conv", r"layer\d+\.conv", ".*"]),
    type=st.sampled_from(["Conv2d", "add"]),
    weight_bits=st.sampled_from([None, 1, 4, 16]),
    activation_bits=st.sampled_from([None, 8]),
    quantize=st.just(False),
)
CONFIGS = st.builds(
    QuantizationConfig,
    weights=tensor_configs(),
    activations=tensor_configs((Granularity.PER_TENSOR,)),
    first_last_bits=st.sampled_from([None, 4, 8]),
    rules=st.lists(RULES, max_size=3).map(tuple),
    quantize_output=st.booleans(),
    fuse_additions=st.booleans(),
    batch_norm=st.sampled_from(BatchNorm),
    capture=st.sampled_from(CaptureMode),
)


@given(CONFIGS)
def test_json_round_trip_restores_an_equal_configuration(config):
    assert QuantizationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(tensor_configs())
def test_tensor_config_round_trip(config):
    assert TensorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_defaults_are_the_documented_ones():
    config = QuantizationConfig()
    assert config.weights == TensorConfig(8, QuantizationMethod.SYMMETRIC, Granularity.PER_CHANNEL, RangeSearch.MSE)
    assert config.activations == TensorConfig(8, QuantizationMethod.UNIFORM, Granularity.PER_TENSOR, RangeSearch.MSE)
    assert (config.first_last_bits, config.rules, config.filter, config.quantize_output) == (None, (), None, False)
    assert (config.batch_norm, config.capture) == (BatchNorm.AUTO, CaptureMode.AUTO)


def test_left_out_keys_take_the_defaults_of_their_kind_of_tensor():
    config = QuantizationConfig.from_dict({"weights": {"num_bits": 4}, "activations": {"num_bits": 3}})
    assert config == QuantizationConfig.from_bits("w4a3")
    assert config.weights.granularity is Granularity.PER_CHANNEL
    assert config.activations.method is QuantizationMethod.UNIFORM
    assert QuantizationConfig.from_dict({}) == QuantizationConfig()


def test_words_of_files_become_members():
    config = TensorConfig(granularity="per_channel", range_search="percentile")
    assert config.granularity is Granularity.PER_CHANNEL
    assert config.range_search is RangeSearch.PERCENTILE
    other = QuantizationConfig(batch_norm="live", capture="modules", rules=[Rule(name="a", quantize=False)])
    assert other.batch_norm is BatchNorm.LIVE
    assert other.capture is CaptureMode.MODULES
    assert other.rules == (Rule(name="a", quantize=False),)


@pytest.mark.parametrize(("bits", "expected"), [("w4a8", (4, 8)), ("W2A16", (2, 16)), ("w16a1", (16, 1))])
def test_from_bits_sets_both_widths_and_nothing_else(bits, expected):
    config = QuantizationConfig.from_bits(bits, quantize_output=True)
    assert (config.weights.num_bits, config.activations.num_bits) == expected
    default = QuantizationConfig(quantize_output=True)
    assert dataclasses.replace(config, weights=default.weights, activations=default.activations) == default


def test_from_bits_keeps_the_given_tensor_configurations():
    given_weights = TensorConfig(method=QuantizationMethod.POWER_OF_TWO, range_search="min_max")
    config = QuantizationConfig.from_bits("w3a5", weights=given_weights)
    assert config.weights == TensorConfig(3, QuantizationMethod.POWER_OF_TWO, Granularity.PER_CHANNEL, "min_max")
    assert config.activations == QuantizationConfig.from_bits("w3a5").activations
    assert QuantizationConfig.from_bits("w3a5", weights=TensorConfig(3)).weights.num_bits == 3


@pytest.mark.parametrize(
    ("name", "text"), [("weights", "weights.num_bits=8"), ("activations", "activations.num_bits=8")]
)
def test_from_bits_refuses_another_width_beside_it(name, text):
    with pytest.raises(ValueError, match=f"`{name}` must have the width of `bits`.*bits='w4a4' and {text}"):
        QuantizationConfig.from_bits("w4a4", **{name: TensorConfig(8)})


@given(left_out=st.sets(st.sampled_from(["num_bits", "method", "granularity"])), config=tensor_configs())
def test_what_is_left_out_takes_the_default_of_its_place(left_out, config):
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in left_out}
    partial = TensorConfig(**values)
    assert TensorConfig.from_dict(json.loads(json.dumps(partial.to_dict()))) == partial
    for target, default in (
        (WEIGHTS, {"num_bits": 8, "method": QuantizationMethod.SYMMETRIC, "granularity": Granularity.PER_CHANNEL}),
        (ACTIVATIONS, {"num_bits": 8, "method": QuantizationMethod.UNIFORM, "granularity": Granularity.PER_TENSOR}),
    ):
        expected = {**values, **{name: default[name] for name in left_out}}
        assert partial.completed(target) == TensorConfig(**expected)


def test_a_configuration_holds_complete_tensor_configurations():
    config = QuantizationConfig(weights=TensorConfig(num_bits=3), activations=TensorConfig(num_bits=5))
    assert config == QuantizationConfig.from_bits("w3a5")
    assert config.weights == TensorConfig(3, QuantizationMethod.SYMMETRIC, Granularity.PER_CHANNEL)
    assert config.activations == TensorConfig(5, QuantizationMethod.UNIFORM, Granularity.PER_TENSOR)
    method = QuantizationConfig(activations=TensorConfig(method=QuantizationMethod.SYMMETRIC))
    assert method.activations == TensorConfig(8, QuantizationMethod.SYMMETRIC, Granularity.PER_TENSOR)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


def test_what_is_left_out_is_none_and_is_not_shown():
    assert (TensorConfig().num_bits, TensorConfig().method, TensorConfig().granularity) == (None, None, None)
    assert repr(TensorConfig(3)) == "TensorConfig(num_bits=3, range_search='mse', percentile=99.99)"
    complete = QuantizationConfig().weights
    assert "method=QuantizationMethod.SYMMETRIC, granularity='per_channel'" in repr(complete)
    names = {"TensorConfig": TensorConfig, "QuantizationMethod": QuantizationMethod}
    for config in (TensorConfig(), TensorConfig(3), complete):
        assert eval(repr(config), names) == config


@pytest.mark.parametrize("bits", ["w4", "a8", "w4a8x", "xw4a8", "w4 a8", "w-4a8", "w4.5a8", "", None, 48])
def test_from_bits_refuses_other_forms(bits):
    with pytest.raises(ValueError, match=f"`bits` must look like 'w4a8'. Received: bits={bits!r}"):
        QuantizationConfig.from_bits(bits)


@pytest.mark.parametrize("bits", ["w0a8", "w8a17", "w99a4"])
def test_from_bits_refuses_widths_out_of_bounds(bits):
    with pytest.raises(ValueError, match="must be from 1 to 16"):
        QuantizationConfig.from_bits(bits)


BAD_TENSOR_CONFIGS = [
    ({"num_bits": 0}, ValueError, "`num_bits`.*num_bits=0"),
    ({"num_bits": 17}, ValueError, "`num_bits`.*num_bits=17"),
    ({"num_bits": 8.0}, TypeError, "`num_bits`.*num_bits=8.0"),
    ({"num_bits": True}, TypeError, "`num_bits`.*num_bits=True"),
    ({"num_bits": "8"}, TypeError, "`num_bits`.*num_bits='8'"),
    ({"method": "SYMMETRIC"}, TypeError, "`method`.*method='SYMMETRIC'"),
    ({"method": LUT}, ValueError, "`method`.*LUT_POT_QUANTIZER"),
    ({"granularity": "per_row"}, ValueError, "`granularity`.*granularity='per_row'"),
    ({"range_search": "kl"}, ValueError, "`range_search`.*range_search='kl'"),
    ({"percentile": 50}, ValueError, "`percentile`.*percentile=50"),
    ({"percentile": 100.5}, ValueError, "`percentile`.*percentile=100.5"),
    ({"percentile": float("nan")}, ValueError, "`percentile`.*percentile=nan"),
    ({"percentile": "99"}, ValueError, "`percentile`.*percentile='99'"),
    ({"percentile": None}, ValueError, "`percentile`.*percentile=None"),
]
BAD_RULES = [
    ({}, ValueError, "`name` or `type`"),
    ({"quantize": False}, ValueError, "`name` or `type`"),
    ({"name": "a"}, ValueError, "`weight_bits`, `activation_bits` or `quantize=False`"),
    ({"name": "(", "quantize": False}, ValueError, r"`name`.*'\('"),
    ({"name": 5, "quantize": False}, TypeError, "`name`.*5"),
    ({"type": 5, "quantize": False}, TypeError, "`type`.*5"),
    ({"name": "a", "weight_bits": 0}, ValueError, "`weight_bits`.*0"),
    ({"name": "a", "weight_bits": "4"}, TypeError, "`weight_bits`.*'4'"),
    ({"name": "a", "activation_bits": 17}, ValueError, "`activation_bits`.*17"),
    ({"name": "a", "activation_bits": True}, TypeError, "`activation_bits`.*True"),
    ({"name": "a", "quantize": 2}, TypeError, "`quantize`.*quantize=2"),
]
BAD_CONFIGS = [
    ({"weights": 8}, TypeError, "`weights`.*weights=8"),
    ({"weights": None}, TypeError, "`weights`.*weights=None"),
    ({"activations": "a8"}, TypeError, "`activations`.*activations='a8'"),
    ({"activations": TensorConfig(granularity="per_channel")}, ValueError, "`activations`.*per_channel"),
    ({"first_last_bits": 0}, ValueError, "`first_last_bits`.*0"),
    ({"first_last_bits": "8"}, TypeError, "`first_last_bits`.*'8'"),
    ({"rules": 5}, TypeError, "`rules`.*5"),
    ({"rules": None}, TypeError, "`rules`.*None"),
    ({"rules": Rule(name="a", quantize=False)}, TypeError, "`rules`.*Rule"),
    ({"rules": ["conv"]}, TypeError, "`rules`.*'conv'"),
    ({"filter": "conv"}, TypeError, "`filter`.*'conv'"),
    ({"fuse_additions": 2}, TypeError, "`fuse_additions`.*fuse_additions=2"),
    ({"quantize_output": 2}, TypeError, "`quantize_output`.*quantize_output=2"),
    ({"batch_norm": "keep"}, ValueError, "`batch_norm`.*batch_norm='keep'"),
    ({"batch_norm": True}, ValueError, "`batch_norm`.*batch_norm=True"),
    ({"capture": "trace"}, ValueError, "`capture`.*capture='trace'"),
    ({"capture": None}, ValueError, "`capture`.*capture=None"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), BAD_TENSOR_CONFIGS)
def test_tensor_config_names_the_bad_argument_and_its_value(arguments, error, text):
    with pytest.raises(error, match=text):
        TensorConfig(**arguments)


@pytest.mark.parametrize(("arguments", "error", "text"), BAD_RULES)
def test_rule_names_the_bad_argument_and_its_value(arguments, error, text):
    with pytest.raises(error, match=text):
        Rule(**arguments)


@pytest.mark.parametrize(("arguments", "error", "text"), BAD_CONFIGS)
def test_config_names_the_bad_argument_and_its_value(arguments, error, text):
    with pytest.raises(error, match=text):
        QuantizationConfig(**arguments)


BAD_FILES = [
    ({"weight": {}}, ValueError, r"QuantizationConfig has the fields .*Received unknown: \['weight'\]"),
    ({"weights": {"bits": 4}}, ValueError, r"TensorConfig has the fields .*Received unknown: \['bits'\]"),
    ({"rules": [{"bits": 4}]}, ValueError, r"Rule has the fields .*Received unknown: \['bits'\]"),
    ({"weights": 4}, TypeError, "TensorConfig.*Received: 4"),
    ({"weights": {"method": "LUT_POT_QUANTIZER"}}, ValueError, "`method`.*method='LUT_POT_QUANTIZER'"),
    ({"weights": {"method": 2}}, ValueError, "`method`.*method=2"),
    ({"weights": {"num_bits": "4"}}, TypeError, "`num_bits`.*num_bits='4'"),
    ({"rules": [4]}, TypeError, "Rule.*Received: 4"),
    ({"rules": 4}, TypeError, "`rules`.*4"),
    ({"rules": None}, TypeError, "`rules`.*None"),
]


@pytest.mark.parametrize(("values", "error", "text"), BAD_FILES)
def test_from_dict_names_what_is_wrong(values, error, text):
    with pytest.raises(error, match=text):
        QuantizationConfig.from_dict(values)


def test_from_json_reads_a_file(tmp_path):
    path = tmp_path / "config.json"
    config = QuantizationConfig.from_bits("w4a8", rules=(Rule(type="add", activation_bits=16),))
    path.write_text(json.dumps(config.to_dict()), encoding="utf-8")
    assert QuantizationConfig.from_json(path) == QuantizationConfig.from_json(str(path)) == config


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"5", b'"w4a8"', b"null"])
def test_from_json_refuses_a_file_that_holds_no_configuration(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Expected"):
        QuantizationConfig.from_json(path)


def test_from_json_of_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        QuantizationConfig.from_json(tmp_path / "none.json")


def test_a_filter_function_cannot_be_written():
    with pytest.raises(ValueError, match="`filter`"):
        QuantizationConfig(filter=lambda name, kind: True).to_dict()


@pytest.mark.parametrize("value", [TensorConfig(), Rule(name="a", quantize=False), QuantizationConfig()])
def test_configurations_are_frozen(value):
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
    # Slots refuse a misspelt name; 3.11 raises TypeError from the frozen setattr of a slotted class.
    with pytest.raises((AttributeError, TypeError)):
        value.no_such_field = 1


@pytest.mark.parametrize(
    ("rule", "name", "kind", "matches"),
    [
        (Rule(name="conv", quantize=False), "conv", "Conv2d", True),
        (Rule(name="conv", quantize=False), "conv1", "Conv2d", False),
        (Rule(name="conv", quantize=False), "a.conv", "Conv2d", False),
        (Rule(name=r"layer\d+\..*", quantize=False), "layer12.conv", "Conv2d", True),
        (Rule(type="Conv2d", quantize=False), "anything", "Conv2d", True),
        (Rule(type="Conv", quantize=False), "anything", "Conv2d", False),
        (Rule(name=".*", type="add", quantize=False), "add_1", "add", True),
        (Rule(name="add", type="add", quantize=False), "add_1", "add", False),
        (Rule(name="add_1", type="mul", quantize=False), "add_1", "add", False),
    ],
)
def test_rule_matches_the_whole_name_and_the_exact_type(rule, name, kind, matches):
    assert rule.matches(name, kind) is matches

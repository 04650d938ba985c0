# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import numpy as np
import pytest

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import from_range, from_threshold
from model_compression_toolkit.core.common.quantization_config import CaptureMode, QuantizationConfig, Rule
from model_compression_toolkit.core.common.quantization_plan import (
    QuantizationPlan,
    TensorPlan,
    TensorSite,
    build_plan,
)
from model_compression_toolkit.core.common.report import plan_table, plan_totals

WEIGHT, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
SITES = (
    TensorSite("x", "output", ACTIVATION, "placeholder", (8, 3, 9, 9), first_or_last=True),
    TensorSite("conv1", "weight", WEIGHT, "Conv2d", (5, 3, 3, 3), 0, first_or_last=True),
    TensorSite("conv1", "output", ACTIVATION, "Conv2d", (8, 5, 7, 7)),
    TensorSite("conv2", "weight", WEIGHT, "Conv2d", (5, 5, 3, 3), 0),
    TensorSite("add", "output", ACTIVATION, "add", (8, 5, 5, 5), first_or_last=True),
    TensorSite("fc", "weight", WEIGHT, "Linear", (7, 5), 0, first_or_last=True),
    TensorSite("fc", "output", ACTIVATION, "Linear", (8, 7), reason="an output of the model"),
)


def plan(**arguments):
    arguments = {"first_last_bits": 8, **arguments}
    return build_plan(SITES, QuantizationConfig.from_bits("w4a6", **arguments), CaptureMode.GRAPH, ["a note"])


def bits(built):
    return {tensor.name: None if tensor.config is None else tensor.config.num_bits for tensor in built.tensors}


def test_first_and_last_layers_and_what_feeds_them_get_the_bits_that_are_named():
    assert bits(plan()) == {
        "x.output": 8,
        "conv1.weight": 8,
        "conv1.output": 6,
        "conv2.weight": 4,
        "add.output": 8,
        "fc.weight": 8,
        "fc.output": None,
    }


def test_without_first_last_bits_all_layers_have_the_widths_asked_for():
    built = build_plan(SITES, QuantizationConfig.from_bits("w4a6"), CaptureMode.GRAPH)
    assert built.tensors == plan(first_last_bits=None).tensors
    assert bits(built) == {
        "x.output": 6,
        "conv1.weight": 4,
        "conv1.output": 6,
        "conv2.weight": 4,
        "add.output": 6,
        "fc.weight": 4,
        "fc.output": None,
    }


def test_the_last_matching_rule_wins_even_over_first_and_last():
    rules = (
        Rule(name="conv.", weight_bits=2, activation_bits=3),
        Rule(name="conv1", weight_bits=5),
        Rule(type="Linear", weight_bits=16),
    )
    changed = bits(plan(rules=rules))
    assert changed["conv1.weight"] == 5
    # The later rule says nothing of activations, so the earlier one holds.
    assert changed["conv1.output"] == 3
    assert changed["conv2.weight"] == 2
    assert changed["fc.weight"] == 16
    assert changed["add.output"] == 8
    assert bits(plan(rules=rules[::-1]))["conv1.weight"] == 2


def test_rule_and_filter_leave_layers_in_float_with_a_reason():
    built = plan(rules=(Rule(type="Conv2d", quantize=False),), filter=lambda name, kind: kind != "add")
    assert [t.name for t in built.skipped()] == [
        "conv1.weight",
        "conv1.output",
        "conv2.weight",
        "add.output",
        "fc.output",
    ]
    assert "rule" in built["conv1.weight"].reason
    assert "filter" in built["add.output"].reason
    assert built["fc.output"].reason == "an output of the model"
    assert all(tensor.reason for tensor in built.skipped())
    assert not any(tensor.reason for tensor in built.quantized())


def test_filter_is_called_with_name_and_type():
    calls = []
    plan(filter=lambda *arguments: calls.append(arguments) or True)
    assert calls == [(site.layer, site.type) for site in SITES]


def test_quantized_selects_by_target_in_the_order_of_execution():
    built = plan()
    assert [t.name for t in built.quantized(WEIGHT)] == ["conv1.weight", "conv2.weight", "fc.weight"]
    assert [t.name for t in built.quantized(ACTIVATION)] == ["x.output", "conv1.output", "add.output"]
    assert len(built.quantized()) == 6


def test_get_item_finds_a_tensor_and_lists_what_exists():
    built = plan()
    assert built["conv2.weight"].site is SITES[3]
    with pytest.raises(KeyError, match=r"conv9.weight.*conv1.weight"):
        built["conv9.weight"]


def test_axis_follows_the_granularity():
    built = plan()
    assert built["conv1.weight"].axis == 0
    assert built["conv1.output"].axis is None
    assert built["fc.output"].axis is None


@pytest.mark.parametrize(
    ("name", "expected"),
    # 135 bytes at 8 bits; 225 nibbles; no bytes for activations.
    [("conv1.weight", 135), ("conv2.weight", 113), ("x.output", 0), ("fc.output", 0)],
)
def test_num_bytes_counts_packed_integers(name, expected):
    assert plan()[name].num_bytes == expected


def test_weight_bytes_are_those_of_all_weights():
    assert plan().weight_bytes == 135 + 113 + 35
    assert plan(rules=(Rule(name="fc", quantize=False),)).weight_bytes == 135 + 113 + 140


def test_num_bytes_of_a_float_weight_are_those_of_float32():
    assert plan(rules=(Rule(name="fc", quantize=False),))["fc.weight"].num_bytes == 7 * 5 * 4


def calibrated():
    params = {
        "conv1.weight": from_threshold(np.linspace(0.5, 1.5, 5), 8, axis=0),
        "x.output": from_range(-1.0, 2.0, 8),
    }
    built = plan().with_params(params)
    return dataclasses.replace(built, batch_norms={"bn1": "conv1"}, live_batch_norms=("bn1",)), params


def test_with_params_sets_the_named_grids_and_keeps_the_others():
    built, params = calibrated()
    assert built["conv1.weight"].params == params["conv1.weight"]
    assert built["x.output"].params == params["x.output"]
    assert built["conv2.weight"].params is None
    later = built.with_params({"conv1.weight": from_threshold(np.ones(5), 8, axis=0)})
    assert later["conv1.weight"].params != params["conv1.weight"]
    assert later["x.output"].params == params["x.output"]
    assert built["conv1.weight"].params == params["conv1.weight"]


def test_with_params_refuses_unknown_tensors():
    with pytest.raises(KeyError, match=r"nothing\.weight"):
        plan().with_params({"nothing.weight": from_threshold(1.0, 8)})


def test_json_round_trip_restores_an_equal_plan():
    built, _ = calibrated()
    assert QuantizationPlan.from_dict(json.loads(json.dumps(built.to_dict()))) == built
    assert built != plan()


@pytest.mark.parametrize("version", [None, 0, 2, "1", [1]])
def test_from_dict_refuses_another_version(version):
    with pytest.raises(ValueError, match=r"version 1. Received: version="):
        QuantizationPlan.from_dict({**plan().to_dict(), "version": version})


@pytest.mark.parametrize("values", [None, 5, "plan", [], {}])
def test_from_dict_refuses_what_is_no_plan(values):
    with pytest.raises(ValueError, match="Expected a quantization plan"):
        QuantizationPlan.from_dict(values)


@pytest.mark.parametrize("field", ["capture", "notes", "batch_norms", "live_batch_norms", "tensors"])
def test_from_dict_refuses_a_missing_field(field):
    values = plan().to_dict()
    del values[field]
    with pytest.raises(ValueError, match=f"quantization plan.*{field}"):
        QuantizationPlan.from_dict(values)


@pytest.mark.parametrize("field", ["site", "config", "params", "reason"])
def test_from_dict_refuses_a_tensor_with_a_missing_field(field):
    values = plan().to_dict()
    del values["tensors"][0][field]
    with pytest.raises(ValueError, match=f"quantization plan.*{field}"):
        QuantizationPlan.from_dict(values)


@pytest.mark.parametrize(
    "change",
    [
        {"capture": "film"},
        {"tensors": 5},
        {"tensors": ["conv"]},
        {"notes": None},
        {"live_batch_norms": 3},
        {"batch_norms": 3},
    ],
)
def test_from_dict_refuses_fields_of_the_wrong_type(change):
    with pytest.raises(ValueError, match=r"."):
        QuantizationPlan.from_dict({**plan().to_dict(), **change})


@pytest.mark.parametrize("change", [{"target": "Bias"}, {"shape": None}, {"shape": ["a"]}, {"color": "red"}])
def test_from_dict_refuses_a_wrong_site(change):
    values = plan().to_dict()
    values["tensors"][0]["site"].update(change)
    with pytest.raises(ValueError, match=r"."):
        QuantizationPlan.from_dict(values)


def test_plans_are_frozen():
    built = plan()
    for value, name in ((built, "tensors"), (built.tensors[0], "config"), (built.tensors[0].site, "layer")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)


def test_totals_count_the_packed_bytes_of_all_weights():
    totals = plan_totals(plan())
    # 5·3·3·3 bytes, 225 nibbles, 35 bytes against 4 bytes for each of 395 weights.
    assert totals == {
        "quantized_weights": 3,
        "quantized_activations": 3,
        "weight_bytes": 135 + 113 + 35,
        "compression": pytest.approx(4 * 395 / 283, rel=1e-15),
    }


def test_totals_of_a_plan_without_weights():
    empty = build_plan(SITES[:1], QuantizationConfig(), CaptureMode.GRAPH)
    assert plan_totals(empty) == {
        "quantized_weights": 0,
        "quantized_activations": 1,
        "weight_bytes": 0,
        "compression": 0.0,
    }


def cells(table):
    return [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]


def test_table_has_a_row_for_each_quantized_tensor_and_all_on_request():
    built, _ = calibrated()
    rows = cells(plan_table(built))
    assert [row[0] for row in rows] == [t.name for t in built.quantized()]
    assert rows[1][2:4] == ["8", "symmetric ×5"]
    assert rows[2][4] == "not calibrated"
    every = cells(plan_table(built, show_all=True))
    assert len(every) == len(built.tensors)
    assert every[-1][2:4] == ["float", "an output of the model"]


def test_tensor_plan_name_and_number_of_elements():
    assert TensorPlan(SITES[1]).name == "conv1.weight"
    assert TensorPlan(SITES[1]).num_elements == 135


def test_printing_a_plan_shows_the_table_and_the_notes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    built, _ = calibrated()
    text = str(built)
    lines = text.splitlines()
    assert lines[0].strip() == "Quantization plan"
    for tensor in built.quantized():
        (row,) = (line for line in lines if tensor.name in line)
        assert str(tensor.config.num_bits) in row
    assert "symmetric ×5" in text
    assert lines[-2:] == ["note: a note", "1 tensors in float; `skipped()` lists them with the reasons"]
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in text
    assert "trained by" not in text
    # The representation remains that of a value.
    assert repr(built).startswith("QuantizationPlan(tensors=(TensorPlan(")


def test_the_method_that_trains_a_tensor_survives_json_and_is_shown():
    built, _ = calibrated()
    tensors = tuple(dataclasses.replace(t, training_method="LSQ" if t.is_weight else "STE") for t in built.tensors)
    trained = dataclasses.replace(built, tensors=tensors)
    values = json.loads(json.dumps(trained.to_dict()))
    assert QuantizationPlan.from_dict(values) == trained != built
    assert "trained by" in str(trained)
    (row,) = (line for line in str(trained).splitlines() if "conv2.weight" in line)
    assert "LSQ" in row
    # Plans without training are written as before.
    assert all("training_method" not in tensor for tensor in built.to_dict()["tensors"])
    values["tensors"][0]["training_method"] = 5
    with pytest.raises(ValueError, match="training_method"):
        QuantizationPlan.from_dict(values)

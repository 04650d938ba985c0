# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import re

import numpy as np
import pytest

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_config import (
    CaptureMode,
    Granularity,
    QuantizationConfig,
    Rule,
    TensorConfig,
)
from model_compression_toolkit.core.common.quantization_plan import TensorPlan, TensorSite, build_plan

WEIGHT, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
FUSED = "fused into relu: stays in the accumulator"
SITES = (
    TensorSite("conv1", "weight", WEIGHT, "Conv2d", (4, 3, 3, 3), 0),
    TensorSite("conv1", "output", ACTIVATION, "Conv2d", (8, 4, 7, 7), reason=FUSED),
    TensorSite("relu", "output", ACTIVATION, "ReLU", (8, 4, 7, 7)),
    TensorSite("head", "weight", WEIGHT, "Linear", (7, 4), 0),
    *(TensorSite(f"blocks.{i}.add", "output", ACTIVATION, "add", (8, 4)) for i in range(12)),
)


def plan(*rules, **arguments):
    return build_plan(SITES, QuantizationConfig(rules=rules, **arguments), CaptureMode.GRAPH, ["before"])


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            Rule(name="conv", weight_bits=2),
            "Rule(name='conv', weight_bits=2) selects none. Near names: 'conv1'. Layers: ",
        ),
        (
            Rule(type="conv2D", quantize=False),
            "Rule(type='conv2D', quantize=False) selects none. Near names: 'Conv2d'. ",
        ),
        (Rule(type="Dense", quantize=False), "selects none. Layers: conv1, relu, head, blocks.0.add, "),
        (Rule(name=r"block\.\d\.add", activation_bits=4), "Near names: 'blocks."),
        (Rule(name="head", type="Conv2d", weight_bits=2), "selects none: head is Linear."),
        (Rule(type="ReLU", weight_bits=2), "says nothing of what it selects: relu.output."),
        (Rule(name="head", activation_bits=2), "says nothing of what it selects: head.weight."),
    ],
)
def test_a_rule_that_selects_nothing_is_refused_with_near_names_and_types(rule, text):
    with pytest.raises(ValueError, match=re.escape(text)) as refused:
        plan(Rule(name="conv1", weight_bits=4), rule)
    assert str(refused.value).startswith("Every rule must select tensors of the model. Rule(")
    assert str(refused.value).endswith("Types in the model: Conv2d, Linear, ReLU, add.")
    assert "name='conv1'" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_every_rule_that_selects_nothing_is_named():
    with pytest.raises(ValueError, match=r"name='fc1'.*type='Dense'"):
        plan(Rule(name="fc1", weight_bits=2), Rule(type="Dense", quantize=False))


def test_rules_that_select_something_are_taken_without_a_note():
    built = plan(
        Rule(name="conv1", weight_bits=2),
        Rule(type="add", weight_bits=2, activation_bits=4, name="blocks.*"),
        Rule(name="conv1|head", quantize=False),
    )
    assert built.notes == (
        "before",
        "`weight_bits` of Rule(name='blocks.*', type='add', weight_bits=2, activation_bits=4) changes nothing: "
        "it selects no weight",
    )
    assert built["blocks.3.add.output"].config.num_bits == 4
    assert built["head.weight"].config is None


def test_a_width_for_tensors_that_stay_in_float_is_noted_with_their_reason():
    built = plan(Rule(type="Conv2d", weight_bits=3, activation_bits=4))
    assert built["conv1.weight"].config.num_bits == 3
    assert built.notes[1:] == (
        f"`activation_bits` of Rule(type='Conv2d', weight_bits=3, activation_bits=4) changes nothing: {FUSED}",
    )


def test_a_filter_that_leaves_nothing_in_float_is_noted():
    assert plan(filter=lambda name, kind: name != "fc1").notes[1:] == (
        "the filter of the configuration leaves nothing in float: it returned True for every layer",
    )
    built = plan(filter=lambda name, kind: np.bool_(name != "head"))
    assert built.notes == ("before",)
    assert built["head.weight"].reason == "left in float by the filter of the configuration"


@pytest.mark.parametrize("answer", [None, 1, "conv1", re.match("c", "conv1")])
def test_a_filter_must_answer_true_or_false(answer):
    with pytest.raises(TypeError, match=r"`filter` must return True, or False.*for the layer 'conv1' of type 'Conv2d'"):
        plan(filter=lambda name, kind: answer)


def test_a_plan_holds_complete_tensor_configurations():
    weight, activation = (TensorPlan(SITES[index], TensorConfig(num_bits=4)) for index in (0, 2))
    assert weight.config == QuantizationConfig.from_bits("w4a4").weights
    assert activation.config == QuantizationConfig.from_bits("w4a4").activations
    assert weight.axis == 0
    per_tensor = TensorConfig(4, granularity=Granularity.PER_TENSOR)
    assert TensorPlan(SITES[0], per_tensor).axis is None

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a graph are sites, without any framework."""

import pytest

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.operation_graph import (
    Kind,
    Operation,
    OperationGraph,
    float_weight_site,
    output_site,
)
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig

SHAPE = (2, 4)
FUSED = "fused into {}: stays in the accumulator"


class Net:
    """Operations by short words."""

    def __init__(self):
        self.operations = []

    def add(self, layer, kind, *sources, shape=SHAPE, **arguments):
        operation = Operation(layer, kind, "type", sources, shape, **arguments)
        self.operations.append(operation)
        return operation

    def input(self, name="x"):
        return self.add(name, Kind.OTHER, is_input=True)

    def output(self, *sources):
        return self.add("output", Kind.OTHER, *sources, shape=None, is_output=True)

    @property
    def graph(self):
        return OperationGraph(self.operations)

    def reasons(self, **arguments):
        graph, config = self.graph, QuantizationConfig(**arguments)
        sites = [graph.activation_site(item, config) for item in self.operations if item.shape is not None]
        return {site.layer: site.reason for site in sites}

    def near_ends(self):
        graph, config = self.graph, QuantizationConfig(quantize_output=True)
        sites = [graph.activation_site(item, config) for item in self.operations if item.shape is not None]
        return {site.layer for site in sites if site.first_or_last}


def chain(*kinds):
    net = Net()
    operation = net.input()
    for index, kind in enumerate(kinds):
        operation = net.add(f"{kind.name.lower()}{index}", kind, operation)
    net.output(operation)
    return net


def test_an_operation_is_a_user_of_its_sources():
    net = Net()
    x = net.input()
    first, second = net.add("first", Kind.OTHER, x), net.add("second", Kind.OTHER, x)
    assert x.users == [first, second]
    assert first.users == []


@pytest.mark.parametrize("made", [Kind.WEIGHTED, Kind.COMPUTE, Kind.ADD, Kind.BATCH_NORM])
@pytest.mark.parametrize("taking", [Kind.ACTIVATION, Kind.BATCH_NORM])
def test_activations_and_batch_norms_take_in_accumulators(made, taking):
    net = chain(made, taking, Kind.WEIGHTED)
    names = [item.layer for item in net.operations]
    assert net.reasons()[names[1]] == FUSED.format(names[2])
    assert net.reasons()[names[2]] == ""


@pytest.mark.parametrize("made", [Kind.ACTIVATION, Kind.PRESERVING, Kind.OTHER])
def test_what_is_no_accumulator_is_not_fused(made):
    net = chain(made, Kind.ACTIVATION, Kind.WEIGHTED)
    assert "fused" not in net.reasons()[net.operations[1].layer]


def test_inputs_are_never_fused():
    assert chain(Kind.ACTIVATION, Kind.WEIGHTED).reasons()["x"] == ""


def test_a_product_with_an_activation_of_its_own_is_not_fused():
    net = Net()
    dense = net.add("dense", Kind.WEIGHTED, net.input(), has_activation=True)
    net.output(net.add("relu", Kind.ACTIVATION, dense))
    assert net.reasons()["dense"] == ""


def test_a_product_with_two_users_is_not_fused():
    net = Net()
    dense = net.add("dense", Kind.WEIGHTED, net.input())
    relu = net.add("relu", Kind.ACTIVATION, dense)
    net.output(net.add("add", Kind.ADD, relu, dense))
    assert net.reasons()["dense"] == ""


def test_a_product_that_is_also_an_output_is_not_fused():
    net = Net()
    dense = net.add("dense", Kind.WEIGHTED, net.input())
    net.output(net.add("relu", Kind.ACTIVATION, dense), dense)
    assert net.reasons()["dense"] == ""


def test_an_addition_takes_in_its_last_product_only():
    net = Net()
    x = net.input()
    first, second = net.add("first", Kind.WEIGHTED, x), net.add("second", Kind.WEIGHTED, x)
    relu = net.add("relu", Kind.ACTIVATION, net.add("add", Kind.ADD, first, second))
    net.output(relu)
    assert net.reasons() == {
        "x": "",
        "first": "",
        "second": FUSED.format("add"),
        "add": FUSED.format("relu"),
        "relu": "an output of the model (quantize_output=False)",
    }


def test_both_operands_of_an_addition_are_quantized_where_it_does_not_fuse():
    net = Net()
    x = net.input()
    first, second = net.add("first", Kind.WEIGHTED, x), net.add("second", Kind.WEIGHTED, x)
    norm = net.add("norm", Kind.BATCH_NORM, second)
    relu = net.add("relu", Kind.ACTIVATION, net.add("add", Kind.ADD, first, norm))
    net.output(net.add("head", Kind.WEIGHTED, relu))
    fused = {name for name, reason in net.reasons().items() if reason.startswith("fused")}
    assert fused == {"second", "norm", "add"}
    apart = {name for name, reason in net.reasons(fuse_additions=False).items() if reason.startswith("fused")}
    assert apart == {"second", "add"}


def test_an_addition_takes_in_no_other_addition():
    net = Net()
    x = net.input()
    left = net.add("left", Kind.ADD, x, net.add("other", Kind.OTHER, x))
    net.output(net.add("add", Kind.ADD, left, x))
    assert net.reasons()["left"] == ""


def test_an_addition_of_a_tensor_to_itself_or_to_a_constant_takes_in_nothing():
    net = Net()
    dense = net.add("dense", Kind.WEIGHTED, net.input())
    net.output(net.add("add", Kind.ADD, dense))
    assert net.reasons()["dense"] == ""


def test_outputs_are_quantized_when_that_is_asked_for():
    net = chain(Kind.WEIGHTED)
    assert net.reasons()["weighted0"] == "an output of the model (quantize_output=False)"
    assert net.reasons(quantize_output=True)["weighted0"] == ""


def test_an_output_that_feeds_another_layer_is_quantized():
    net = Net()
    first = net.add("first", Kind.WEIGHTED, net.input())
    net.output(first, net.add("second", Kind.WEIGHTED, first))
    assert net.reasons()["first"] == ""


def test_other_reasons():
    net = Net()
    x = net.input()
    rows = net.add("rows", Kind.WEIGHTED, x, is_lookup=True)
    flat = net.add("flat", Kind.PRESERVING, rows)
    net.add("dead", Kind.OTHER, flat)
    net.output(net.add("dense", Kind.WEIGHTED, flat))
    reasons = net.reasons()
    assert reasons["rows"] == "its rows come from the weight"
    assert reasons["flat"] == "keeps the grid of its input"
    assert reasons["dead"] == "its value is not used"


def test_a_tensor_that_is_no_floating_point_one_is_not_fused():
    net = Net()
    made = net.add("made", Kind.COMPUTE, net.input(), shape=None)
    relu = net.add("relu", Kind.ACTIVATION, made)
    net.output(relu)
    assert net.graph.fused == {}


def test_first_and_last_layers_are_found_through_everything_else():
    net = Net()
    x, y = net.input("x"), net.input("y")
    pooled = net.add("pooled", Kind.PRESERVING, x)
    first = net.add("first", Kind.WEIGHTED, pooled)
    also_first = net.add("also_first", Kind.WEIGHTED, net.add("scaled", Kind.OTHER, y))
    middle = net.add("middle", Kind.WEIGHTED, net.add("add", Kind.ADD, first, also_first))
    last = net.add("last", Kind.WEIGHTED, net.add("relu", Kind.ACTIVATION, middle))
    also_last = net.add("also_last", Kind.WEIGHTED, middle)
    net.output(net.add("softmax", Kind.OTHER, last), also_last)
    assert {item.layer for item in net.graph.end_layers} == {"first", "also_first", "last", "also_last"}
    # Of what only moves values it is the tensor before it.
    assert net.near_ends() == {"x", "scaled", "relu", "middle"}


def test_the_only_layer_is_first_and_last():
    net = chain(Kind.OTHER, Kind.WEIGHTED, Kind.OTHER)
    assert {item.layer for item in net.graph.end_layers} == {"weighted1"}
    assert net.near_ends() == {"other0"}


def test_a_model_without_layers_has_no_ends():
    net = chain(Kind.OTHER, Kind.ACTIVATION)
    assert net.graph.end_layers == set()
    assert net.near_ends() == set()


def test_sites_say_what_they_are():
    operation = Operation("relu", Kind.ACTIVATION, "ReLU", (), (2, 3))
    site = output_site(operation, "why not", near_end=True)
    assert (site.layer, site.tensor, site.target) == ("relu", "output", QuantizationTarget.Activation)
    assert (site.type, site.shape, site.first_or_last, site.reason) == ("ReLU", (2, 3), True, "why not")
    assert output_site(Operation("x", Kind.OTHER, "input"), "").shape == ()


def test_matrices_without_a_rule_say_so():
    site = float_weight_site("lstm", "cell/kernel", "LSTM", (4, 20))
    assert site.target is QuantizationTarget.Weights
    assert site.reason == "layers of type LSTM are not quantized yet"
    assert float_weight_site("lstm", "kernel", "LSTM", (4, 20), "another reason").reason == "another reason"

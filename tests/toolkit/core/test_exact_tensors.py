# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a graph keep their values because of what reads them, without any framework."""

import pytest

from model_compression_toolkit.core.common.argument_readings import neutral_name, readings_of, traits_of
from model_compression_toolkit.core.common.operation import Kind, Operation, Reading, Trait, is_sentinel
from model_compression_toolkit.core.common.operation_graph import OperationGraph
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig

SHAPE = (2, 4)
KEEPS = "keeps the grid of its input"


class Net:
    """Operations by short words."""

    def __init__(self):
        self.operations = []
        self.x = self.add("x", Kind.OTHER, is_input=True)
        self.dense = self.add("dense", Kind.WEIGHTED, self.x)

    def add(self, layer, kind, *sources, shape=SHAPE, reads=None, **arguments):
        readings = reads or {}
        operation = Operation(layer, kind, "type", sources, shape, readings=readings, **arguments)
        self.operations.append(operation)
        return operation

    def size(self, layer, source):
        return self.add(layer, Kind.OTHER, source, traits=Trait.SIZE)

    def head(self, *sources):
        return [self.add(f"head{index}", Kind.WEIGHTED, source) for index, source in enumerate(sources)]

    def reasons(self):
        graph, config = OperationGraph(self.operations), QuantizationConfig()
        sites = [graph.activation_site(item, config) for item in self.operations if item.shape is not None]
        return {site.layer: site.reason for site in sites}

    def near_ends(self):
        graph = OperationGraph(self.operations)
        sites = [graph.activation_site(item, QuantizationConfig()) for item in self.operations]
        return {site.layer for site in sites if site.first_or_last}


def test_a_divisor_and_the_length_that_it_is_made_of_stay_in_float():
    net = Net()
    total = net.size("sum", net.size("square", net.dense))
    root = net.add("sqrt", Kind.OTHER, total, traits=Trait.SIZE, reads={total: Reading.ROOT})
    quotient = net.add("quotient", Kind.OTHER, net.dense, root, reads={root: Reading.DIVISOR})
    net.head(quotient)
    reasons = net.reasons()
    assert reasons["sqrt"] == Reading.DIVISOR.value
    assert {reasons[name] for name in ("dense", "square", "sum")} <= {Reading.DIVISOR.value, Reading.ROOT.value}
    assert reasons["x"] == reasons["quotient"] == ""


@pytest.mark.parametrize("reading", [item for item in Reading if item not in (Reading.MASK, Reading.INVERSE)])
def test_a_reading_that_needs_the_values_reaches_through_what_only_moves_them(reading):
    net = Net()
    view = net.add("view", Kind.PRESERVING, net.add("made", Kind.OTHER, net.dense))
    net.head(net.add("reader", Kind.OTHER, view, reads={view: reading}))
    assert net.reasons()["view"] == net.reasons()["made"] == reading.value
    assert net.reasons()["dense"] == ""


def test_what_is_compared_and_computed_with_has_one_grid_for_both():
    net = Net()
    made = net.add("made", Kind.OTHER, net.dense)
    net.head(net.add("compare", Kind.OTHER, made, shape=None, reads={made: Reading.ORDER}), made)
    assert net.reasons()["made"] == ""


@pytest.mark.parametrize("reading", [Reading.DIVISOR, Reading.INDEX, Reading.EQUALITY, Reading.INTEGER])
def test_strict_readings_win_over_other_readers(reading):
    net = Net()
    made = net.add("made", Kind.OTHER, net.dense)
    net.head(net.add("reader", Kind.OTHER, made, reads={made: reading}), made)
    assert net.reasons()["made"] == reading.value


def test_parts_of_a_tensor_that_stays_in_float_get_grids_of_their_own_where_others_read_them():
    net = Net()
    parts = net.add("unbind", Kind.PRESERVING, net.x, shape=None)
    query, value = (net.add(name, Kind.PRESERVING, parts) for name in ("query", "value"))
    normal = net.add("normal", Kind.OTHER, query, reads={query: Reading.NORMALIZED})
    moved = net.add("moved", Kind.PRESERVING, value)
    net.head(normal, moved)
    reasons = net.reasons()
    assert reasons["x"] == reasons["query"] == Reading.NORMALIZED.value
    assert (reasons["value"], reasons["moved"]) == ("", KEEPS)
    assert "value" in net.near_ends(), "it feeds a first layer, as the tensor that it is a part of"


def test_the_inverse_of_a_length_stays_in_float_unless_a_product_reads_it():
    net = Net()
    root = net.add("rsqrt", Kind.OTHER, net.dense, reads={net.dense: Reading.ROOT}, traits=Trait.INVERSE)
    gate = net.add("gate", Kind.OTHER, net.add("other", Kind.WEIGHTED, net.x), traits=Trait.INVERSE)
    net.head(net.add("scaled", Kind.OTHER, net.dense, root), gate)
    reasons = net.reasons()
    assert reasons["rsqrt"] == Reading.INVERSE.value
    assert reasons["gate"] == reasons["scaled"] == ""


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [("rsqrt", ("a",), True), ("pow", ("a", -0.5), True), ("pow", ("a", 2), False), ("div", (1.0, "a"), True),
     ("div", ("a", 2.0), False)],
)  # fmt: skip
def test_inverses_are_seen_by_their_arguments(name, args, expected):
    assert (Trait.INVERSE in traits_of(name, args, {})) is expected


def test_what_only_is_multiplied_before_it_is_cast_to_integers_keeps_its_values():
    net = Net()
    scaled = net.add("scaled", Kind.OTHER, net.dense, traits=Trait.STEP)
    net.head(net.add("cast", Kind.OTHER, scaled, shape=None, reads={scaled: Reading.INTEGER}))
    assert net.reasons()["dense"] == net.reasons()["scaled"] == Reading.INTEGER.value


def attention(mask_trait, *, step_after=False):
    net = Net()
    scores = net.add("scores", Kind.COMPUTE, net.dense, net.dense)
    mask_input = net.add("mask_input", Kind.OTHER, is_input=True)
    inverse = net.add("inverse", Kind.OTHER, mask_input, traits=Trait.SUM)
    mask = net.add("mask", Kind.OTHER, inverse, traits=Trait.STEP)
    kind = Kind.ADD if mask_trait is Trait.SUM else Kind.OTHER
    masked = net.add("masked", kind, scores, mask, traits=mask_trait)
    if step_after:
        masked = net.add("step", Kind.OTHER, masked, traits=Trait.STEP)
    net.head(net.add("softmax", Kind.OTHER, masked, traits=Trait.SOFTMAX))
    return net


@pytest.mark.parametrize("step_after", [False, True])
@pytest.mark.parametrize("mask_trait", [Trait.SUM, Trait.MASKING])
def test_scores_are_quantized_before_the_mask_and_the_masked_tensor_is_not(mask_trait, step_after):
    reasons = attention(mask_trait, step_after=step_after).reasons()
    assert reasons["scores"] == reasons["softmax"] == ""
    masked = {"masked", "step"} if step_after else {"masked"}
    assert {reasons[name] for name in masked} == {"a mask stands in it: the scores are quantized before the mask"}
    assert {reasons[name] for name in ("mask_input", "inverse", "mask")} == {Reading.MASK.value}


def test_a_learned_bias_of_scores_is_no_mask():
    net = Net()
    scores, bias = net.add("scores", Kind.COMPUTE, net.dense, net.dense), net.add("bias", Kind.WEIGHTED, net.x)
    total = net.add("total", Kind.ADD, scores, bias, traits=Trait.SUM)
    net.head(net.add("softmax", Kind.OTHER, total, traits=Trait.SOFTMAX))
    assert net.reasons()["total"] == ""


def test_the_input_of_a_layer_is_no_mask():
    net = Net()
    total = net.add("total", Kind.ADD, net.dense, net.x, traits=Trait.SUM)
    net.head(net.add("softmax", Kind.OTHER, total, traits=Trait.SOFTMAX))
    assert net.reasons()["x"] == ""


def test_values_far_from_all_others_keep_a_tensor_in_float_without_a_softmax():
    net = Net()
    filled = net.add("filled", Kind.OTHER, net.dense, traits=Trait.MASKING | Trait.SENTINEL)
    half = net.add("half", Kind.OTHER, filled, traits=Trait.STEP)
    net.head(net.add("maximum", Kind.OTHER, half))
    reasons = net.reasons()
    assert "mark places" in reasons["filled"]
    assert reasons["half"] == reasons["filled"]
    assert reasons["dense"] == reasons["maximum"] == ""


def test_filling_with_zeros_is_no_mask_without_a_softmax():
    net = Net()
    net.head(net.add("filled", Kind.OTHER, net.dense, traits=Trait.MASKING))
    assert net.reasons()["filled"] == ""


@pytest.mark.parametrize(
    ("value", "expected"), [(-1e4, True), (1e9, True), (float("-inf"), True), (-20.0, False), (0, False)]
)
def test_sentinels(value, expected):
    assert is_sentinel(value) is expected


@pytest.mark.parametrize("value", [-1e9, float("-inf")])
def test_constants_far_from_all_values_are_seen_among_arguments(value):
    assert Trait.SENTINEL in traits_of("maskedfill", ("scores", "mask", value), {})
    assert Trait.SENTINEL in traits_of("where", ("mask", "scores"), {"x2": value})
    assert Trait.SENTINEL not in traits_of("add", ("scores", value), {})


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "expected"),
    [
        ("TrueDivide", ("a", "b"), {}, [("b", Reading.DIVISOR)]),
        ("true_divide", ("a",), {"other": "b"}, [("b", Reading.DIVISOR)]),
        ("rsqrt", ("a",), {}, [("a", Reading.ROOT)]),
        ("pow", ("a", -0.5), {}, [("a", Reading.ROOT)]),
        ("pow", ("a", 2), {}, []),
        ("Power", ("a",), {"x2": "b"}, [("a", Reading.ROOT)]),
        ("Take", ("a", "b"), {}, [("b", Reading.INDEX)]),
        ("not_equal", ("a", "b"), {}, [("a", Reading.EQUALITY), ("b", Reading.EQUALITY)]),
        ("matmul", ("a", "b"), {}, []),
    ],
)
def test_one_table_reads_the_names_of_all_frameworks(name, args, kwargs, expected):
    assert readings_of(neutral_name(name), args, kwargs) == expected

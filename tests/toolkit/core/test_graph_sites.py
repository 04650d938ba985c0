# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors of small models are quantized, fused, kept or left in float, and what that costs."""

import operator

import numpy as np
import pytest
import torch
from toolkit_models import ZOO, built, flat, random
from torch import fx, nn
from torch.nn import functional

import model_compression_toolkit as mct
from mct_quantizers.common import arithmetic
from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.pytorch.capture import capture

MAIN = "an output of the model (quantize_output=False)"
ACCUMULATOR = ": stays in the accumulator"
KEEPS = "keeps the grid of its input"
ROWS = "its rows come from the weight"
PARAMETER = "a parameter used by a functional operation stays in float"

# What each tensor of each model is: Q for quantized, else the reason why not.
EXPECTED = {
    "sequential": {
        "input_1.output": "Q", "0.0.weight": "Q", "0.0.output": f"fused into 0.2{ACCUMULATOR}", "0.2.output": "Q",
        "1.0.weight": "Q", "1.0.output": f"fused into 1.2{ACCUMULATOR}", "1.2.output": "Q", "2.output": KEEPS,
        "3.output": KEEPS, "4.weight": "Q", "4.output": MAIN,
    },
    "residual": {
        "x.output": "Q", "stem.0.weight": "Q", "stem.0.output": f"fused into stem.2{ACCUMULATOR}",
        "stem.2.output": "Q", "conv1.weight": "Q", "conv1.output": f"fused into relu1{ACCUMULATOR}",
        "relu1.output": "Q", "conv2.weight": "Q", "conv2.output": f"fused into add{ACCUMULATOR}",
        "project.output": KEEPS, "add.output": f"fused into relu2{ACCUMULATOR}", "relu2.output": "Q",
        "head.weight": "Q", "head.output": MAIN,
    },
    "projection": {
        "x.output": "Q", "stem.0.weight": "Q", "stem.0.output": f"fused into stem.2{ACCUMULATOR}",
        "stem.2.output": "Q", "conv1.weight": "Q", "conv1.output": f"fused into relu1{ACCUMULATOR}",
        "relu1.output": "Q", "conv2.weight": "Q", "conv2.output": "Q", "project.weight": "Q",
        "project.output": f"fused into add{ACCUMULATOR}", "add.output": f"fused into relu2{ACCUMULATOR}",
        "relu2.output": "Q", "head.weight": "Q", "head.output": MAIN,
    },
    "concat": {
        "x.output": "Q", "left.weight": "Q", "left.output": f"fused into relu{ACCUMULATOR}", "relu.output": "Q",
        "right.weight": "Q", "right.output": "Q", "cat.output": "Q", "head.weight": "Q", "head.output": MAIN,
    },
    "square": {
        "x.output": "Q", "first.weight": "Q", "first.output": "Q", "mul.output": "Q", "second.weight": "Q",
        "second.output": MAIN,
    },
    "reused": {
        "x.output": "Q", "first.weight": "Q", "first.output": f"fused into act{ACCUMULATOR}", "act.output": "Q",
        "middle.weight": "Q", "middle.output": f"fused into act:2{ACCUMULATOR}", "act:2.output": "Q",
        "middle:2.output": f"fused into act:3{ACCUMULATOR}", "act:3.output": "Q", "second.weight": "Q",
        "second.output": MAIN,
    },
    "attention": {
        "x.output": "Q", "query.weight": "Q", "query.output": "Q", "key.weight": "Q", "key.output": "Q",
        "transpose.output": KEEPS, "matmul.output": "Q", "truediv.output": "Q", "softmax.output": "Q",
        "value.weight": "Q", "value.output": "Q", "matmul_1.output": "Q", "head.weight": "Q", "head.output": MAIN,
    },
    "words": {
        "words.weight": "Q", "words.output": ROWS, "positions.weight": "Q",
        "positions.output": f"fused into add{ACCUMULATOR}", "add.output": "Q", "mean.output": "Q",
        "head.weight": "Q", "head.output": MAIN,
    },
    "recurrent": {
        "x.output": "Q", "lstm.weight_ih_l0": "layers of type LSTM are not quantized yet",
        "lstm.weight_hh_l0": "layers of type LSTM are not quantized yet", "getitem.output": "Q",
        "getitem_1.output": KEEPS, "head.weight": "Q", "head.output": MAIN,
    },
    "multi_head": {
        "x.output": "Q", "attention.in_proj_weight": "layers of type MultiheadAttention are not quantized yet",
        "attention.out_proj.weight": "layers of type MultiheadAttention are not quantized yet",
        "getitem.output": "Q", "head.weight": "Q", "head.output": MAIN,
    },
    "norms": {
        "x.output": "Q", "conv.weight": "Q", "conv.output": "Q", "group.output": "Q", "act.output": "Q",
        "mean.output": "Q", "layer.output": "Q", "head.weight": "Q", "head.output": MAIN,
    },
    "shared_in_place": {
        "x.output": "Q", "first.weight": "Q", "first.output": "Q", "act.output": "Q", "add.output": "Q",
        "second.weight": "Q", "second.output": MAIN,
    },
    "functional_conv": {
        "x.output": "Q", "kernel.output": PARAMETER, "conv2d.output": f"fused into relu{ACCUMULATOR}",
        "relu.output": "Q", "head.weight": "Q", "head.output": MAIN,
    },
    "two_inputs": {
        "x.output": "Q", "y.output": "Q", "first.weight": "Q", "first.output": "Q",
        "first:2.output": f"fused into tanh{ACCUMULATOR}", "tanh.output": "Q", "sub.output": "Q",
        "second.weight": "Q", "second.output": MAIN,
    },
    "two_outputs": {
        "x.output": "Q", "first.weight": "Q", "first.output": f"fused into relu{ACCUMULATOR}", "relu.output": "Q",
        "second.weight": "Q", "second.output": MAIN,
    },
    "chunk": {
        "x.output": "Q", "first.weight": "Q", "first.output": "Q", "getitem.output": KEEPS,
        "getitem_1.output": KEEPS, "sigmoid.output": "Q", "mul.output": "Q", "head.weight": "Q", "head.output": MAIN,
    },
    "nearest": {
        "x.output": "Q", "conv.weight": "Q", "conv.output": "Q", "up.output": KEEPS, "interpolate.output": KEEPS,
        "head.weight": "Q", "head.output": MAIN,
    },
    "bilinear": {
        "x.output": "Q", "conv.weight": "Q", "conv.output": "Q", "up.output": "Q", "interpolate.output": "Q",
        "head.weight": "Q", "head.output": MAIN,
    },
    "transposed": {
        "x.output": "Q", "up.weight": "Q", "up.output": f"fused into relu6{ACCUMULATOR}", "relu6.output": "Q",
        "head.weight": "Q", "head.output": MAIN,
    },
}  # fmt: skip


def decisions(plan):
    return {tensor.name: tensor.reason if tensor.config is None else "Q" for tensor in plan.tensors}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_tensor_is_decided_as_expected(name):
    model, inputs = built(name)
    quantized = mct.quantize(model, [inputs])
    assert mct.plan_of(quantized).capture is mct.CaptureMode.GRAPH
    assert decisions(mct.plan_of(quantized)) == EXPECTED[name]


@pytest.mark.parametrize("name", ["sequential", "projection", "in_place_residual", "transposed"])
def test_live_batch_norms_give_the_same_decisions_as_folded_ones(name):
    model, inputs = built(name)
    folded = decisions(mct.plan_of(mct.quantize(model, [inputs])))
    live = mct.plan_of(mct.prepare_qat(model, [inputs]))
    assert live.live_batch_norms
    quantized = [tensor for tensor, decision in decisions(live).items() if decision == "Q"]
    assert quantized == [tensor for tensor, decision in folded.items() if decision == "Q"]


class Everything(fx.Interpreter):
    """Every floating-point tensor that a graph makes, by node."""

    def __init__(self, module):
        super().__init__(module)
        self.values = {}

    def run_node(self, node):
        result = super().run_node(node)
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.values[node.name] = result.detach().clone()
        return result


@pytest.mark.parametrize("name", ZOO)
def test_no_tensor_is_missing_from_the_plan(name):
    model, inputs = built(name)
    quantized = mct.quantize(model, [inputs])
    plan = mct.plan_of(quantized)
    captured = capture(model, sample=inputs)
    recorder = Everything(captured.model)
    with torch.no_grad():
        recorder.run(*[item.clone() for item in inputs])
    folded = {captured.node(norm).name for norm in plan.batch_norms}
    by_node = {captured.node_names[layer]: layer for layer in captured.node_names}
    made = {by_node[node] for node in recorder.values if node not in folded and node != "output"}
    assert {tensor.site.layer for tensor in plan.tensors if tensor.site.tensor == "output"} == made
    # Matrices of layers, under the names that the user gave them.
    listed = {tensor.name for tensor in plan.tensors if tensor.is_weight}
    functional_use = {f"{layer}.output" for layer in captured.node_names}
    for parameter_name, parameter in model.named_parameters():
        used = parameter_name in listed or f"{parameter_name.replace('.', '_')}.output" in functional_use
        assert parameter.dim() < 2 or used, parameter_name
    assert all(tensor.reason for tensor in plan.skipped())


@pytest.mark.parametrize("name", ZOO)
def test_each_quantized_tensor_has_a_quantizer_of_its_own_on_the_planned_grid(name):
    model, inputs = built(name)
    quantized = mct.quantize(model, [inputs])
    plan = mct.plan_of(quantized)
    holders = [m for m in quantized.modules() if isinstance(m, PytorchActivationQuantizationHolder)]
    wrappers = {n: m for n, m in quantized.named_modules() if isinstance(m, PytorchQuantizationWrapper)}
    activations = [tensor for tensor in plan.quantized() if not tensor.is_weight]
    assert len(holders) == len(activations)
    assert len({id(holder.activation_holder_quantizer) for holder in holders}) == len(holders)
    captured = capture(model, sample=inputs)
    for tensor in activations:
        child = f"{captured.node_names[tensor.site.layer]}_activation_holder_quantizer"
        holder = getattr(quantized, child)
        assert holder.activation_holder_quantizer.params == tensor.params
        # Called exactly once, and every other user of the tensor reads the quantized one.
        (call,) = [node for node in quantized.graph.nodes if node.op == "call_module" and node.target == child]
        assert set(call.all_input_nodes[0].users) == {call}
    assert set(wrappers) == {tensor.site.layer for tensor in plan.quantized() if tensor.is_weight}
    for layer, wrapper in wrappers.items():
        (quantizer,) = wrapper.weights_quantizers.values()
        assert quantizer.params == plan[f"{layer}.weight"].params


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat])
def test_eight_bits_stay_close_to_float(name, call):
    model, inputs = built(name)
    quantized = call(model, [inputs]).eval()
    with torch.no_grad():
        expected = flat(model(*[item.clone() for item in inputs]))
        error = flat(quantized(*[item.clone() for item in inputs])) - expected
    # 8 bits keep about 0.5 % of each tensor's size in noise; the deepest of these models has eight tensors in a row.
    assert error.norm() < 0.04 * expected.norm()
    assert error.norm() > 0


@pytest.mark.parametrize("name", ["sequential", "projection", "reused", "attention", "words"])
def test_first_and_last_layers_get_the_width_that_is_named_for_them(name):
    model, inputs = built(name)
    ends = {
        "sequential": {"input_1.output", "0.0.weight", "1.2.output", "4.weight"},
        "projection": {"x.output", "stem.0.weight", "relu2.output", "head.weight"},
        "reused": {"x.output", "first.weight", "act:3.output", "second.weight"},
        "attention": {"x.output", "query.weight", "key.weight", "value.weight", "matmul_1.output", "head.weight"},
        # The positions are looked up for a constant, not for an input of the model.
        "words": {"words.weight", "mean.output", "head.weight"},
    }[name]
    plan = mct.plan_of(mct.quantize(model, [inputs], mct.QuantizationConfig.from_bits("w4a4", first_last_bits=8)))
    assert {tensor.name for tensor in plan.quantized() if tensor.config.num_bits == 8} == ends
    assert {tensor.config.num_bits for tensor in plan.quantized()} == {4, 8}
    low = mct.QuantizationConfig.from_bits("w4a4")
    plan = mct.plan_of(mct.quantize(model, [inputs], low))
    assert {tensor.config.num_bits for tensor in plan.quantized()} == {4}
    assert all(tensor.params.num_bits == 4 for tensor in plan.quantized())


@pytest.mark.parametrize("first_last_bits", [None, 8])
def test_a_quantized_output_has_a_holder_at_the_width_of_the_activations(first_last_bits):
    model, inputs = built("residual")
    config = mct.QuantizationConfig.from_bits("w4a4", quantize_output=True, first_last_bits=first_last_bits)
    quantized = mct.quantize(model, [inputs], config)
    tensor = mct.plan_of(quantized)["head.output"]
    output, scale = quantized(*inputs).detach().double(), tensor.params.scale[0]
    codes = output / scale + tensor.params.zero_point[0]
    assert (codes - codes.round()).abs().max() < 1e-4
    assert tensor.config.num_bits == 4
    assert len(output.unique()) <= 2**4


def test_rules_and_filters_reach_layers_and_operations_by_name_and_type():
    model, inputs = built("residual")
    rules = (
        mct.Rule(type="Conv2d", weight_bits=3),
        mct.Rule(name="conv2", weight_bits=6),
        mct.Rule(name=r"relu\d", activation_bits=5),
        mct.Rule(name="head", quantize=False),
    )
    plan = mct.plan_of(mct.quantize(model, [inputs], mct.QuantizationConfig(rules=rules)))
    widths = {tensor.name: tensor.config.num_bits for tensor in plan.quantized()}
    assert widths == {
        "x.output": 8, "stem.0.weight": 3, "stem.2.output": 8, "conv1.weight": 3, "relu1.output": 5,
        "conv2.weight": 6, "relu2.output": 5,
    }  # fmt: skip
    seen = {}
    config = mct.QuantizationConfig(filter=lambda layer, kind: seen.setdefault(layer, kind) not in ("add", "Conv2d"))
    mct.quantize(model, [inputs], config)
    assert (seen["add"], seen["conv1"], seen["relu1"], seen["x"]) == ("add", "Conv2d", "ReLU", "input")


def test_a_model_with_nothing_to_quantize_is_refused_with_the_reasons():
    model = nn.Sequential(nn.Linear(4, 2))
    config = mct.QuantizationConfig(filter=lambda *_: False)
    with pytest.raises(ValueError, match=r"nothing to quantize.*0\.weight: left in float by the filter"):
        mct.quantize(model, random(8, 4), config)


def test_a_parametrized_weight_stays_in_float_with_its_reason():
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 2))
    x = random(32, 4)
    for capture_mode in ("auto", "modules"):
        quantized = mct.quantize(model, x, mct.QuantizationConfig(capture=capture_mode))
        plan = mct.plan_of(quantized)
        assert "parametrization" in plan["0.weight"].reason
        assert plan["2.weight"].config is not None
        assert (quantized(x) - model(x)).norm() < 0.02 * model(x).norm()


def test_the_reason_of_an_embedding_in_float_is_true():
    model, inputs = built("words")
    rules = (mct.Rule(type="Embedding", quantize=False),)
    plan = mct.plan_of(mct.quantize(model, [inputs], mct.QuantizationConfig(rules=rules)))
    assert plan["words.weight"].config is None
    assert "quantized" not in plan["words.output"].reason


# Per channel, the right axis everywhere.
AXES = {
    "linear": (lambda: nn.Linear(4, 6), (8, 4), 0),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (8, 4, 7), 0),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), (8, 4, 7, 7), 0),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (8, 4, 4, 4, 4), 0),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (8, 4, 7, 7), 0),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (8, 4, 7, 7), 0),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (8, 4, 7), 1),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3), (8, 4, 5, 5), 1),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (8, 4, 5, 5), 1),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 2), (8, 4, 3, 3, 3), 1),
    "embedding": (lambda: nn.Embedding(10, 6), None, 0),
}


@pytest.mark.parametrize("kind", AXES)
@pytest.mark.parametrize("num_bits", [4, 8])
def test_weights_are_quantized_per_channel_as_a_loop_over_slices_does(kind, num_bits):
    make, shape, axis = AXES[kind]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    with torch.no_grad():
        spread = torch.logspace(-2, 2, model[0].weight.shape[axis])
        model[0].weight.mul_(spread.reshape([-1 if i == axis else 1 for i in range(model[0].weight.dim())]))
    x = torch.randint(0, 10, (8, 3)) if shape is None else random(*shape)
    weights = mct.TensorConfig(num_bits, granularity="per_channel", range_search="min_max")
    config = mct.QuantizationConfig(weights=weights, first_last_bits=None)
    quantized = mct.quantize(model, x, config)
    received = quantized.get_submodule("0").get_quantized_weights()["weight"].detach().numpy()
    weight = model[0].weight.detach().numpy()
    quant_max = 2 ** (num_bits - 1) - 1
    for index in range(weight.shape[axis]):
        part = np.take(weight, index, axis=axis)
        scale = np.float32(max(float(part.max()) / quant_max, -float(part.min()) / (quant_max + 1)))
        expected = np.clip(np.round(part / scale), -quant_max - 1, quant_max) * scale
        assert np.array_equal(np.take(received, index, axis=axis), expected.astype(np.float32))


def test_integers_of_a_weight_are_one_call_away():
    model, inputs = built("sequential")
    wrapper = mct.quantize(model, [inputs]).get_submodule("4")
    quantizer = wrapper.weights_quantizers["weight"]
    codes = quantizer.quantize(wrapper.weight)
    assert codes.dtype == torch.int32
    assert (codes.min() >= -128) & (codes.max() <= 127)
    assert torch.equal(codes, arithmetic.quantize(wrapper.weight.detach(), quantizer.params, torch_ops))
    assert torch.equal(quantizer.dequantize(codes), wrapper.get_quantized_weights()["weight"])


def test_every_operation_of_the_tables_is_one_of_torch():
    from model_compression_toolkit.core.pytorch.operators import _FUNCTIONS, _METHODS, Kind, kind_of_module

    every = [function for functions in _FUNCTIONS.values() for function in set(functions)]
    assert len(set(every)) == len(every)
    methods = [name for names in _METHODS.values() for name in names]
    assert all(hasattr(torch.Tensor, name) for name in methods)
    assert operator.add in _FUNCTIONS[Kind.ADD]
    assert functional.relu in _FUNCTIONS[Kind.ACTIVATION]
    assert kind_of_module(nn.Softmax(dim=1)) is Kind.OTHER

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch_samples import Doubling, FlaggedModule, FlaggedQuantizer, FreezesToPlainObject, StepQuantizer

from mct_quantizers import PytorchQuantizationWrapper, pytorch_quantizers
from mct_quantizers.pytorch.quantizers import (
    BasePyTorchInferableQuantizer,
    WeightsPOTInferableQuantizer,
    WeightsSymmetricInferableQuantizer,
    WeightsUniformInferableQuantizer,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def per_tensor(num_bits: int = 4, threshold: float = 1.0) -> WeightsSymmetricInferableQuantizer:
    return WeightsSymmetricInferableQuantizer(num_bits, threshold, per_channel=False)


def linear() -> nn.Linear:
    layer = nn.Linear(5, 3)
    with torch.no_grad():
        layer.weight.copy_(random(3, 5))
        layer.bias.copy_(random(3, seed=1))
    return layer


# Named weights: layer, axis of its output channels (or of the channels chosen), input, functional form.
NAMED = {
    "Linear": (lambda: nn.Linear(5, 4), 0, (3, 5), F.linear),
    "Linear_by_input": (lambda: nn.Linear(5, 4), 1, (3, 5), F.linear),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3), 0, (2, 3, 9), F.conv1d),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3), 0, (2, 3, 7, 7), F.conv2d),
    "Conv2d_last_axis": (lambda: nn.Conv2d(3, 4, 3), -1, (2, 3, 7, 7), F.conv2d),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), 0, (1, 2, 4, 4, 4), F.conv3d),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 2), 1, (2, 3, 5), F.conv_transpose1d),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 2), 1, (2, 3, 5, 5), F.conv_transpose2d),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2), 1, (1, 2, 3, 3, 3), F.conv_transpose3d),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), 0, (2, 4, 5, 5), lambda *a: F.conv2d(*a, groups=2)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), 0, (2, 4, 5, 5), lambda *a: F.conv2d(*a, groups=4)),
    "strided": (
        lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2),
        0,
        (2, 3, 9, 9),
        lambda *a: F.conv2d(*a, stride=2, padding=1, dilation=2),
    ),
}


def quantized_by_slices(weight: torch.Tensor, axis: int, num_bits: int, low: list, high: list) -> torch.Tensor:
    """The uniform formula in float64, one slice and one number after the other."""
    outputs = weight.clone()
    for channel, (smallest, largest) in enumerate(zip(low, high, strict=True)):
        step = (largest - smallest) / (2**num_bits - 1)
        zero_point = -round(smallest / step)
        scale = torch.tensor(step).item()  # float32, as every engine divides
        values = [
            (min(max(round(torch.tensor(x / scale).item()) + zero_point, 0), 2**num_bits - 1) - zero_point) * scale
            for x in weight.select(axis, channel).reshape(-1).tolist()
        ]
        target = outputs.select(axis, channel)
        target.copy_(torch.tensor(values).view_as(target))
    return outputs


@pytest.mark.parametrize("name", NAMED)
def test_layer_runs_with_its_weight_quantized_along_the_axis(name):
    make, axis, shape, function = NAMED[name]
    layer, x = make(), random(*shape)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    channels = weight.shape[axis]
    # Steps and zero points whose ranges are exact and need no repair.
    steps = [0.125 * (1 + channel % 2) for channel in range(channels)]
    low = [-(2 + channel % 3) * step for channel, step in enumerate(steps)]
    high = [end + 7 * step for end, step in zip(low, steps, strict=True)]
    wrapper = PytorchQuantizationWrapper(
        layer, {"weight": WeightsUniformInferableQuantizer(3, low, high, per_channel=True, channel_axis=axis)}
    )
    expected = quantized_by_slices(weight, axis, 3, low, high)
    assert torch.equal(wrapper.get_quantized_weights()["weight"], expected)
    assert not torch.equal(expected, weight)
    # The same function on the same numbers.
    assert torch.equal(wrapper(x), function(x, expected, bias))
    assert torch.equal(wrapper.weight, weight)


def test_embedding_looks_up_quantized_rows():
    layer = nn.Embedding(6, 4)
    weight, tokens = layer.weight.detach().clone(), torch.tensor([[0, 5], [3, 3]])
    thresholds = [0.5, 1.0, 2.0, 0.25, 1.0, 4.0]
    quantizer = WeightsPOTInferableQuantizer(4, thresholds, per_channel=True, channel_axis=0)
    wrapper = PytorchQuantizationWrapper(layer, {"weight": quantizer})
    rows = [torch.clamp(torch.round(weight[row] / (t / 8)), -8, 7) * (t / 8) for row, t in enumerate(thresholds)]
    assert torch.equal(wrapper(tokens), F.embedding(tokens, torch.stack(rows)))


def test_several_weights_are_quantized_each_by_its_own():
    layer, x = linear(), random(2, 5)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    wrapper = PytorchQuantizationWrapper(layer, {"weight": per_tensor(4), "bias": per_tensor(2, 2.0)})
    assert torch.equal(wrapper(x), F.linear(x, per_tensor(4)(weight), per_tensor(2, 2.0)(bias)))
    assert wrapper.num_weights_quantizers == 2
    assert wrapper.is_weights_quantization
    assert set(wrapper.state_dict()) == {
        "weight",
        "bias",
        "weight_quantizer.scale",
        "weight_quantizer.zero_point",
        "weight_quantizer.quantization_grid",
        "bias_quantizer.scale",
        "bias_quantizer.zero_point",
        "bias_quantizer.quantization_grid",
    }


def test_weight_shared_by_two_layers_stays_shared():
    first, second, x = nn.Linear(4, 4), nn.Linear(4, 4), random(2, 4)
    second.weight = first.weight
    wrappers = [PytorchQuantizationWrapper(layer, {"weight": per_tensor()}) for layer in (first, second)]
    assert wrappers[0].weight is wrappers[1].weight
    assert len({id(parameter) for wrapper in wrappers for parameter in wrapper.parameters()}) == 3
    with torch.no_grad():
        wrappers[0].weight.add_(0.25)
    assert torch.equal(wrappers[1](x), F.linear(x, per_tensor()(wrappers[0].weight), second.bias))


def test_quantizer_may_be_replaced():
    wrapper, x = PytorchQuantizationWrapper(linear(), {"weight": per_tensor(4)}), random(2, 5)
    wrapper.set_quantizer("weight", per_tensor(2, 2.0))
    assert torch.equal(wrapper(x), F.linear(x, per_tensor(2, 2.0)(wrapper.weight), wrapper.layer.bias))
    assert wrapper.state_dict()["weight_quantizer.scale"].tolist() == [1.0]
    assert wrapper.num_weights_quantizers == 1


def test_wrapper_without_quantizers_is_its_layer():
    layer, x = linear(), random(2, 5)
    wrapper = PytorchQuantizationWrapper(layer, {})
    assert torch.equal(wrapper(x), layer(x))
    assert not wrapper.is_weights_quantization
    wrapper.convert_to_inferable_quantizers()
    assert wrapper.get_weights_vars() == []


# Positional weights.


@pytest.mark.parametrize("position", [0, 1])
def test_function_gets_its_quantized_weight_at_its_position(position):
    value, x = random(4, 4), random(4, 4, seed=1)
    wrapper = PytorchQuantizationWrapper(torch.matmul, {position: per_tensor()}, {position: value})
    quantized = per_tensor()(value)
    expected = torch.matmul(quantized, x) if position == 0 else torch.matmul(x, quantized)
    assert torch.equal(wrapper(x), expected)
    assert set(wrapper.state_dict()) == {
        f"positional_weight_{position}",
        f"positional_weight_{position}_quantizer.scale",
        f"positional_weight_{position}_quantizer.zero_point",
        f"positional_weight_{position}_quantizer.quantization_grid",
    }
    assert not wrapper.get_parameter(f"positional_weight_{position}").requires_grad


def test_positions_fill_up_in_ascending_order():
    weight, bias, x = random(3, 5), random(3, seed=1), random(2, 5, seed=2)
    quantizers = {2: per_tensor(2, 2.0), 1: per_tensor(4)}
    wrapper = PytorchQuantizationWrapper(F.linear, quantizers, {2: bias, 1: weight})
    assert torch.equal(wrapper(x), F.linear(x, per_tensor(4)(weight), per_tensor(2, 2.0)(bias)))
    assert [key for key, _, _ in wrapper.get_weights_vars()] == [1, 2]


def test_call_arguments_follow_the_inputs():
    value, x = random(2, 3), random(2, 3, seed=1)
    wrapper = PytorchQuantizationWrapper(
        torch.addcmul,
        {0: per_tensor()},
        {0: value},
        op_call_args=[torch.full((2, 3), 2.0)],
        op_call_kwargs={"value": 0.5},
    )
    expected = per_tensor()(value) + 0.5 * (x * 2.0)
    # The same products of powers of two, and one sum.
    assert torch.equal(wrapper(x), expected)
    # What is given at the call wins.
    assert torch.equal(wrapper(x, value=0.25), per_tensor()(value) + 0.25 * (x * 2.0))
    assert wrapper.op_call_kwargs == {"value": 0.5}


def test_inputs_may_go_in_as_one_list():
    value, x = random(2, 3), random(2, 3, seed=1)
    wrapper = PytorchQuantizationWrapper(
        torch.cat, {1: per_tensor()}, {1: value}, op_call_args=[1], is_inputs_as_list=True
    )
    assert torch.equal(wrapper(x), torch.cat([x, per_tensor()(value)], 1))
    by_word = PytorchQuantizationWrapper(
        torch.cat, {0: per_tensor()}, {0: value}, op_call_kwargs={"dim": 0}, is_inputs_as_list=True
    )
    assert torch.equal(by_word(x), torch.cat([per_tensor()(value), x], 0))
    assert torch.equal(by_word(x, dim=1), torch.cat([per_tensor()(value), x], 1))


def test_module_with_named_weights_takes_call_arguments_too():
    class Scaled(nn.Linear):
        def forward(self, inputs, factor, shift=0.0):
            first = inputs[0] if isinstance(inputs, list) else inputs
            return super().forward(first) * factor + shift

    layer, x = Scaled(5, 3), random(2, 5)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    expected = F.linear(x, per_tensor()(weight), bias) * 2.0
    wrapper = PytorchQuantizationWrapper(layer, {"weight": per_tensor()}, op_call_args=[2.0], is_inputs_as_list=True)
    assert torch.equal(wrapper(x), expected)
    assert torch.equal(wrapper(x, shift=1.0), expected + 1.0)


# Trainable quantizers.


def test_gradient_reaches_the_float_weight_and_the_learned_step():
    layer, x = linear(), random(7, 5)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    wrapper = PytorchQuantizationWrapper(layer, {"weight": StepQuantizer(0.25)})
    upstream = random(7, 3, seed=2)
    wrapper(x).backward(upstream)
    # Round is straight through: the gradient to the weight is that of the linear layer.
    reference = weight.clone().requires_grad_()
    F.linear(x, reference, bias).backward(upstream)
    # (g · s) / s of the chain, float32, step 1/4: exact.
    assert torch.equal(wrapper.weight.grad, reference.grad)
    residue = torch.round(weight / 0.25) - weight / 0.25
    expected = (residue * reference.grad).sum()
    # Two float32 sums of 15 terms that partly cancel; each term is below 4 * 20.
    assert abs(wrapper.weight_step.grad.item() - expected.item()) <= 15 * 4 * 20 * 2.0**-24
    assert set(dict(wrapper.named_parameters())) == {"weight", "weight_step", "layer.bias"}


def test_one_training_step_changes_what_the_layer_computes():
    wrapper, x = PytorchQuantizationWrapper(linear(), {"weight": StepQuantizer(0.25)}), random(7, 5)
    before = wrapper(x)
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=0.005)
    before.square().sum().backward()
    optimizer.step()
    assert wrapper(x).square().sum() < before.square().sum()


def test_frozen_weight_stays_frozen():
    layer = linear()
    layer.weight.requires_grad_(False)
    wrapper = PytorchQuantizationWrapper(layer, {"weight": per_tensor()})
    assert not wrapper.weight.requires_grad
    assert wrapper.layer.bias.requires_grad


def test_inferable_quantizer_does_not_freeze_the_weight():
    wrapper = PytorchQuantizationWrapper(linear(), {"weight": per_tensor()})
    wrapper(random(2, 5))
    assert wrapper.weight.requires_grad


def test_quantizer_is_initialized_with_shape_name_and_wrapper():
    quantizer = StepQuantizer()
    wrapper = PytorchQuantizationWrapper(linear(), {"weight": quantizer})
    assert tuple(quantizer.tensor_shape) == (3, 5)
    assert quantizer.name == "weight"
    assert quantizer.layer_type is PytorchQuantizationWrapper
    assert quantizer.step is wrapper.get_parameter("weight_step")


@pytest.mark.parametrize("make", [FlaggedQuantizer, FlaggedModule])
def test_training_flag_is_passed_to_a_quantizer_that_asks_for_it(make):
    layer, x = linear(), random(2, 5)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    quantizer = make()
    wrapper = PytorchQuantizationWrapper(layer, {"weight": quantizer})
    in_training = {FlaggedQuantizer: weight * 2, FlaggedModule: weight * 3.0}[make]
    in_evaluation = {FlaggedQuantizer: torch.round(weight / 0.25) * 0.25, FlaggedModule: weight}[make]
    for training, expected in ((True, in_training), (False, in_evaluation), (True, in_training)):
        wrapper.train(training)
        assert torch.equal(wrapper(x), F.linear(x, expected, bias))
        assert torch.equal(wrapper.get_quantized_weights()["weight"], expected)


def test_training_flag_reaches_a_module_that_overrides_its_call():
    class Called(BasePyTorchInferableQuantizer):
        def __call__(self, inputs, training):
            return inputs * 2 if training else inputs

    layer, x = linear(), random(2, 5)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    wrapper = PytorchQuantizationWrapper(layer, {"weight": Called()})
    assert torch.equal(wrapper(x), F.linear(x, weight * 2, bias))
    assert torch.equal(wrapper.eval()(x), F.linear(x, weight, bias))


def test_conversion_puts_the_frozen_quantizer_in_place():
    wrapper, x = PytorchQuantizationWrapper(linear(), {"weight": StepQuantizer(0.25)}), random(2, 5)
    # 8 bits of step 1/4 reach ±32: nothing is clipped, so training and inference agree exactly.
    before = wrapper(x)
    weight = wrapper.weight
    wrapper.convert_to_inferable_quantizers()
    ((key, variable, quantizer),) = wrapper.get_weights_vars()
    assert (key, type(quantizer)) == ("weight", WeightsSymmetricInferableQuantizer)
    assert variable is weight is wrapper.weight
    assert torch.equal(wrapper(x), before)
    assert "weight_quantizer.scale" in wrapper.state_dict()


def test_conversion_twice_and_of_inferable_quantizers_changes_nothing():
    x = random(2, 5)
    wrapper = PytorchQuantizationWrapper(linear(), {"weight": StepQuantizer(), "bias": per_tensor()})
    wrapper.convert_to_inferable_quantizers()
    quantizers, before = dict(wrapper.weights_quantizers), wrapper(x)
    state = set(wrapper.state_dict())
    wrapper.convert_to_inferable_quantizers()
    assert wrapper.weights_quantizers == quantizers
    assert wrapper.num_weights_quantizers == 2
    assert set(wrapper.state_dict()) == state
    assert torch.equal(wrapper(x), before)


def test_conversion_of_a_module_leaves_no_state_of_it_behind():
    wrapper = PytorchQuantizationWrapper(linear(), {"weight": FlaggedModule()})
    assert "weight_quantizer.gain" in wrapper.state_dict()
    wrapper.convert_to_inferable_quantizers()
    assert isinstance(wrapper.weights_quantizers["weight"], WeightsPOTInferableQuantizer)
    assert "weight_quantizer.gain" not in wrapper.state_dict()


def test_module_may_freeze_to_a_plain_object():
    wrapper, x = PytorchQuantizationWrapper(linear(), {"weight": FreezesToPlainObject()}), random(2, 5)
    wrapper.convert_to_inferable_quantizers()
    assert isinstance(wrapper.weights_quantizers["weight"], Doubling)
    assert torch.equal(wrapper(x), F.linear(x, wrapper.weight * 2, wrapper.layer.bias))
    assert "weight_quantizer.gain" not in wrapper.state_dict()


def test_positional_quantizers_convert_too():
    value, x = random(5, 3), random(2, 5)
    wrapper = PytorchQuantizationWrapper(torch.matmul, {1: StepQuantizer(0.25)}, {1: value})
    before = wrapper(x)
    wrapper.convert_to_inferable_quantizers()
    assert torch.equal(wrapper(x), before)
    assert isinstance(wrapper.weights_quantizers[1], WeightsSymmetricInferableQuantizer)


def test_weights_vars_are_key_parameter_and_quantizer():
    quantizer = per_tensor()
    wrapper = PytorchQuantizationWrapper(linear(), {"weight": quantizer})
    ((key, variable, found),) = wrapper.get_weights_vars()
    assert key == "weight"
    assert variable is wrapper.weight
    assert isinstance(variable, nn.Parameter)
    assert found is quantizer


def test_quantized_weights_are_what_the_formula_says():
    wrapper = PytorchQuantizationWrapper(linear(), {"weight": per_tensor()})
    weights = wrapper.get_quantized_weights()
    assert list(weights) == ["weight"]
    assert torch.equal(weights["weight"], torch.clamp(torch.round(wrapper.weight / 0.125), -8, 7) * 0.125)


# State (C2, C4).


def wrapped() -> PytorchQuantizationWrapper:
    torch.manual_seed(0)
    quantizer = WeightsUniformInferableQuantizer(4, [-1.0, -0.5, -0.7], [1.0, 0.9, 0.1], True, 0)
    return PytorchQuantizationWrapper(linear(), {"weight": quantizer})


def matmul() -> PytorchQuantizationWrapper:
    return PytorchQuantizationWrapper(torch.matmul, {1: per_tensor()}, {1: random(5, 3)})


def trained() -> PytorchQuantizationWrapper:
    return PytorchQuantizationWrapper(linear(), {"weight": StepQuantizer(0.25)})


every_wrapper = pytest.mark.parametrize("make", [wrapped, matmul, trained])


def test_state_has_the_promised_keys_before_and_after_a_call():
    wrapper = wrapped()
    own = [f"weight_quantizer.{name}" for name in ("scale", "zero_point", "quantization_grid")]
    assert sorted(wrapper.state_dict()) == sorted(["weight", "layer.bias", *own])
    shapes = {key: value.shape for key, value in wrapper.state_dict().items()}
    wrapper(random(2, 5))
    assert {key: value.shape for key, value in wrapper.state_dict().items()} == shapes
    assert shapes["weight_quantizer.scale"] == (3,)


@every_wrapper
def test_state_loads_strictly_into_a_fresh_wrapper(make):
    source, x = make(), random(2, 5)
    with torch.no_grad():
        for name, value in source.state_dict().items():
            if value.is_floating_point() and not name.endswith("quantization_grid"):
                value.mul_(1.5)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    fresh = make()
    before = fresh(x)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(x), source(x))
    assert not torch.equal(fresh(x), before)


@every_wrapper
@pytest.mark.parametrize("after_forward", [False, True])
def test_copies_compute_alike_and_share_nothing(make, after_forward):
    wrapper, x = make(), random(2, 5)
    if after_forward:
        wrapper(x).sum().detach()
    expected = wrapper(x).detach()
    for clone in (copy.deepcopy(wrapper), pickle.loads(pickle.dumps(wrapper))):
        assert torch.equal(clone(x), expected)
        with torch.no_grad():
            for value in clone.state_dict().values():
                value.mul_(2)
        assert not torch.equal(clone(x), expected)
        assert torch.equal(wrapper(x), expected)


@every_wrapper
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("after_forward", [False, True])
def test_averaged_model_follows_the_wrapper(make, use_buffers, after_forward):
    wrapper, x = make(), random(2, 5)
    if after_forward:
        wrapper(x)
    average = AveragedModel(wrapper, use_buffers=use_buffers)
    average.update_parameters(wrapper)
    assert torch.equal(average(x), wrapper(x))
    with torch.no_grad():
        for parameter in wrapper.parameters():
            parameter.add_(1.0)
    average.update_parameters(wrapper)
    for mean, parameter in zip(average.module.parameters(), wrapper.parameters(), strict=True):
        # Mean of p and p + 1, rounded a few times.
        torch.testing.assert_close(mean, parameter - 0.5, rtol=2.0**-20, atol=2.0**-20)


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_weights_change_their_type_and_scales_do_not(change):
    wrapper = wrapped()
    scale = wrapper.weights_quantizers["weight"].scale.clone()
    getattr(wrapper, change)()
    dtype = {"half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64}[change]
    assert wrapper.weight.dtype == dtype
    assert torch.equal(wrapper.weight_quantizer.scale, scale)
    assert wrapper.weight_quantizer.scale.dtype == torch.float32
    outputs = wrapper(random(2, 5).to(dtype))
    assert outputs.dtype == dtype
    weights = wrapper.weight_quantizer(wrapper.weight)
    assert torch.equal(outputs, F.linear(random(2, 5).to(dtype), weights, wrapper.layer.bias))


def test_wrapper_moves_to_a_device_as_a_whole():
    for make in (wrapped, matmul):
        wrapper = make().to("meta")
        assert {value.device.type for value in wrapper.state_dict().values()} == {"meta"}
        assert wrapper(torch.empty(2, 5, device="meta")).shape == (2, 3)


# Compilation and export (C5).


@pytest.mark.parametrize("make", [wrapped, matmul])
def test_compiled_wrapper_equals_eager(make):
    torch._dynamo.reset()
    wrapper, x = make(), random(2, 5)
    compiled = torch.compile(wrapper, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), wrapper(x))
    # The layer is as it was.
    assert torch.equal(wrapper(x), compiled(x))


def test_compiled_training_wrapper_has_the_gradients_of_eager():
    torch._dynamo.reset()
    gradients = []
    for compile_it in (False, True):
        wrapper = trained()
        model = torch.compile(wrapper, fullgraph=True, backend="aot_eager") if compile_it else wrapper
        model(random(2, 5)).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in wrapper.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys() == {"weight", "weight_step", "layer.bias"}
    for name, gradient in gradients[0].items():
        # The same operations; only the order of a sum of 15 may differ.
        torch.testing.assert_close(gradients[1][name], gradient, rtol=15 * 2.0**-24, atol=1e-6)


@pytest.mark.parametrize("make", [wrapped, matmul])
def test_exported_wrapper_equals_eager(make):
    wrapper, x = make().eval(), random(2, 5)
    exported = torch.export.export(wrapper, (x,))
    assert torch.equal(exported.module()(x), wrapper(x))
    assert set(exported.state_dict) >= {name for name, _ in wrapper.named_parameters()}


# Failure.


def test_exception_inside_the_layer_leaves_the_wrapper_usable():
    class Fragile(nn.Linear):
        fails = False

        def forward(self, x):
            if self.fails:
                raise RuntimeError("broken on purpose")
            return super().forward(x)

    layer, x = Fragile(5, 3), random(2, 5)
    wrapper = PytorchQuantizationWrapper(layer, {"weight": per_tensor(), "bias": per_tensor()})
    expected, state = wrapper(x), sorted(wrapper.state_dict())
    layer.fails = True
    with pytest.raises(RuntimeError, match="broken on purpose"):
        wrapper(x)
    layer.fails = False
    assert torch.equal(wrapper(x), expected)
    assert sorted(wrapper.state_dict()) == state
    assert torch.equal(copy.deepcopy(wrapper)(x), expected)


def test_input_of_the_wrong_shape_leaves_the_wrapper_usable():
    wrapper, x = wrapped(), random(2, 5)
    expected = wrapper(x)
    with pytest.raises(RuntimeError, match="shapes"):
        wrapper(random(2, 4))
    assert torch.equal(wrapper(x), expected)


WEIGHT = torch.ones(5, 3)
BAD_ARGUMENTS = {
    "module_not_callable": ((3, {}), TypeError, "`module`.*3"),
    "quantizers_not_a_mapping": ((linear, [per_tensor()]), TypeError, "`weights_quantizers`.*WeightsSymmetric"),
    "mixed_keys": ((linear, {"weight": per_tensor(), 0: per_tensor()}), TypeError, "`weights_quantizers`.*weight.*0"),
    "key_of_wrong_type": ((linear, {1.5: per_tensor()}), TypeError, r"`weights_quantizers`.*1\.5"),
    "key_bool": ((linear, {True: per_tensor()}, {True: WEIGHT}), TypeError, "`weights_quantizers`.*True"),
    "unknown_attribute": ((linear, {"kernel": per_tensor()}), ValueError, "`weights_quantizers`.*'kernel'.*Linear"),
    "attribute_no_tensor": ((linear, {"in_features": per_tensor()}), ValueError, "`weights_quantizers`.*'in_features'"),
    "bias_that_is_none": (
        (lambda: nn.Linear(5, 3, bias=False), {"bias": per_tensor()}),
        ValueError,
        "`weights_quantizers`.*'bias'",
    ),
    "quantizer_not_callable": ((linear, {"weight": "8 bits"}), TypeError, "weights_quantizers.*'8 bits'"),
    "quantizer_none": ((linear, {"weight": None}), TypeError, "weights_quantizers.*None"),
    "quantizer_a_function": ((linear, {"weight": torch.relu}), TypeError, "weights_quantizers.*relu"),
    "no_value": ((torch.matmul, {1: per_tensor()}), ValueError, "`weight_values`.*1"),
    "value_of_other_position": (
        (torch.matmul, {1: per_tensor()}, {0: WEIGHT}),
        ValueError,
        "`weight_values`.*1",
    ),
    "value_too_many": (
        (torch.matmul, {1: per_tensor()}, {1: WEIGHT, 2: WEIGHT}),
        ValueError,
        r"`weight_values`.*\[1, 2\].*\[1\]",
    ),
    "values_for_named": ((linear, {"weight": per_tensor()}, {0: WEIGHT}), ValueError, r"`weight_values`.*\[0\]"),
    "value_without_quantizer": ((torch.matmul, {}, {0: WEIGHT}), ValueError, r"`weight_values`.*\[0\]"),
    "value_no_tensor": (
        (torch.matmul, {1: per_tensor()}, {1: [[1.0]]}),
        (TypeError, ValueError),
        r"`weight_values.*\[\[1\.0\]\]",
    ),
    "values_not_a_mapping": ((torch.matmul, {0: per_tensor()}, [WEIGHT]), TypeError, "`weight_values`"),
    "negative_position": ((torch.matmul, {-1: per_tensor()}, {-1: WEIGHT}), ValueError, "position.*-1"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_wrong_arguments_are_refused_and_leave_the_layer_alone(name):
    (module, *rest), error, text = BAD_ARGUMENTS[name]
    if module is linear or getattr(module, "__name__", "") == "<lambda>":
        module = module()
    before = sorted(module.state_dict()) if isinstance(module, nn.Module) else None
    with pytest.raises(error, match=f"(?s){text}"):
        PytorchQuantizationWrapper(module, *rest)
    assert (sorted(module.state_dict()) if isinstance(module, nn.Module) else None) == before


def test_wrapping_twice_is_refused_and_changes_nothing():
    wrapper = PytorchQuantizationWrapper(linear(), {"weight": per_tensor()})
    state = set(wrapper.state_dict())
    for name in ("weight", "bias"):
        with pytest.raises(ValueError, match="wrapped already"):
            PytorchQuantizationWrapper(wrapper, {name: per_tensor()})
    assert set(wrapper.state_dict()) == state


def test_quantizer_that_fails_to_initialize_leaves_the_layer_alone():
    class Broken(Doubling):
        def initialize_quantization(self, tensor_shape, name, layer):
            raise RuntimeError("broken on purpose")

    layer, x = linear(), random(2, 5)
    expected = layer(x)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        PytorchQuantizationWrapper(layer, {"weight": Broken()})
    assert torch.equal(layer(x), expected)


def test_public_face_offers_the_wrapper_and_its_quantizers():
    assert pytorch_quantizers.WeightsPOTInferableQuantizer is WeightsPOTInferableQuantizer
    assert issubclass(PytorchQuantizationWrapper, nn.Module)


def test_integer_weights_are_the_codes_of_the_float_weight():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-2.0, 0.26, 0.9], [0.124, -0.126, 3.0]]))
    quantizer = pytorch_quantizers.WeightsSymmetricInferableQuantizer(3, [1.0, 2.0], True, 0)
    wrapper = PytorchQuantizationWrapper(layer, {"weight": quantizer})
    # Steps of 1/4 and 1/2, integers from -4 to 3.
    assert wrapper.get_integer_weights()["weight"].tolist() == [[-4, 1, 3], [0, 0, 3]]

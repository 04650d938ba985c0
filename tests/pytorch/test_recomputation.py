# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantized tensors that a layer needs for its backward pass are computed anew there."""

import gc

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from mct_quantizers import BaseInferableQuantizer, PytorchQuantizationWrapper
from mct_quantizers.pytorch import kernels, recomputation

LAYERS = {
    "convolution": (lambda: nn.Conv2d(3, 4, 3), (2, 3, 8, 8)),
    "convolution, channels last": (lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), (2, 3, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), (2, 3, 8, 8)),
    # Keeps views of its input and weight.
    "linear of tokens": (lambda: nn.Linear(8, 5), (2, 3, 8)),
    "linear": (lambda: nn.Linear(8, 5), (3, 8)),
}


class Learned(BaseInferableQuantizer):
    """A weight quantizer with a learned scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.1]))

    def initialize_quantization(self, tensor_shape, name, layer):
        return {}

    def __call__(self, weight):
        return kernels.fake_quantize_learned(weight, self.scale, None, -8, 7)


def case(name, seed=0):
    make, shape = LAYERS[name]
    torch.manual_seed(seed)
    layer, x = make(), torch.randn(shape)
    if "last" in name:
        x = x.to(memory_format=torch.channels_last)
    quantizer = Learned()
    scale = torch.tensor([0.2], requires_grad=True)
    return PytorchQuantizationWrapper(layer, {"weight": quantizer}), x.requires_grad_(), scale, quantizer


def gradients(name, backward=lambda loss: loss.backward()):
    wrapper, x, scale, quantizer = case(name)
    result = wrapper(kernels.fake_quantize_learned(x, scale, None, -8, 7))
    backward(result.square().sum())
    return [result, x.grad, scale.grad, wrapper.weight.grad, quantizer.scale.grad, wrapper.layer.bias.grad]


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_stored_tensors_bit_for_bit(name, monkeypatch):
    computed = []
    original = recomputation._Recipe.run
    monkeypatch.setattr(recomputation._Recipe, "run", lambda self: computed.append(1) or original(self))
    received = gradients(name)
    assert len(computed) == 2, "the input and the weight"
    monkeypatch.setattr(recomputation, "_recipe_of", lambda _: None)
    for ours, stored in zip(received, gradients(name), strict=True):
        torch.testing.assert_close(ours, stored, rtol=0, atol=0)
    assert len(computed) == 2


@pytest.mark.parametrize("stores", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_does_not_keep_its_quantized_input(name, stores, monkeypatch):
    if stores:
        monkeypatch.setattr(recomputation, "_recipe_of", lambda _: None)
    wrapper, x, scale, _ = case(name)
    quantized = kernels.fake_quantize_learned(x, scale, None, -8, 7)
    memory = StorageWeakRef(quantized.untyped_storage())
    result = wrapper(quantized)
    del quantized
    gc.collect()
    assert memory.expired() is not stores
    result.sum().backward()
    assert x.grad is not None


def test_a_graph_can_be_gone_through_again():
    once = gradients("convolution")
    twice = gradients("convolution", lambda loss: (loss.backward(retain_graph=True), loss.backward()))
    for one, two in zip(once[1:], twice[1:], strict=True):
        torch.testing.assert_close(2 * one, two, rtol=0, atol=0)


def test_gradients_of_gradients_go_through_the_layer():
    wrapper, x, scale, _ = case("linear")
    result = wrapper(kernels.fake_quantize_learned(x, scale, None, -8, 7)).square().sum()
    (first,) = torch.autograd.grad(result, wrapper.layer.bias, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), wrapper.layer.bias)
    torch.testing.assert_close(second, torch.full((5,), 2.0 * len(x)))


@pytest.mark.parametrize("changed", ["tensor", "scale"])
def test_a_change_in_place_before_the_backward_pass_is_an_error(changed):
    wrapper, x, scale, _ = case("convolution")
    result = wrapper(kernels.fake_quantize_learned(x * 1.0, scale, None, -8, 7)).sum()
    victim = scale if changed == "scale" else wrapper.weight
    with torch.no_grad():
        victim.add_(1.0)
    with pytest.raises(RuntimeError, match=r"in place|inplace"):
        result.backward()


def test_a_stored_tensor_that_changes_is_an_error():
    layer = nn.Conv2d(3, 4, 3)
    wrapper = PytorchQuantizationWrapper(layer, {"weight": Learned()})
    x = torch.randn(2, 3, 8, 8)
    result = wrapper(x).sum()
    x.add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        result.backward()


def test_hooks_of_the_user_decide_what_is_stored():
    packed = []
    wrapper, x, scale, _ = case("convolution")
    with saved_tensors_hooks(lambda tensor: packed.append(tuple(tensor.shape)) or tensor, lambda kept: kept):
        result = wrapper(kernels.fake_quantize_learned(x, scale, None, -8, 7))
    assert (2, 3, 8, 8) in packed
    assert (4, 3, 3, 3) in packed
    result.sum().backward()


@pytest.mark.parametrize("name", LAYERS)
def test_checkpointing_gives_the_same_gradients(name):
    wrapper, x, scale, quantizer = case(name)
    result = checkpoint(lambda x: wrapper(kernels.fake_quantize_learned(x, scale, None, -8, 7)), x, use_reentrant=False)
    result.square().sum().backward()
    received = [result, x.grad, scale.grad, wrapper.weight.grad, quantizer.scale.grad, wrapper.layer.bias.grad]
    for ours, stored in zip(received, gradients(name), strict=True):
        torch.testing.assert_close(ours, stored, rtol=0, atol=0)


def test_transformed_functions_differentiate_through_a_wrapper():
    wrapper, x, scale, _ = case("linear")
    plain = gradients("linear")
    parameters = dict(wrapper.named_parameters())

    def loss(parameters, x):
        quantized = kernels.fake_quantize_learned(x, scale, None, -8, 7)
        return torch.func.functional_call(wrapper, parameters, (quantized,)).square().sum()

    received = torch.func.grad(loss)(parameters, x)
    torch.testing.assert_close(received["layer.bias"], plain[-1])
    torch.testing.assert_close(received["weight"], plain[3])


CHANGES = {
    "in place": lambda x: x.add_(1.0),
    "through a view": lambda x: (x.view(-1).add_(1.0), x)[1],
    "unseen by autograd": lambda x: (x.detach().add_(1.0), x)[1],
    "scaled": lambda x: x.mul_(2.0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("is_native", [True, False])
def test_a_quantized_tensor_that_is_changed_counts_as_it_is(is_native, change, monkeypatch):
    if not is_native:
        monkeypatch.setattr("mct_quantizers.pytorch.native.fake_quantize.native_library", lambda: None)

    def weight_gradient():
        wrapper, x, scale, _ = case("linear")
        wrapper(CHANGES[change](kernels.fake_quantize_learned(x, scale, None, -8, 7))).square().sum().backward()
        return wrapper.weight.grad

    received = weight_gradient()
    monkeypatch.setattr(recomputation, "_recipe_of", lambda _: None)
    torch.testing.assert_close(received, weight_gradient(), rtol=0, atol=0)


def test_a_change_after_the_layer_has_run_does_not_reach_its_gradient():
    def weight_gradient(change):
        wrapper, x, scale, _ = case("linear")
        quantized = kernels.fake_quantize_learned(x, scale, None, -8, 7)
        result = wrapper(quantized).square().sum()
        change(quantized)
        result.backward()
        return wrapper.weight.grad

    assert torch.equal(weight_gradient(lambda x: x.add_(1.0)), weight_gradient(lambda x: x))


def test_an_input_that_changed_before_the_layer_ran_is_an_error_of_the_quantizer():
    wrapper, x, scale, _ = case("linear")
    source = x * 1.0
    quantized = kernels.fake_quantize_learned(source, scale, None, -8, 7)
    source.add_(1.0)
    result = wrapper(quantized)
    with pytest.raises(RuntimeError, match="inplace"):
        result.sum().backward()

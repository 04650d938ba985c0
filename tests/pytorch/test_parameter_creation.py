# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`register_parameter` of wrapper and holder: what modules do, and the parameter that it makes when none is given."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mct_quantizers import (
    PytorchActivationQuantizationHolder,
    PytorchFLNActivationQuantizationHolder,
    PytorchPreservingActivationQuantizationHolder,
    PytorchQuantizationWrapper,
)
from mct_quantizers.pytorch.quantizers import ActivationSymmetricInferableQuantizer, WeightsSymmetricInferableQuantizer


def wrapper():
    return PytorchQuantizationWrapper(nn.Linear(3, 2), {"weight": WeightsSymmetricInferableQuantizer(4, [2.0], False)})


def holder_of(cls):
    return lambda: cls(ActivationSymmetricInferableQuantizer(4, [2.0], signed=True))


MAKERS = {
    "wrapper": wrapper,
    **{
        cls.__name__: holder_of(cls)
        for cls in (
            PytorchActivationQuantizationHolder,
            PytorchFLNActivationQuantizationHolder,
            PytorchPreservingActivationQuantizationHolder,
        )
    },
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def layer(request):
    return request.param()


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_parameter_is_made_when_only_its_gradient_is_told(layer, requires_grad):
    assert layer.register_parameter("new", requires_grad=requires_grad) is None
    made = layer.get_parameter("new")
    assert isinstance(made, nn.Parameter)
    assert made is layer.new
    assert made.requires_grad is requires_grad
    assert (made.shape, made.dtype, made.tolist()) == ((1,), torch.float32, [1.0])
    assert "new" in dict(layer.named_parameters())
    assert "new" in layer.state_dict()


def test_what_is_made_trains_and_follows_the_module(layer):
    layer.register_parameter("new", requires_grad=True)
    (layer.new * 3).sum().backward()
    torch.optim.SGD([layer.new], lr=0.1).step()
    torch.testing.assert_close(layer.new.detach(), torch.tensor([0.7]))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.new is not layer.new
        torch.testing.assert_close(twin.new, layer.new)
    fresh = copy.deepcopy(layer)
    fresh.new.data.zero_()
    fresh.load_state_dict(layer.state_dict())
    torch.testing.assert_close(fresh.new, layer.new)
    assert layer.to("meta").new.device.type == "meta"


def test_a_parameter_that_is_given_is_registered_as_by_every_module(layer):
    given = nn.Parameter(torch.zeros(2, 3), requires_grad=False)
    layer.register_parameter("given", given)
    layer.register_parameter("by_keyword", param=given)
    layer.register_parameter(name="third", param=given)
    assert layer.given is layer.by_keyword is layer.third is given
    assert not given.requires_grad


def test_none_is_registered_as_by_every_module(layer):
    layer.register_parameter("empty", None)
    layer.register_parameter("other", param=None)
    assert layer.empty is layer.other is None
    assert "empty" not in layer.state_dict()
    layer.empty = nn.Parameter(torch.ones(3))
    assert "empty" in layer.state_dict()


def test_a_parameter_of_that_name_is_replaced(layer):
    layer.register_parameter("new", requires_grad=True)
    first = layer.new
    layer.register_parameter("new", requires_grad=False)
    assert layer.new is not first
    assert not layer.new.requires_grad


def test_both_at_once_are_refused_and_nothing_is_registered(layer):
    with pytest.raises(TypeError, match=r"`requires_grad` makes a parameter.*'both'"):
        layer.register_parameter("both", nn.Parameter(torch.ones(1)), requires_grad=True)
    assert not hasattr(layer, "both")


@pytest.mark.parametrize("arguments", [(), (None,)])
@pytest.mark.parametrize("requires_grad", [True, None])
def test_names_are_checked_as_by_every_module(layer, arguments, requires_grad):
    with pytest.raises(KeyError, match="contain"):
        layer.register_parameter("with.dot", *arguments, requires_grad=requires_grad)
    with pytest.raises(KeyError, match="empty"):
        layer.register_parameter("", *arguments, requires_grad=requires_grad)
    with pytest.raises(KeyError, match="already exists"):
        layer.register_parameter("forward", *arguments, requires_grad=requires_grad)
    with pytest.raises(TypeError, match="string"):
        layer.register_parameter(5, *arguments, requires_grad=requires_grad)


def test_a_tensor_that_is_no_parameter_is_refused(layer):
    with pytest.raises(TypeError, match=r"torch\.nn\.Parameter or None required"):
        layer.register_parameter("tensor", torch.ones(1))


def test_assignment_of_a_parameter_registers_it(layer):
    layer.assigned = nn.Parameter(torch.ones(1))
    assert "assigned" in dict(layer.named_parameters())

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A prepared model computes the same in each of torch's modes: no gradients, inference mode, `torch.func`."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct


class Parts(nn.Module):
    """A convolution, batch norm and ReLU, and what `function` gives a second convolution of it."""

    def __init__(self, function, channels):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(channels, 4, 1)
        self.function = function

    def forward(self, x):
        return self.second(self.function(torch.relu(self.norm(self.first(x)))))


MODELS = {
    "slice": lambda: Parts(lambda h: h[:, 4:], 4),
    # `list` keeps tracing out: the model is seen module by module.
    "chunks": lambda: Parts(lambda h: list(h.chunk(2, 1))[1], 4),
    "joined": lambda: Parts(lambda h: torch.cat(list(h.split([4, 4], 1))[::-1], 1), 8),
    "view": lambda: Parts(lambda h: h.flatten(2).unflatten(2, (8, 8)).transpose(2, 3), 8),
    "in_place": lambda: Parts(lambda h: functional.hardtanh_(h * 1.0, 0.0, 0.5), 8),
}
MODES = {"no_grad": torch.no_grad, "inference": torch.inference_mode}


def images():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def prepared(name):
    model = mct.prepare_qat(MODELS[name](), images(), mct.QuantizationConfig.from_bits("w4a4"))
    # Biases are no quantizer's, and leave no gradient out.
    return model.requires_grad_(True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_without_gradients_the_same_is_computed(name, mode, training):
    model, x = prepared(name).train(training), images()
    expected = copy.deepcopy(model)(x)
    with MODES[mode]():
        received = model(x)
    # In training one pass over memory computes batch norm and quantizer, which round in another order.
    torch.testing.assert_close(received, expected, atol=1e-5 if not training else 0.1, rtol=0)
    # And training goes on.
    model.train()(x).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("name", MODELS)
def test_inference_mode_goes_with_autocast(name):
    model, x = prepared(name).eval(), images()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        received = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(received, model(x))


@pytest.mark.parametrize("name", ["slice", "chunks"])
def test_gradients_of_each_image_are_those_of_single_ones(name):
    model, x = prepared(name).eval(), images()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters, image):
        return torch.func.functional_call(model, (parameters, buffers), (image[None],)).square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    model(x[2:3]).square().sum().backward()
    for key, parameter in parameters.items():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[key][2], expected, rtol=1e-4, atol=1e-4)

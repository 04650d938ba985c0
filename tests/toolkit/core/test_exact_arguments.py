# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""PyTorch models that divide, look up, compare and mask: what has to keep its values keeps them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from model_compression_toolkit.core.common.operation import Reading

MASKED = "a mask stands in it: the scores are quantized before the mask"


class Calls(nn.Module):
    """A convolution, what `function` computes of its result, small at some places, and a convolution."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), function
        # All codes of a grid for the whole tensor are zero where it is small.
        self.register_buffer("small", torch.where(torch.arange(5) < 2, 1e-3, 1.0))

    def forward(self, x):
        return self.last(self.function(self.first(x) * self.small))


def images(seed=0):
    return torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


DIVISIONS = {
    "by_hand": lambda h: h / torch.sqrt((h * h).sum(1, keepdim=True) + 1e-9),
    "normalize": lambda h: functional.normalize(h, dim=1),
    "norm": lambda h: h / h.norm(dim=1, keepdim=True).clamp_min(1e-12),
    "deviation": lambda h: (h - h.mean(1, keepdim=True)) * torch.rsqrt(h.var(1, keepdim=True) + 1e-9),
    "power": lambda h: h * h.pow(2).mean(1, keepdim=True).add(1e-9) ** -0.5,
    "reciprocal": lambda h: h * h.abs().sum(1, keepdim=True).reciprocal(),
    "logarithm": lambda h: torch.log(h.sigmoid()),
}


@pytest.mark.parametrize("name", DIVISIONS)
def test_divisions_stay_finite_at_few_bits(name):
    torch.manual_seed(0)
    model, x = Calls(DIVISIONS[name]).eval(), images()
    prepared = mct.prepare_qat(model, x, mct.QuantizationConfig.from_bits("w8a3", first_last_bits=None))
    prepared.train()
    prepared(x).square().mean().backward()
    gradients = [parameter.grad for parameter in prepared.parameters() if parameter.grad is not None]
    assert gradients
    # The float model's gradients are below 1e5 here; dividing by the epsilon instead of a length gives 1e9.
    assert all(torch.isfinite(gradient).all() and gradient.abs().max() < 1e6 for gradient in gradients)
    assert torch.isfinite(mct.finalize(prepared)(x)).all()


def test_divisors_are_listed_with_the_reason():
    plan = mct.plan_of(mct.quantize(Calls(DIVISIONS["by_hand"]).eval(), images()))
    assert plan["sqrt.output"].reason == Reading.DIVISOR.value
    assert plan["add.output"].reason == Reading.ROOT.value
    assert plan["truediv.output"].config is not None


class Attention(nn.Module):
    """Self-attention over 6 places with `mask` applied to the scores."""

    def __init__(self, mask):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.mask = mask
        self.register_buffer("future", torch.triu(torch.ones(6, 6, dtype=torch.bool), 1))
        self.register_buffer("visible", (~self.future).float())

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(1, 2) / 8**0.5
        return self.o(self.mask(self, scores).softmax(-1) @ self.v(x))


LEAST = torch.finfo(torch.float32).min
MASKS = {
    "masked_fill": lambda value: lambda m, s: s.masked_fill(m.future, value),
    "where": lambda value: lambda m, s: torch.where(m.future, value, s),
    "added": lambda value: lambda m, s: s + (1.0 - m.visible) * value,
    "subtracted": lambda value: lambda m, s: s - (1.0 - m.visible) * -value,
    "then_scaled": lambda value: lambda m, s: s.masked_fill(m.future, value) * 0.5,
    "tensor": lambda value: lambda m, s: torch.where(m.future, torch.full([], value), s),
}


@pytest.mark.parametrize("name", MASKS)
def test_attention_does_not_depend_on_the_value_of_the_mask(name):
    # 0 · -inf is NaN.
    values = (-1e4, LEAST) if name in ("added", "subtracted") else (-1e4, float("-inf"))
    results = []
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0)) * 2
    for value in values:
        torch.manual_seed(0)
        model = Attention(MASKS[name](value)).eval()
        quantized = mct.quantize(model, x)
        # 8 bits; the error was 0.7 with the mask in the grid of the scores.
        assert (quantized(x) - model(x)).abs().max() < 0.03 * model(x).abs().max()
        results.append(quantized(x))
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_small_mask_is_treated_as_a_large_one():
    torch.manual_seed(0)
    model, x = Attention(MASKS["masked_fill"](-20.0)).eval(), torch.randn(4, 6, 8)
    quantized = mct.quantize(model, x)
    plan = mct.plan_of(quantized)
    assert plan["masked_fill.output"].reason == MASKED
    assert plan["truediv.output"].config is not None
    assert (quantized(x) - model(x)).abs().max() < 0.03 * model(x).abs().max()


def test_a_mask_that_is_an_input_keeps_its_values():
    class Masked(Attention):
        def forward(self, x, mask):
            scores = self.q(x) @ self.k(x).transpose(1, 2) / 8**0.5
            return self.o((scores + (1.0 - mask[:, None, :]) * LEAST).softmax(-1) @ self.v(x))

    torch.manual_seed(0)
    model, x, mask = Masked(None).eval(), torch.randn(4, 6, 8), (torch.arange(6) < 4).float().expand(4, 6)
    quantized = mct.quantize(model, [[x, mask]])
    assert (quantized(x, mask) - model(x, mask)).abs().max() < 0.03 * model(x, mask).abs().max()
    assert mct.plan_of(quantized)["mask.output"].reason == Reading.MASK.value


@pytest.mark.parametrize("value", [-1e9, float("-inf")])
@pytest.mark.parametrize("has_bias", [False, True])
def test_masks_of_fused_attention_keep_their_values(value, has_bias):
    class Fused(Attention):
        def forward(self, x):
            mask = torch.where(self.future, value, 0.0)
            if has_bias:
                mask = self.q.weight[:6, :6] * x.mean() + self.k(x)[:, :, :6] + mask
            return self.o(functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), mask))

    torch.manual_seed(0)
    model, x = Fused(None).eval(), torch.randn(4, 6, 8)
    quantized = mct.quantize(model, x)
    assert (quantized(x) - model(x)).abs().max() < 0.03 * model(x).abs().max()


class Indexed(nn.Module):
    """Looks up the first of its inputs' columns, as floats; the others go through a layer."""

    def __init__(self, cast):
        super().__init__()
        self.rows, self.dense, self.head, self.cast = nn.Embedding(1000, 8), nn.Linear(3, 8), nn.Linear(8, 2), cast

    def forward(self, x):
        return self.head(self.rows(self.cast(x[:, 0])) + self.dense(x[:, 1:]))


@pytest.mark.parametrize("cast", [lambda x: x.long(), lambda x: x.to(torch.int64), lambda x: x.to(dtype=torch.int32)])
def test_numbers_that_are_cast_to_indices_keep_their_values(cast):
    torch.manual_seed(0)
    x = torch.cat([torch.randint(0, 1000, (64, 1)).float(), torch.randn(64, 3)], 1)
    model = Indexed(cast).eval()
    quantized = mct.quantize(model, x)
    plan = mct.plan_of(quantized)
    assert plan["x.output"].reason == Reading.INTEGER.value
    assert plan["getitem_1.output"].config is not None, "what the layer reads has a grid of its own"
    assert plan["getitem_1.output"].params.scale < 0.1
    assert (quantized(x) - model(x)).square().mean() < 1e-3 * model(x).square().mean()


def test_values_that_mark_padding_keep_their_values():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(3, 2)

        def forward(self, x):
            return self.dense(x) * (x != -0.3).all(-1, keepdim=True)

    torch.manual_seed(0)
    model, x = Padded().eval(), torch.randn(32, 3)
    x[::2] = -0.3
    quantized = mct.quantize(model, x)
    assert mct.plan_of(quantized)["x.output"].reason == Reading.EQUALITY.value
    assert (quantized(x)[::2] == 0).all()

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from mct_quantizers.common import arithmetic
from mct_quantizers.pytorch import ops as torch_ops
from model_compression_toolkit.core.pytorch.batch_norm import (
    LiveBatchNorm,
    affine_of,
    fold_batch_norm,
    make_factors_positive,
)
from model_compression_toolkit.core.pytorch.surgery import wrapper_of

LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), nn.BatchNorm1d, (5, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d, (5, 4, 7, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d, (5, 4, 7, 6)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d, (5, 4, 7, 6)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), nn.BatchNorm3d, (5, 4, 4, 4, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d, (5, 4, 9)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d, (5, 4, 5, 5)),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d, (5, 4, 5, 5)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 2), nn.BatchNorm3d, (5, 4, 3, 3, 3)),
    "linear": (lambda: nn.Linear(4, 6), nn.BatchNorm1d, (8, 4)),
}
kinds = pytest.mark.parametrize("kind", LAYERS)
SPECIAL_GAMMAS = (0.0, -1.5, 2.0, -0.3)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def worn_norm(cls, channels, **arguments):
    """A batch norm as training leaves it, with factors of zero and below."""
    norm = cls(channels, **arguments).eval()
    with torch.no_grad():
        norm.running_mean.copy_(random(channels, seed=1))
        norm.running_var.copy_(random(channels, seed=2).square() + 0.1)
        if norm.weight is not None:
            gammas = [SPECIAL_GAMMAS[i % 4] for i in range(channels)]
            norm.weight.copy_(torch.tensor(gammas))
            norm.bias.copy_(random(channels, seed=3))
    return norm


def pair(kind, **arguments):
    torch.manual_seed(0)
    make, norm_class, shape = LAYERS[kind]
    layer = make()
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return layer, worn_norm(norm_class, channels, **arguments), random(*shape, seed=4)


def oracle(layer, norm, x):
    """Layer and batch norm in float64."""
    with torch.no_grad():
        return copy.deepcopy(norm).double()(copy.deepcopy(layer).double()(x.double()))


@kinds
@pytest.mark.parametrize("arguments", [{}, {"affine": False}, {"eps": 0.3, "momentum": None}], ids=str)
def test_folding_is_exact(kind, arguments):
    layer, norm, x = pair(kind, **arguments)
    expected = oracle(layer, norm, x)
    kernel = layer.weight
    fold_batch_norm(layer, norm)
    assert layer.weight is kernel
    with torch.no_grad():
        # In float64 only the rounding of weights and bias to float32 is left: 2**-24 of at most 40 terms below 20.
        double = copy.deepcopy(layer).double()(x.double())
    assert (double - expected).abs().max() < 40 * 20 * 2.0**-24


@kinds
def test_positive_factors_compute_bitwise_the_same(kind):
    layer, norm, x = pair(kind)
    with torch.no_grad():
        expected = norm(layer(x))
        make_factors_positive(layer, norm)
        assert (norm.weight >= 0).all()
        # Signs flip twice; every product and sum has the same magnitude.
        assert torch.equal(norm(layer(x)), expected)


@kinds
def test_affine_of_is_the_map_of_the_batch_norm(kind):
    _, norm, _ = pair(kind)
    factor, shift = affine_of(norm)
    channels = norm.num_features
    x = random(50, channels, seed=9).double().numpy()
    rank = {nn.BatchNorm1d: 2, nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}[type(norm)]
    shaped = torch.tensor(x).reshape(50, channels, *([1] * (rank - 2)))
    with torch.no_grad():
        expected = copy.deepcopy(norm).double()(shaped).reshape(50, channels).numpy()
    np.testing.assert_allclose(factor * x + shift, expected, rtol=1e-12, atol=1e-12)


def network(kind, **arguments):
    layer, norm, x = pair(kind, **arguments)
    return nn.Sequential(layer, norm, nn.ReLU()).eval(), x


@kinds
def test_post_training_quantization_folds_and_loses_the_batch_norm(kind):
    model, x = network(kind)
    quantized = mct.quantize(model, x)
    plan = mct.plan_of(quantized)
    assert dict(plan.batch_norms) == {"1": "0"}
    assert plan.live_batch_norms == ()
    assert not any(
        isinstance(module, (nn.modules.batchnorm._BatchNorm, LiveBatchNorm)) for module in quantized.modules()
    )
    folded = copy.deepcopy(model[0])
    fold_batch_norm(folded, model[1])
    assert torch.equal(quantized.get_submodule("0").weight, folded.weight)
    assert torch.equal(quantized.get_submodule("0").layer.bias, folded.bias)


class LinearOverTime(nn.Module):
    """Over (N, L, C) the channels of the layer are last, those of the batch norm second."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), worn_norm(nn.BatchNorm1d, 6)

    def forward(self, x):
        return self.norm(self.layer(x))


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Conv1d(6, 6, 1), worn_norm(nn.BatchNorm1d, 6)

    def forward(self, x):
        x = self.layer(x)
        return self.norm(x) + x


class ReusedLayer(UsedTwice):
    def forward(self, x):
        return self.norm(self.layer(self.layer(x)))


class ReusedNorm(UsedTwice):
    def forward(self, x):
        return self.norm(self.layer(self.norm(x)))


class SharedWeight(UsedTwice):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv1d(6, 6, 1)
        self.other.weight = self.layer.weight

    def forward(self, x):
        return self.norm(self.layer(self.other(x)))


class FunctionalUse(UsedTwice):
    def forward(self, x):
        return self.norm(self.layer(x)) + functional.conv1d(x, self.layer.weight)


class FunctionalUseOfBias(UsedTwice):
    def forward(self, x):
        return self.norm(self.layer(x)) + functional.conv1d(x, self.layer.weight, self.layer.bias)


class BehindAnActivation(UsedTwice):
    def forward(self, x):
        return self.norm(torch.tanh(self.layer(x)))


class WithoutStatistics(UsedTwice):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.layer(x))


class ReadsStatistics(UsedTwice):
    def forward(self, x):
        return self.norm(self.layer(x)) * self.norm.running_var


class ReadsFactor(UsedTwice):
    def forward(self, x):
        return self.norm(torch.tanh(self.layer(x))) * self.norm.weight.view(-1, 1)


class ReadsFactorUntraceably(ReadsFactor):
    def forward(self, x):
        return super().forward(-x if x.sum() > 1e9 else x)


NOT_FOLDED = [
    ReadsStatistics,
    ReadsFactor,
    ReadsFactorUntraceably,
    LinearOverTime,
    UsedTwice,
    ReusedLayer,
    ReusedNorm,
    SharedWeight,
    FunctionalUse,
    FunctionalUseOfBias,
    BehindAnActivation,
    WithoutStatistics,
]


@pytest.mark.parametrize("model", NOT_FOLDED)
@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat])
def test_what_cannot_be_folded_stays_and_computes_the_same(model, call):
    torch.manual_seed(0)
    net, x = model().eval(), random(32, 6, 6)
    quantized = call(net, x).eval()
    assert dict(mct.plan_of(quantized).batch_norms) == {}
    with torch.no_grad():
        error = (quantized(x) - net(x)).norm() / net(x).norm()
    assert error < 0.03


def shared_bias():
    torch.manual_seed(0)
    first, second = nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 1)
    nn.init.normal_(first.bias)
    second.bias = first.bias
    return nn.Sequential(first, worn_norm(nn.BatchNorm1d, 6), nn.Tanh(), second).eval()


def shared_factor():
    torch.manual_seed(0)
    norms = worn_norm(nn.BatchNorm1d, 6), worn_norm(nn.BatchNorm1d, 6)
    norms[1].weight = norms[0].weight
    return nn.Sequential(nn.Conv1d(6, 6, 1), norms[0], nn.Tanh(), nn.Conv1d(6, 6, 1), norms[1]).eval()


@pytest.mark.parametrize("make", [shared_bias, shared_factor])
@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat])
def test_parameters_that_layers_share_are_not_changed_for_the_others(make, call):
    net, x = make(), random(32, 6, 6)
    quantized = call(net, x).eval()
    with torch.no_grad():
        assert (quantized(x) - net(x)).norm() < 0.03 * net(x).norm()


# Live batch norms.


def prepared(kind="conv2d", bits="w8a8", **arguments):
    model, x = network(kind, **arguments)
    return mct.prepare_qat(model, x, mct.QuantizationConfig.from_bits(bits)), model, x


LIVE_KINDS = [kind for kind in LAYERS if kind != "transposed_grouped"]


@pytest.mark.parametrize("kind", LIVE_KINDS)
def test_preparing_keeps_the_batch_norm_alive_with_its_settings(kind):
    ready, model, x = prepared(kind, eps=0.02, momentum=0.3)
    norm = ready.get_submodule("1")
    assert isinstance(norm, LiveBatchNorm)
    assert (norm.norm.eps, norm.norm.momentum) == (0.02, 0.3)
    assert mct.plan_of(ready).live_batch_norms == ("1",)
    assert (norm.norm.weight >= 0).all()
    with torch.no_grad():
        assert (ready.eval()(x) - model(x)).norm() < 0.02 * model(x).norm()


def test_a_grouped_transposed_convolution_is_folded_unless_live_is_demanded():
    ready, model, x = prepared("transposed_grouped")
    assert mct.plan_of(ready).live_batch_norms == ()
    assert dict(mct.plan_of(ready).batch_norms) == {"1": "0"}
    with pytest.raises(ValueError, match=r"`batch_norm` 'live'.*grouped transposed"):
        mct.prepare_qat(model, x, mct.QuantizationConfig(batch_norm="live"))


@pytest.mark.parametrize(
    "weights",
    [
        mct.TensorConfig(granularity="per_tensor"),
        mct.TensorConfig(granularity="per_channel", method=mct.QuantizationMethod.POWER_OF_TWO),
    ],
    ids=["per_tensor", "power_of_two"],
)
def test_without_free_scales_per_channel_batch_norms_are_folded_unless_live_is_demanded(weights):
    model, x = network("conv2d")
    ready = mct.prepare_qat(model, x, mct.QuantizationConfig(weights=weights))
    assert mct.plan_of(ready).live_batch_norms == ()
    with pytest.raises(ValueError, match="`batch_norm` 'live' needs"):
        mct.prepare_qat(model, x, mct.QuantizationConfig(weights=weights, batch_norm="live"))


def test_fold_folds_before_training():
    model, x = network("conv2d")
    ready = mct.prepare_qat(model, x, mct.QuantizationConfig(batch_norm="fold"))
    assert mct.plan_of(ready).live_batch_norms == ()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    assert ready.get_submodule("0").weight.requires_grad
    assert ready.get_submodule("0").layer.bias.requires_grad


def train(ready, x, steps=15, lr=0.05):
    optimizer = torch.optim.SGD(ready.parameters(), lr)
    ready.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (ready(x) - 1).square().mean().backward()
        optimizer.step()


def weight_codes(model):
    wrapper = wrapper_of(model, "0")
    (quantizer,) = wrapper.weights_quantizers.values()
    return arithmetic.quantize(wrapper.weight.detach(), quantizer.params, torch_ops)


@pytest.mark.parametrize("kind", LIVE_KINDS)
@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w2a8"])
@pytest.mark.parametrize("grid", [mct.QuantizationMethod.SYMMETRIC, mct.QuantizationMethod.UNIFORM])
def test_finalize_changes_no_integer_code(kind, bits, grid):
    model, x = network(kind)
    weights = mct.TensorConfig(granularity="per_channel", method=grid)
    config = mct.QuantizationConfig.from_bits(bits, weights=weights, first_last_bits=None)
    ready = mct.prepare_qat(model, x, config)
    train(ready, x)
    with torch.no_grad():
        # Training may carry factors to zero and below; their magnitude counts.
        ready.get_submodule("1").norm.weight[:3] = torch.tensor([0.0, -0.4, -1e-6])
    final = mct.finalize(ready)
    assert torch.equal(weight_codes(final), weight_codes(ready))
    # Requantizing the folded weight gives the same values: it lies on its grid.
    wrapper = final.get_submodule("0")
    assert torch.equal(wrapper.get_quantized_weights()["weight"], wrapper.weight)
    with torch.no_grad():
        difference = (final(x) - ready.eval()(x)).abs().max()
        size = ready.get_submodule("0")(x).abs().max() * 4 + 10
    # The same real numbers in another order: 2**-24 for each of about 40 operations.
    assert difference <= 40 * size * 2.0**-24
    assert mct.plan_of(final).live_batch_norms == ()
    assert not any(isinstance(module, LiveBatchNorm) for module in final.modules())


def test_a_live_factor_leaves_zero():
    norm = LiveBatchNorm(nn.BatchNorm1d(2).eval())
    nn.init.zeros_(norm.norm.weight)
    norm(random(8, 2)).sum().backward()
    assert norm.norm.weight.grad.abs().min() > 0


def test_a_live_batch_norm_computes_what_the_batch_norm_does_with_magnitudes():
    plain = worn_norm(nn.BatchNorm1d, 8)
    x = random(16, 8)
    live = LiveBatchNorm(copy.deepcopy(plain))
    for training in (False, True):
        live.train(training)
        expected = functional.batch_norm(
            x, plain.running_mean.clone(), plain.running_var.clone(), plain.weight.abs(), plain.bias, training
        )
        torch.testing.assert_close(live(x), expected, rtol=0, atol=0)


def statistics(model):
    return [
        tensor.clone()
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for tensor in (module.running_mean, module.running_var)
    ]


def test_frozen_statistics_survive_train_and_factors_still_learn():
    ready, _, x = prepared()
    train(ready, x, steps=2)
    moving = statistics(ready)
    train(ready, x, steps=2)
    assert not torch.equal(statistics(ready)[0], moving[0])
    mct.freeze_batch_norm_statistics(ready)
    before = statistics(ready)
    factors = ready.get_submodule("1").norm.weight.detach().clone()
    for mode in (True, False, True):
        ready.train(mode)
        train(ready, x, steps=2)
        assert all(torch.equal(a, b) for a, b in zip(statistics(ready), before, strict=True))
    assert not torch.equal(ready.get_submodule("1").norm.weight, factors)
    twin = copy.deepcopy(ready)
    train(twin, x, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(statistics(twin), before, strict=True))


@pytest.mark.parametrize("capture", ["auto", "modules"])
def test_every_batch_norm_is_frozen_folded_or_not(capture):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    ready = mct.prepare_qat(model, random(32, 4), mct.QuantizationConfig(capture=capture))
    mct.freeze_batch_norm_statistics(ready)
    before = statistics(ready)
    ready.train()
    ready(5 + random(32, 4, seed=1))
    assert len(before) == 4
    assert all(torch.equal(a, b) for a, b in zip(statistics(ready), before, strict=True))


def test_reestimated_statistics_are_the_plain_mean_over_the_batches():
    ready, _, _ = prepared()
    norm = ready.get_submodule("1").norm
    batches = [random(6, 4, 7, 6, seed=seed) * (1 + seed) for seed in range(3)]
    ready.train()
    ready.get_submodule("2").eval()
    modes = {name: module.training for name, module in ready.named_modules()}
    momentum = norm.momentum
    inputs = []
    handle = ready.get_submodule("1").register_forward_pre_hook(
        lambda _, args: inputs.append(args[0].detach().double())
    )
    mct.reestimate_batch_norm_statistics(ready, [batches[0], (batches[1],), [batches[2]]])
    handle.remove()
    # The first of three means and variances comes first: a mean of batches, not a decaying one.
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in inputs]).mean(dim=0)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(dim=1, unbiased=True) for x in inputs]).mean(dim=0)
    # float32 sums of 6·5·4 terms.
    torch.testing.assert_close(norm.running_mean.double(), means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), variances, rtol=1e-4, atol=1e-5)
    assert {name: module.training for name, module in ready.named_modules()} == modes
    assert norm.momentum == momentum
    assert int(norm.num_batches_tracked) == 3


def test_reestimation_restores_modes_momentum_and_statistics_when_the_model_fails():
    ready, _, _ = prepared(momentum=0.25)
    modes = {name: module.training for name, module in ready.named_modules()}
    before = statistics(ready)
    with pytest.raises(RuntimeError):
        mct.reestimate_batch_norm_statistics(ready, [random(2, 4, 7, 6), random(2, 3, 7, 6)])
    assert {name: module.training for name, module in ready.named_modules()} == modes
    assert ready.get_submodule("1").norm.momentum == 0.25
    assert all(torch.equal(a, b) for a, b in zip(statistics(ready), before, strict=True))


def test_reestimation_without_batches_is_refused_and_changes_nothing():
    ready, _, _ = prepared()
    before = statistics(ready)
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        mct.reestimate_batch_norm_statistics(ready, iter([]))
    assert all(torch.equal(a, b) for a, b in zip(statistics(ready), before, strict=True))

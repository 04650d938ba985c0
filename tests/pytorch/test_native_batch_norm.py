# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Batch norm, addition, ReLU and quantizer in native code: the formula in NumPy, wherever a tensor lies."""

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional

from mct_quantizers.pytorch import kernels
from mct_quantizers.pytorch.native.batch_norm import NormalizedCall, NormTensors, batch_statistics
from mct_quantizers.pytorch.native.fake_quantize import Settings
from mct_quantizers.pytorch.native.library import native_library
from mct_quantizers.pytorch.pending import Pending, batch_norm_before_quantization, relu_before_quantization

pytestmark = pytest.mark.skipif(native_library() is None, reason="there is no C++ compiler")

EPSILON = 1e-5
SHAPES = [
    (9, 5), (40, 70), (4, 3, 7), (4, 3, 7, 7), (3, 20, 8, 8), (3, 17, 4, 2), (70, 3, 8, 8), (2, 1, 5, 5),
    (2, 2, 3, 40, 40), (2, 3, 64, 65),
]  # fmt: skip


def samples(shape, seed=0):
    return 1.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.4


def lying(x, channels_last):
    """`x` with the same values, its channels innermost."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x


def per_channel(values, x):
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def layer(x, has_affine, per_channel_scale, has_zero_point):
    """Weight, bias, scale, zero point."""
    channels = x.shape[1]
    weight = torch.linspace(0.5, 1.5, channels) if has_affine else None
    bias = torch.linspace(-1.0, 1.0, channels) if has_affine else None
    scale = per_channel(torch.linspace(0.2, 0.4, channels), x) if per_channel_scale else torch.tensor([0.3])
    return weight, bias, scale, torch.full_like(scale, 3.0) if has_zero_point else None


CASES = [
    (shape, channels_last, residual, ceiling, has_affine, per_channel_scale, has_zero_point)
    for shape in SHAPES
    for channels_last in (False, True)
    for residual, ceiling, has_affine, per_channel_scale, has_zero_point in (
        (False, None, True, False, False),
        (True, math.inf, True, False, False),
        (True, None, False, True, True),
        (False, 6.0, True, True, False),
    )
]
cases = pytest.mark.parametrize(
    ("shape", "channels_last", "has_residual", "ceiling", "has_affine", "per_channel_scale", "has_zero_point"), CASES
)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_are_those_in_float64(shape, channels_last):
    # Far from zero, where sums of squares lose everything.
    x = lying(samples(shape) + 1000.0, channels_last)
    mean, variance, inverse = batch_statistics(x, EPSILON)
    wide = x.double()
    axes = [axis for axis in range(x.ndim) if axis != 1]
    # The distances from a mean are rounded to half a unit of 1000 in float32, 3e-5, and these are averaged.
    torch.testing.assert_close(mean.double(), wide.mean(axes), rtol=2.0**-23, atol=0)
    torch.testing.assert_close(variance.double(), wide.var(axes), rtol=1e-5, atol=0)
    expected = (wide.var(axes, correction=0) + EPSILON).rsqrt()
    torch.testing.assert_close(inverse.double(), expected, rtol=1e-5, atol=0)


@cases
def test_values_are_those_of_the_formula(
    shape, channels_last, has_residual, ceiling, has_affine, per_channel_scale, has_zero_point
):
    x = lying(samples(shape), channels_last)
    residual = samples(shape, 1) if has_residual else None
    weight, bias, scale, zero_point = layer(x, has_affine, per_channel_scale, has_zero_point)
    mean, _, inverse = batch_statistics(x, EPSILON)
    call = NormalizedCall.of(x, scale, zero_point)
    y = call.forward(NormTensors(x, weight, bias, residual, mean, inverse), Settings(-8, 7, ceiling))
    assert y.stride() == x.stride()
    # In float32, rounded after every operation.
    alpha = inverse * (1.0 if weight is None else weight)
    beta = (0.0 if bias is None else bias) - mean * alpha
    expected = x.numpy() * per_channel(alpha, x).numpy() + per_channel(beta, x).numpy()
    expected = expected if residual is None else expected + residual.numpy()
    expected = expected if ceiling is None else np.clip(expected, np.float32(0), np.float32(ceiling))
    point = np.float32(0) if zero_point is None else zero_point.numpy()
    codes = np.clip(np.round(expected / scale.numpy()) + point, np.float32(-8), np.float32(7))
    assert np.array_equal(y.numpy(), (codes - point) * scale.numpy())


@cases
def test_gradients_are_those_in_float64(
    shape, channels_last, has_residual, ceiling, has_affine, per_channel_scale, has_zero_point
):
    x = lying(samples(shape), channels_last).requires_grad_()
    upstream, residual = samples(shape, 2), samples(shape, 1).requires_grad_() if has_residual else None
    weight, bias, scale, zero_point = layer(x, has_affine, per_channel_scale, has_zero_point)
    leaves = [x, residual, weight, bias, scale]
    for leaf in leaves:
        if leaf is not None:
            leaf.requires_grad_()
    norm = nn.BatchNorm2d(x.shape[1], EPSILON)
    norm.bias = None if bias is None else nn.Parameter(bias)
    leaves[3] = norm.bias
    pending = batch_norm_before_quantization(x, norm, weight)
    if residual is not None:
        pending = pending + residual
    if ceiling is not None:
        pending = relu_before_quantization(pending, ceiling)
    y = kernels.fake_quantize_learned(pending, scale, zero_point, -8, 7, 0.5)
    assert pending.is_pending
    found = torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], upstream)

    wide = [None if leaf is None else leaf.detach().double().requires_grad_() for leaf in leaves]
    z = functional.batch_norm(wide[0], None, None, wide[2], wide[3], True, 0.0, EPSILON)
    z = z if residual is None else z + wide[1]
    z = z if ceiling is None else torch.relu(z) if ceiling == math.inf else functional.relu6(z)
    expected_y = kernels.fake_quantize_learned(z, wide[4], zero_point, -8, 7, 0.5)
    # Otherwise a gradient went another way at a tie: other samples are needed.
    torch.testing.assert_close(y.double(), expected_y, rtol=0, atol=1e-6)
    expected = torch.autograd.grad(expected_y, [leaf for leaf in wide if leaf is not None], upstream.double())
    *found, to_scale = found
    *expected, expected_to_scale = expected
    for ours, theirs in zip(found, expected, strict=True):
        # Sums of float32 numbers, in blocks.
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))
    # Likewise, of terms of at most 0.5 · 8 · upstream, which may cancel.
    bound = 4 * float(upstream.abs().sum()) / scale.numel() * 2.0**-24
    torch.testing.assert_close(to_scale.double(), expected_to_scale, rtol=0, atol=bound)


def test_results_do_not_depend_on_the_threads():
    x, upstream, residual = (samples((64, 3, 40, 40), seed) for seed in range(3))
    weight, bias, scale, zero_point = layer(x, True, False, True)
    call, settings = NormalizedCall.of(x, scale, zero_point), Settings(-8, 7, math.inf)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            mean, variance, inverse = batch_statistics(x, EPSILON)
            tensors = NormTensors(x, weight, bias, residual, mean, inverse)
            results.append(
                (mean, variance, call.forward(tensors, settings), *call.backward(tensors, upstream, settings))
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_not_a_number_spreads_over_its_channel():
    x = samples((4, 3, 5, 5))
    x[0, 1, 0, 0] = math.nan
    norm = nn.BatchNorm2d(3)
    y = kernels.fake_quantize_learned(
        batch_norm_before_quantization(x.requires_grad_(), norm, norm.weight), torch.tensor([0.3]), None, -8, 7
    )
    assert y[:, 1].isnan().all()
    assert not y[:, ::2].isnan().any()
    assert norm.running_mean.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("x", "norm"),
    [
        (samples((1, 3)), nn.BatchNorm1d(3)),
        (samples((4, 3)).double(), nn.BatchNorm1d(3).double()),
        (samples((4, 6))[:, ::2], nn.BatchNorm1d(3)),
        (samples((4, 3)), nn.SyncBatchNorm(3)),
        (samples((4, 3)), nn.BatchNorm1d(3, track_running_stats=False)),
        (samples((4, 3)), nn.BatchNorm1d(3).double()),
    ],
    ids=["one element", "float64", "gaps", "synchronized", "without statistics", "wide factors"],
)
def test_other_batch_norms_run_themselves(x, norm):
    assert batch_norm_before_quantization(x.requires_grad_(), norm, norm.weight) is None
    assert norm.num_batches_tracked is None or int(norm.num_batches_tracked) == 0


def test_whoever_asks_for_values_gets_a_batch_norm_and_its_gradient():
    x, other = samples((4, 3, 5)), samples((4, 3, 5), 1)
    norm, expected_norm = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    leaf, expected_leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
    result = (relu_before_quantization(batch_norm_before_quantization(leaf, norm, norm.weight) + other) * 2.0).square()
    expected = (torch.relu(expected_norm(expected_leaf) + other) * 2.0).square()
    assert torch.equal(result, expected)
    for received in (result, expected):
        received.sum().backward()
    assert torch.equal(leaf.grad, expected_leaf.grad)
    assert torch.equal(norm.weight.grad, expected_norm.weight.grad)


@pytest.mark.parametrize(
    "add",
    [lambda x, y: x + y, lambda x, y: y + x, torch.add, lambda x, y: x.add(y), lambda x, y: torch.add(y, x)],
    ids=["+", "from the right", "torch.add", "method", "torch.add, second"],
)
def test_additions_wait(add):
    x, other = samples((4, 3, 5)).requires_grad_(), samples((4, 3, 5), 1)
    norm = nn.BatchNorm1d(3)
    result = add(batch_norm_before_quantization(x, norm, norm.weight), other)
    assert isinstance(result, Pending)
    assert torch.equal(result.detach(), (nn.BatchNorm1d(3)(x) + other).detach())


@pytest.mark.parametrize(
    "other",
    [1.0, samples((3, 1)), samples((4, 3, 5)).double(), nn.Parameter(samples((4, 3, 5)))],
    ids=["number", "broadcast", "float64", "parameter"],
)
def test_other_additions_are_computed(other):
    x = samples((4, 3, 5)).requires_grad_()
    norm = nn.BatchNorm1d(3)
    result = batch_norm_before_quantization(x, norm, norm.weight) + other
    assert type(result) is torch.Tensor
    assert torch.equal(result, nn.BatchNorm1d(3)(x) + other)

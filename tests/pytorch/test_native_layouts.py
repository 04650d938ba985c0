# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Every native entry against operators of torch on a dense copy, for tensors that lie in memory in any way."""

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from mct_quantizers.pytorch import kernels
from mct_quantizers.pytorch.native.batch_norm import NormalizedCall, NormTensors, batch_statistics
from mct_quantizers.pytorch.native.fake_quantize import NativeCall, Settings
from mct_quantizers.pytorch.native.histogram import extremes, histogram

EPSILON, SETTINGS = 1e-5, Settings(-8, 7, ceiling=6.0, gradient_factor=0.5)
KINDS = ("strided", "expanded", "overlapping", "stepped", "permuted", "offset", "empty")


def lying(rng, kind):
    """A tensor of one to four axes that lies in the way of `kind`."""
    shape = [int(length) for length in rng.choice([1, 2, 3, 5, 16, 17], rng.integers(1, 5))]
    if kind == "strided":
        strides = [int(stride) for stride in rng.choice([0, 1, 2, 3, 5, 16, 17, 34, 80], len(shape))]
        last = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        return numbers(rng, last + 1).as_strided(shape, strides)
    if kind == "expanded":
        kept = [length if rng.random() < 0.5 else 1 for length in shape]
        return numbers(rng, int(np.prod(kept))).view(kept).expand(shape)
    if kind == "overlapping":
        return numbers(rng, 64).unfold(0, 5, 2)
    if kind == "stepped":
        doubled = numbers(rng, int(np.prod(shape)) * 2 ** len(shape)).view([2 * length for length in shape])
        return doubled[tuple(slice(None, None, 2) for _ in shape)].flip(0)
    if kind == "permuted":
        return numbers(rng, int(np.prod(shape))).view(shape).permute(*rng.permutation(len(shape)).tolist())
    if kind == "offset":
        return numbers(rng, int(np.prod(shape)) + 3)[3:].view(shape)
    return torch.empty([0, *shape])


def numbers(rng, count):
    return torch.from_numpy(rng.normal(scale=2.0, size=count).astype(np.float32))


def dense(x):
    return x.clone(memory_format=torch.contiguous_format)


def scales(rng, x):
    """One scale, and one for each slice along each axis."""
    yield torch.tensor([0.37])
    for axis, length in enumerate(x.shape):
        if length:
            shape = [-1 if other == axis else 1 for other in range(x.ndim)]
            yield torch.from_numpy(rng.uniform(0.2, 0.6, length).astype(np.float32)).view(shape)


CASES = [lying(np.random.default_rng([index, seed]), kind) for index, kind in enumerate(KINDS) for seed in range(40)]


def by_operators(x, scale, zero_point, low, high, factor):
    return kernels._learned_by_operators(x, scale, zero_point, low, high, factor, None)


def test_cases_hold_what_they_should():
    strides = {(tuple(x.shape), x.stride()) for x in CASES}
    assert len(strides) > 100
    assert any(0 in x.stride() and x.numel() > x.stride().count(0) + 1 for x in CASES)
    assert sum(x.numel() == 0 for x in CASES) == 40


@pytest.mark.parametrize("first", range(0, len(CASES), 40), ids=KINDS)
def test_values_and_gradients_of_quantizers(first):
    rng = np.random.default_rng(0)
    for x in CASES[first : first + 40]:
        for scale, point in itertools.product(scales(rng, x), (None, 3)):
            zero_point = None if point is None else torch.full_like(scale, point, dtype=torch.int32)
            given, copied = (tensor.detach().requires_grad_() for tensor in (x, dense(x)))
            results = []
            for source in (given, copied):
                learned = scale.clone().requires_grad_()
                function = kernels.fake_quantize_learned if source is given else by_operators
                y = function(source, learned, zero_point, -8, 7, 0.5)
                y.backward(dense(x).sin().expand_as(y) if y.numel() else torch.zeros_like(y))
                results.append((y.detach(), source.grad, learned.grad))
            for ours, theirs in zip(*results, strict=True):
                # The gradient to the scale is a sum in another order.
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            assert torch.equal(results[0][0], results[1][0])


def test_batch_statistics_are_those_of_a_dense_copy_in_float64():
    taken = 0
    for x in CASES:
        found = batch_statistics(x, EPSILON)
        if found is None:
            continue
        taken += 1
        wide, axes = dense(x).double(), [axis for axis in range(x.ndim) if axis != 1]
        variance = wide.var(axes, correction=0)
        expected = (wide.mean(axes), wide.var(axes), (variance + EPSILON).rsqrt())
        for ours, theirs in zip(found, expected, strict=True):
            # Rounded to float32, of numbers of size 2; the inverse of a variance near zero has its relative error.
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)
    assert taken > 50


def test_normalized_values_and_gradients():
    taken = 0
    for x in CASES:
        statistics = batch_statistics(x, EPSILON)
        scale = torch.tensor([0.3])
        call = None if statistics is None else NormalizedCall.of(x, scale, None)
        if call is None:
            continue
        taken += 1
        mean, _, inverse = statistics
        residual = dense(x).cos()
        tensors = NormTensors(x, None, None, residual, mean, inverse)
        copied = NormTensors(dense(x), None, None, residual, mean, inverse)
        again = NormalizedCall.of(dense(x), scale, None)
        assert torch.equal(call.forward(tensors, SETTINGS), again.forward(copied, SETTINGS))
        upstream = torch.ones(()).expand(x.shape)
        ours, theirs = call.backward(tensors, upstream, SETTINGS), again.backward(copied, upstream, SETTINGS)
        for one, other in zip(ours, theirs, strict=True):
            if other is not None:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert taken > 50


def test_counts_and_extremes():
    for x in CASES:
        if x.numel():
            assert extremes(x) == (x.min().item(), x.max().item())
            counts = histogram(x, -3.0, 3.0, 16)
            assert torch.equal(counts.double(), torch.histc(dense(x).clamp(-3.0, 3.0), 16, -3.0, 3.0).double())


def test_tensors_without_elements_are_left_to_torch():
    for x in CASES:
        if x.numel() == 0:
            assert NativeCall.of(x, torch.tensor([0.3]), None) is None
            assert batch_statistics(x, EPSILON) is None

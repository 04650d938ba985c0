# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Without a private part of torch everything still runs and gives the same values."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import model_compression_toolkit as mct
from mct_quantizers.pytorch import private

PARTS = [
    "_transforms_are_active",
    "_top_hooks",
    "_why_hooks_are_disabled",
    "_backward_hooks",
    "_backward_pre_hooks",
]


def step():
    """Output and gradients of a step of training."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)]
    x = torch.rand(16, 3, 8, 8)
    prepared = mct.prepare_qat(nn.Sequential(*layers), x, mct.QuantizationConfig.from_bits("w4a4"))
    result = prepared(x)
    result.square().sum().backward()
    return result.detach(), [parameter.grad for parameter in prepared.parameters()]


@pytest.mark.parametrize("part", PARTS)
def test_a_step_of_training_is_the_same_without_it(monkeypatch, part):
    expected, gradients = step()
    # This wing does not find it; torch itself may need it.
    monkeypatch.setattr(private, part, None)
    result, found = step()
    # Operators of torch sum in another order than the native kernels.
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * largest)


def test_a_part_that_is_missing_counts_as_the_careful_case(monkeypatch):
    assert not private.transforms_are_active()
    assert private.may_hook_saved_tensors()
    assert not private.has_global_backward_hooks()
    for part in PARTS:
        monkeypatch.setattr(private, part, None)
    assert private.transforms_are_active()
    assert not private.may_hook_saved_tensors()
    assert private.has_global_backward_hooks()


def test_every_part_is_found_in_this_release():
    assert all(getattr(private, part) is not None for part in PARTS)
    assert private.part("_C._no_such_part.at_all") is None

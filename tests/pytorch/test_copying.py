# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Copies of models that keep results of a forward pass on themselves."""

import copy
import types

import pytest
import torch
from torch import nn

from mct_quantizers.pytorch.copying import copy_of


class KeepsResults(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.results = {"all": [], "box": types.SimpleNamespace(value=None)}

    def forward(self, x):
        y = self.inner(x)
        self.map = y.softmax(-1)
        self.results["all"].append((self.map, y))
        self.results["box"].value = y
        return y


def test_results_of_a_pass_are_copied_without_their_history():
    model = KeepsResults()
    model(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    twin = copy_of(model)
    assert torch.equal(twin.map, model.map)
    assert twin.map.grad_fn is None
    assert twin.results["all"][0][0] is twin.map
    assert torch.equal(twin.results["box"].value, model.results["box"].value)
    assert model.map.grad_fn is not None, "the model itself is as it was"
    assert model.results["all"][0][0] is model.map
    assert twin.inner.weight is not model.inner.weight
    assert twin.inner.weight.requires_grad


def test_weight_norm_is_copied_after_a_pass():
    with pytest.warns(FutureWarning):
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)))
    x = torch.ones(1, 3)
    expected = model(x)
    twin = copy_of(model)
    with torch.no_grad():
        twin[0].weight_g.mul_(2)
    torch.testing.assert_close(twin(x) - twin[0].bias, 2 * (expected - model[0].bias))

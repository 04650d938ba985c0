# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Embeddings that make sparse gradients train as those that make dense ones."""

import pytest
import torch
from torch import nn

import model_compression_toolkit as mct

METHODS = ("STE", "LSQ", "DQA", "SOFT_ROUNDING")


def network(sparse):
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 8, sparse=sparse), nn.Linear(8, 4))


def indices():
    return torch.randint(0, 20, (16,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_quantized_sparse_embedding_are_those_of_a_dense_one(method):
    results = []
    for sparse in (True, False):
        methods = mct.QATConfig(weight_training_method=method)
        model = mct.prepare_qat(network(sparse), indices(), qat_config=methods)
        model.train()(indices()).square().sum().backward()
        results.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        assert (gradient is None) == (results[1][name] is None)
        if gradient is not None:
            assert gradient.layout is torch.strided
            torch.testing.assert_close(gradient, results[1][name])


def test_training_moves_only_rows_that_were_looked_up():
    model = mct.prepare_qat(network(True), indices())
    before = model.state_dict()["0.weight"].clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(indices()).square().sum().backward()
    optimizer.step()
    changed = (model.state_dict()["0.weight"] != before).any(1)
    assert set(changed.nonzero().flatten().tolist()) <= set(indices().tolist())
    assert changed.any()


def test_bags_stay_in_float_with_their_sparse_gradients_and_the_plan_says_so():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.head = nn.EmbeddingBag(20, 8, sparse=True), nn.Linear(8, 4)

        def forward(self, words):
            return self.head(self.rows(words))

    model = mct.prepare_qat(Bag(), indices().reshape(4, 4))
    assert mct.plan_of(model)["rows.weight"].reason == "layers of type EmbeddingBag are not quantized yet"
    model.train()(indices().reshape(4, 4)).sum().backward()
    assert dict(model.named_parameters())["rows.weight"].grad.is_sparse

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Names and open axes of exported PyTorch models, and tensors without axes."""

from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import model_compression_toolkit as mct
from model_compression_toolkit.exporter.common.pieces import pieces_of
from model_compression_toolkit.exporter.pytorch.onnx_names import open_axes, output_names

# Integer kernels may round a value at a tie to the other side.
TIE = 0.02


class Output(NamedTuple):
    logits: torch.Tensor
    hidden: torch.Tensor


class Words(nn.Module):
    """Sequences of any length and a mask, with named outputs."""

    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids, mask):
        hidden = self.body(self.embedding(ids)).relu() * mask.unsqueeze(-1)
        return Output(self.head(hidden.sum(1)), hidden)


class Match(nn.Module):
    """Two inputs whose first axes have nothing to do with each other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, queries, keys):
        return self.a(queries) @ self.b(keys).transpose(0, 1)


class Step(nn.Module):
    """A learned number, and a time step, which has no axes."""

    def __init__(self):
        super().__init__()
        self.a, self.t = nn.Linear(8, 8), nn.Embedding(10, 8)
        self.logit_scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t):
        return (self.a(x) + self.t(t)).relu() * self.logit_scale.exp()


def sizes(values):
    return [[axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values]


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {item.name: x.numpy() for item, x in zip(session.get_inputs(), inputs, strict=True)})


def test_axes_whose_sizes_differ_are_open_and_outputs_have_the_names_of_their_fields(tmp_path):
    torch.manual_seed(0)
    data = [(torch.randint(0, 20, (4, n)), torch.ones(4, n)) for n in (6, 9)]
    model = mct.quantize(Words().eval(), data)
    report = mct.export(model, tmp_path / "model.onnx", verify=data, quiet=True)
    assert report.parity.passed
    assert report.notes == ()
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sizes(graph.input) == [["batch", "ids_axis_1"], ["batch", "ids_axis_1"]]
    assert [value.name for value in graph.output] == ["logits", "hidden"]
    assert sizes(graph.output) == [["batch", 3], ["batch", "ids_axis_1", 8]]
    ids, mask = torch.randint(0, 20, (3, 5)), torch.ones(3, 5)
    for received, expected in zip(run(tmp_path / "model.onnx", ids, mask), model(ids, mask), strict=True):
        assert np.allclose(received, expected.detach().numpy(), atol=TIE)


def test_independent_axes_have_names_of_their_own(tmp_path):
    torch.manual_seed(0)
    data = [(torch.randn(4, 8), torch.randn(4, 8))]
    model = mct.quantize(Match().eval(), data)
    assert mct.export(model, tmp_path / "model.onnx", verify=data, quiet=True).parity.passed
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sizes(graph.input) == [["batch", 8], ["keys_batch", 8]]
    queries, keys = torch.randn(4, 8), torch.randn(7, 8)
    (received,) = run(tmp_path / "model.onnx", queries, keys)
    assert np.allclose(received, model(queries, keys).detach().numpy(), atol=TIE)


@pytest.mark.parametrize("count", [1, 4])
def test_tensors_without_axes_are_exported_and_compared(tmp_path, count):
    torch.manual_seed(0)
    data = [(torch.randn(count, 8), torch.tensor(7)), (torch.randn(count, 8), torch.tensor(2))]
    model = mct.quantize(Step().eval(), data)
    report = mct.export(model, tmp_path / "model.onnx", verify=data, quiet=True)
    assert report.parity.passed
    assert report.parity.num_samples == 2 * count
    (received,) = run(tmp_path / "model.onnx", *data[1])
    assert np.allclose(received, model(*data[1]).detach().numpy(), atol=TIE)


def test_names_of_outputs():
    x, y = torch.ones(1), torch.ones(2)
    assert output_names({"b": x, "a": {"last": y}}) == ["b", "a_last"]
    assert output_names(Output(x, (y, x))) == ["logits", "hidden_0", "hidden_1"]
    assert output_names((x, y)) is None
    assert output_names(x) is None
    assert output_names({"a_b": x, "a": {"b": y}}) is None


def test_open_axes_are_the_samples_and_what_differs():
    def batch(count, length):
        return torch.ones(count, length), torch.ones(count, 3), torch.tensor(1)

    assert open_axes([batch(4, 5)]) == [{0}, {0}, set()]
    assert open_axes([batch(4, 5), batch(2, 6)]) == [{0, 1}, {0}, set()]


def test_pieces_fill_a_fixed_size_and_repeat_what_has_no_axis():
    batch = np.arange(5), np.array(3), np.arange(10).reshape(5, 2)
    (first, one), (last, other) = pieces_of(batch, 4)
    assert (one, other) == (4, 1)
    assert first[0].tolist() == [0, 1, 2, 3]
    assert last[0].tolist() == [4, 4, 4, 4]
    assert last[1] == 3
    assert last[2].tolist() == [[8, 9]] * 4
    uneven = np.arange(5), np.arange(3)
    assert list(pieces_of(uneven, None)) == [(uneven, 5)]

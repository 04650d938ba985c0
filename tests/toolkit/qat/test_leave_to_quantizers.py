# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Prepared models leave batch norms, additions and ReLUs to the quantizers behind them, and compute what they did."""

import copy
import io
import operator

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from mct_quantizers.pytorch import kernels
from mct_quantizers.pytorch.native.library import native_library
from mct_quantizers.pytorch.pending import Pending

needs_compiler = pytest.mark.skipif(native_library() is None, reason="there is no C++ compiler")
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two convolutions whose ReLU a test supplies."""

    def __init__(self, relu, join=operator.add):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.join, self.end = relu, join, nn.Linear(4, 2)

    def forward(self, x):
        first = self.relu(self.norm1(self.first(x)))
        second = self.relu(self.join(self.norm2(self.second(first)), first))
        return self.end(second.mean((2, 3)))


class Seen(nn.Module):
    """The input of a ReLU is used again, and changed."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.end = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.norm(self.first(x))
        y = functional.relu(x)
        x.add_(1.0)
        return self.end(y + x)


class Shortcut(nn.Module):
    """Both that are added come from a batch norm."""

    def __init__(self):
        super().__init__()
        self.start, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.left, self.left_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.right, self.right_norm, self.end = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = functional.relu(self.norm(self.start(x)))
        return self.end(functional.relu(self.left_norm(self.left(x)) + self.right_norm(self.right(x))))


class Changed(nn.Module):
    """What is added is changed before the ReLU."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.second, self.norm2, self.end = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = functional.relu(self.norm1(self.first(x)))
        added = x * 2.0
        x = self.norm2(self.second(x)) + added
        added.add_(1.0)
        return self.end(functional.relu(x)) + added.mean()


class Twice(nn.Module):
    """One module that once stands before a quantizer, and once after a view."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.end = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.end(self.relu(x.transpose(2, 3)))


def prepared(model):
    torch.manual_seed(0)
    return mct.prepare_qat(model, IMAGES, mct.QuantizationConfig.from_bits("w4a4", first_last_bits=8))


def left_in(model, monkeypatch):
    """What is left to quantizers in a step: whether with a batch norm, an addition, a ReLU. Nothing is computed."""
    made, read = [], []
    original = kernels.fake_quantize_learned

    def spied(x, *arguments):
        result = original(x, *arguments)
        if isinstance(x, Pending):
            made.append((x.batch_norm is not None, x.residual is not None, x.ceiling is not None))
            read.append(not x.is_pending)
        return result

    monkeypatch.setattr(kernels, "fake_quantize_learned", spied)
    model(IMAGES).sum().backward()
    monkeypatch.undo()
    assert not any(read)
    return made


def without_native_code(monkeypatch):
    for module in ("fake_quantize", "batch_norm"):
        monkeypatch.setattr(f"mct_quantizers.pytorch.native.{module}.native_library", lambda: None)


def step(model):
    model.zero_grad()
    output = model(IMAGES)
    output.square().sum().backward()
    return output, {name: parameter.grad for name, parameter in model.named_parameters()}


CASES = {
    "function": lambda: Net(functional.relu),
    "function of torch": lambda: Net(torch.relu),
    "in place": lambda: Net(lambda x: functional.relu(x, inplace=True)),
    "addition in place": lambda: Net(functional.relu, operator.iadd),
    "module": lambda: Net(nn.ReLU()),
    "module in place": lambda: Net(nn.ReLU(inplace=True)),
    "up to six": lambda: Net(nn.ReLU6()),
    "function up to six": lambda: Net(functional.relu6),
}


NORM, NORM_RELU, NORM_ADD, ALL, RELU = (
    (True, False, False),
    (True, False, True),
    (True, True, False),
    (True,) * 3,
    (False, False, True),
)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_what_stands_between_a_layer_and_a_holder_is_left_to_the_quantizer(name, monkeypatch):
    torch.manual_seed(0)
    assert left_in(prepared(CASES[name]()), monkeypatch) == [NORM_RELU, ALL]


@needs_compiler
@pytest.mark.parametrize(
    ("make", "left"),
    [
        # The quantizer of what both see stands before both.
        (Seen, [NORM]),
        (Twice, []),
        (lambda: Net(lambda x: x), [NORM, NORM_ADD]),
        (Changed, [NORM_RELU, RELU]),
        (lambda: Net(functional.relu, lambda norm, x: torch.add(norm, x, alpha=2.0)), [NORM_RELU, RELU]),
        (lambda: Net(functional.relu, lambda norm, x: norm + norm), [NORM_RELU, NORM, RELU]),
        (lambda: Net(functional.relu, lambda norm, x: norm + 1.0), [NORM_RELU, NORM, RELU]),
        (Shortcut, [NORM_RELU, NORM, ALL]),
        (lambda: Net(functional.relu).requires_grad_(False), [NORM_RELU, ALL]),
    ],
    ids=[
        "seen by others", "behind a view too", "no ReLU", "added and then changed",
        "with a factor", "twice the same", "a number", "two batch norms", "only scales trained",
    ],
)  # fmt: skip
def test_only_what_nobody_else_sees_is_left(make, left, monkeypatch):
    torch.manual_seed(0)
    model = prepared(make())
    assert left_in(model, monkeypatch) == left
    same_training(model, monkeypatch)


def same_training(model, monkeypatch):
    """Compare a step with one in operators of torch."""
    theirs = copy.deepcopy(model)
    output, gradients = step(model)
    without_native_code(monkeypatch)
    expected_output, expected = step(theirs)
    # Statistics and sums are rounded otherwise; of these few elements none comes to lie at a tie.
    torch.testing.assert_close(output, expected_output, rtol=1e-5, atol=1e-6)
    for key, gradient in gradients.items():
        if expected[key] is None:
            assert gradient is None
        else:
            tolerance = 1e-4 * float(expected[key].abs().max()) + 1e-5
            torch.testing.assert_close(gradient, expected[key], rtol=0, atol=tolerance, msg=key)
    for (name, ours), other in zip(model.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", CASES)
def test_training_is_that_of_operators_of_torch(name, monkeypatch):
    torch.manual_seed(0)
    same_training(prepared(CASES[name]()), monkeypatch)


@needs_compiler
def test_frozen_statistics_are_used_and_kept(monkeypatch):
    torch.manual_seed(0)
    model = prepared(Net(functional.relu))
    step(model)
    mct.freeze_batch_norm_statistics(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    assert left_in(model, monkeypatch) == [RELU, RELU]
    assert all(torch.equal(model.get_buffer(name), buffer) for name, buffer in before.items())


@needs_compiler
@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_are_those_of_a_batch_norm(momentum):
    torch.manual_seed(0)
    net = Net(functional.relu)
    net.norm1.momentum = momentum
    model = prepared(net)
    norm = model.get_submodule("norm1").norm
    expected, inputs = copy.deepcopy(norm), []
    model.get_submodule("norm1").register_forward_hook(lambda module, args, output: inputs.append(args[0].detach()))
    for _ in range(3):
        step(model)
    for x in inputs:
        expected(x)
    assert len(inputs) == 3
    assert int(norm.num_batches_tracked) == int(expected.num_batches_tracked)
    # float32 roundings of three averages.
    torch.testing.assert_close(norm.running_mean, expected.running_mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(norm.running_var, expected.running_var, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["function", "module", "function up to six"])
def test_prepared_models_are_copied_written_and_finalized_as_before(name, tmp_path):
    torch.manual_seed(0)
    model = prepared(CASES[name]())
    step(model)
    kept = io.BytesIO()
    torch.save(model, kept)
    kept.seek(0)
    output, _ = step(copy.deepcopy(model))
    for other in (copy.deepcopy(model), torch.load(kept, weights_only=False)):
        assert torch.equal(step(other)[0], output)
    final = mct.finalize(model)
    with torch.no_grad():
        torch.testing.assert_close(final(IMAGES), model.eval()(IMAGES), rtol=1e-5, atol=1e-5)
    pytest.importorskip("onnxruntime")
    report = mct.export(final, tmp_path / "model.onnx", IMAGES, verify=IMAGES, quiet=True)
    assert report.parity.passed


def test_hooks_see_values():
    torch.manual_seed(0)
    model, seen = prepared(CASES["module"]()), []
    model.get_submodule("norm1").register_forward_hook(lambda module, inputs, output: seen.append(output + 0.0))
    model.relu.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output + 0.0)))
    step(model)
    normalized, *relus = seen
    torch.testing.assert_close(normalized.mean((0, 2, 3)), model.get_submodule("norm1").norm.bias, rtol=0, atol=1e-5)
    assert len(relus) == 2
    for source, output in relus:
        assert torch.equal(output, functional.relu(source))


# Of the first module, whose input needs no gradient.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("name", ["function", "module"])
def test_backward_hooks_anywhere_change_no_gradient(name):
    torch.manual_seed(0)
    model, seen = prepared(CASES[name]()), []
    plain = copy.deepcopy(model)
    for path, module in model.named_modules():
        if path:
            module.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    output, gradients = step(model)
    expected_output, expected = step(plain)
    assert len(seen) > 10
    torch.testing.assert_close(output, expected_output, rtol=1e-5, atol=1e-6)
    for key, gradient in gradients.items():
        # With hooks torch's batch norm runs, which rounds otherwise.
        tolerance = 1e-4 * float(expected[key].abs().max()) + 1e-5
        torch.testing.assert_close(gradient, expected[key], rtol=0, atol=tolerance, msg=key)

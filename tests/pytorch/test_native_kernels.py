# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Native fake quantization on the CPU: the codes of the NumPy reference wherever a tensor lies."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from mct_quantizers.pytorch import kernels
from mct_quantizers.pytorch.native import library
from mct_quantizers.pytorch.native.fake_quantize import NativeCall, Settings

needs_compiler = pytest.mark.skipif(library.native_library() is None, reason="there is no C++ compiler")
SETTINGS = Settings(-8, 7)


@pytest.fixture
def without_native(monkeypatch):
    """Operators of torch only."""
    monkeypatch.setattr("mct_quantizers.pytorch.native.fake_quantize.native_library", lambda: None)


def samples(shape, seed=0):
    """Numbers around a grid of step 0.25: ties, ends, both zeros, infinities and NaN among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    flat = x.view(-1)
    special = torch.tensor([0.125, -0.125, 0.375, -0.0, 0.0, float("inf"), float("-inf"), float("nan"), 1e-40, 3e38])
    flat[: min(len(special), len(flat))] = special[: len(flat)]
    return x


def reference(x, scale, zero_point, low, high):
    """The one formula in NumPy."""
    x, scale = x.numpy(), scale.numpy()
    position = np.round(x / scale)
    if zero_point is None:
        return np.clip(position, np.float32(low), np.float32(high)) * scale
    point = zero_point.numpy().astype(np.float32)
    return (np.clip(position + point, np.float32(low), np.float32(high)) - point) * scale


def lying(x, kind):
    """`x` with the same values, lying otherwise in memory."""
    if kind == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if kind == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return x


SHAPES = [(1,), (7,), (5, 3), (4, 3, 5, 6), (3, 17, 4, 2), (3, 4, 1, 1), (2, 70, 9, 8), (1, 1, 64, 80)]
CASES = [
    (shape, axis, kind)
    for shape in SHAPES
    for axis in (None, *range(len(shape)))
    for kind in ("contiguous", "channels last", "transposed")
    if kind == "contiguous" or len(shape) == 4
]


def grid_of(shape, axis, has_zero_point):
    aligned = [1] * len(shape)
    if axis is not None:
        aligned[axis] = shape[axis]
    scale = 0.25 * (1 + torch.arange(float(np.prod(aligned)))).reshape(aligned)
    zero_point = torch.arange(int(np.prod(aligned)), dtype=torch.int32).reshape(aligned) % 5 if has_zero_point else None
    return scale, zero_point


@needs_compiler
@pytest.mark.parametrize("has_zero_point", [False, True])
@pytest.mark.parametrize(("shape", "axis", "kind"), CASES)
def test_values_are_those_of_the_reference_wherever_a_tensor_lies(shape, axis, kind, has_zero_point):
    x = lying(samples(shape), kind)
    scale, zero_point = grid_of(shape, axis, has_zero_point)
    native = NativeCall.of(x, scale, zero_point)
    assert native is not None
    y = native.forward(x, SETTINGS)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = reference(x, scale, zero_point, -8, 7)
    assert np.array_equal(y.numpy(), expected, equal_nan=True)
    if not has_zero_point:
        assert np.array_equal(np.signbit(y.numpy()), np.signbit(expected))
    assert y.stride() == x.stride()


@needs_compiler
@pytest.mark.parametrize("has_zero_point", [False, True])
@pytest.mark.parametrize(("shape", "axis", "kind"), CASES)
def test_gradients_are_those_of_the_operators(shape, axis, kind, has_zero_point, monkeypatch):
    x = lying(samples(shape).nan_to_num(0.3, 2.0, -2.0), kind).requires_grad_()
    scale, zero_point = grid_of(shape, axis, has_zero_point)
    scale.requires_grad_()
    upstream = samples(shape, seed=1).nan_to_num(0.5, 1.0, -1.0).clamp(-3, 3)

    def gradients():
        x.grad = scale.grad = None
        kernels.fake_quantize_learned(x, scale, zero_point, -8, 7, 0.5).backward(upstream)
        return x.grad, scale.grad

    to_x, to_scale = gradients()
    monkeypatch.setattr("mct_quantizers.pytorch.native.fake_quantize.native_library", lambda: None)
    expected_x, expected_scale = gradients()
    assert torch.equal(to_x, expected_x)
    assert to_scale.shape == scale.shape
    # float32 terms of at most 0.5 · 8 · 3, summed in another order.
    bound = 12 * x.numel() / scale.numel() * 2.0**-22
    torch.testing.assert_close(to_scale, expected_scale, rtol=0, atol=bound)


@needs_compiler
def test_results_do_not_depend_on_the_threads():
    x, upstream = torch.randn(64, 3, 40, 40), torch.randn(64, 3, 40, 40)
    scale, zero_point = grid_of(x.shape, 1, True)
    native = NativeCall.of(x, scale, zero_point)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((native.forward(x, SETTINGS), *native.backward(x, upstream, SETTINGS)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_compiler
@pytest.mark.parametrize(
    ("x", "scale"),
    [
        (torch.randn(4, 6)[:, ::2], torch.ones(1)),
        (torch.randn(1, 6).expand(4, 6), torch.ones(1)),
        (torch.randn(4, 6, dtype=torch.float64), torch.ones(1)),
        (torch.empty(0, 6), torch.ones(1)),
        (torch.randn(4, 6), torch.ones(4, 6)),
        (torch.randn(6), torch.ones(4, 1)),
        (torch.randn(4, 6, device="meta"), torch.ones(1, device="meta")),
        (torch.randn(4, 6), torch.ones(1, dtype=torch.float64)),
    ],
    ids=["gaps", "expanded", "float64", "empty", "two axes", "broadcast", "meta", "wide scale"],
)
def test_other_tensors_go_through_operators_of_torch(x, scale):
    assert NativeCall.of(x, scale, None) is None
    y = kernels.fake_quantize(x, scale, None, -8, 7)
    assert y.dtype == x.dtype


@needs_compiler
def test_parameters_and_half_precision_take_the_same_path():
    x = samples((4, 50)).nan_to_num(0.3, 2.0, -2.0)
    scale = nn.Parameter(torch.full((4, 1), 0.25))
    assert NativeCall.of(nn.Parameter(x), scale, None) is not None
    half = kernels.fake_quantize(x.bfloat16(), scale, None, -8, 7)
    assert half.dtype is torch.bfloat16
    assert torch.equal(half.float(), kernels.fake_quantize(x.bfloat16().float(), scale, None, -8, 7).bfloat16().float())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_takes_operators_of_torch():
    x, scale = torch.randn(3, 4, 5), torch.full((1,), 0.25)
    mapped = torch.vmap(lambda item: kernels.fake_quantize(item, scale, None, -8, 7))(x)
    assert torch.equal(mapped, kernels.fake_quantize(x, scale, None, -8, 7))


# Where there is no compiler.


def fresh_process(code, **environment):
    """Output of a program with its own library."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


TOLD = """
import logging
logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
import torch
from mct_quantizers.pytorch import kernels
for _ in range(2):
    print(kernels.fake_quantize(torch.tensor([0.3]), torch.tensor([0.25]), None, -8, 7).item())
"""


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({library.SWITCH: "0"}, "MCT_QUANTIZERS_NATIVE=0"),
        ({"CXX": "no-such-compiler"}, "no C++ compiler"),
        ({"CXX": "false"}, "failed with exit code 1"),
    ],
)
def test_without_a_compiler_everything_works_and_says_once_which_way(environment, reason, tmp_path):
    output = fresh_process(TOLD, **{library.CACHE: str(tmp_path), **environment})
    assert output.count("fake quantization on the CPU runs in operators of torch") == 1
    assert reason in output
    assert output.count("0.25\n") == 2
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_what_is_compiled_is_kept_for_the_next_process(tmp_path):
    first, second = (fresh_process(TOLD, **{library.CACHE: str(tmp_path)}) for _ in range(2))
    assert f"compiled {tmp_path}" in first
    assert f"compiled {tmp_path}" not in second
    assert first.count("runs in native code") == second.count("runs in native code") == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


HANGING = """
from mct_quantizers.pytorch.native import library
library._PATIENCE = 0.3
"""


def test_a_compiler_that_hangs_is_left_behind_said_once_and_stopped_at_the_end(tmp_path):
    compiler, pids = tmp_path / "hanging", tmp_path / "pids"
    # A child of its own, as compilers have them.
    compiler.write_text(f"#!/bin/sh\nsleep 600 &\necho $$ $! > {pids}\nwait\n")
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    output = fresh_process(HANGING + TOLD, **{library.CACHE: str(cache), "CXX": str(compiler)})
    assert output.count("has not finished within 0.3 s") == 1
    assert output.count("0.25\n") == 2
    assert not list(cache.iterdir())
    for pid in pids.read_text().split():
        state = Path(f"/proc/{pid}/stat")
        # A process that has ended may wait for its parent to ask how.
        assert not state.exists() or state.read_text().split()[2] == "Z"


@needs_compiler
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path):
    tmp_path.chmod(0o777)
    output = fresh_process(TOLD, **{library.CACHE: str(tmp_path)})
    assert "can be written by others" in output
    assert output.count("0.25\n") == 2
    assert not list(tmp_path.iterdir())


def test_the_way_is_logged_at_debug_level_only(without_native, caplog):
    with caplog.at_level(logging.INFO, logger="mct_quantizers"):
        kernels.fake_quantize(torch.tensor([0.3]), torch.tensor([0.25]), None, -8, 7)
    assert not caplog.records

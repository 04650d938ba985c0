# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import ast
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from corner_samples import NUM_BITS, corners, grid
from hypothesis import given
from hypothesis import strategies as st
from torch_samples import aligned, assert_same_bits

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.pytorch import kernels
from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.pending import batch_norm_before_quantization

KINDS = ("symmetric", "unsigned", "power_of_two", "uniform")
learned_both = pytest.mark.parametrize(
    "learned",
    [kernels.fake_quantize_learned, lambda *arguments: arithmetic.fake_quantize_learned(*arguments, torch_ops)],
    ids=["fused", "generic"],
)


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("num_bits", NUM_BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_equals_numpy_bit_for_bit(kind, num_bits, axis):
    params = grid(kind, num_bits, axis)
    x = corners(params, random=20_000)
    scale, zero_point = aligned(params)
    expected = arithmetic.fake_quantize(x, params, numpy_ops)
    tensor = torch.from_numpy(x)
    point = None if not params.zero_point.any() else zero_point
    assert_same_bits(kernels.fake_quantize(tensor, scale, point, params.quant_min, params.quant_max), expected)
    outputs = kernels.fake_quantize_learned(tensor, scale, point, params.quant_min, params.quant_max, 1.0)
    assert_same_bits(outputs, expected)


def test_kernel_equals_numpy_on_many_values():
    params = grid("uniform", 8)
    x = np.random.default_rng(5).normal(0, 2, 500_000).astype(np.float32)
    scale, zero_point = aligned(params)
    outputs = kernels.fake_quantize(torch.from_numpy(x), scale[0], zero_point[0], 0, 255)
    assert_same_bits(outputs, arithmetic.fake_quantize(x, params, numpy_ops))


def test_zero_points_of_zero_are_the_same_as_none():
    x = torch.from_numpy(corners(grid("symmetric", 4)))
    scale, zero_point = aligned(grid("symmetric", 4))
    without = kernels.fake_quantize(x, scale, None, -8, 7)
    # -0 + 0 is +0, hence equal as numbers, not as bits.
    np.testing.assert_array_equal(kernels.fake_quantize(x, scale, zero_point, -8, 7).numpy(), without.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_returned_in_its_own_type(dtype):
    params = grid("uniform", 8, axis=0)
    x = torch.from_numpy(corners(params)).to(dtype)
    scale, zero_point = aligned(params)
    outputs = kernels.fake_quantize(x, scale, zero_point, 0, 255)
    single = arithmetic.fake_quantize(x.float().numpy(), params, numpy_ops)
    assert outputs.dtype == dtype
    assert_same_bits(outputs.float(), torch.from_numpy(single).to(dtype).float().numpy())


def test_double_precision_equals_numpy_bit_for_bit():
    params = grid("uniform", 8, axis=0)
    x = np.random.default_rng(0).normal(0, 2, (4, 10_000))
    scale, zero_point = aligned(params)
    outputs = kernels.fake_quantize(torch.from_numpy(x), scale, zero_point, 0, 255)
    assert_same_bits(outputs, arithmetic.fake_quantize(x, params, numpy_ops))


def test_kernel_neither_changes_its_input_nor_asks_for_a_gradient():
    x = torch.linspace(-2, 2, 9, requires_grad=True)
    before = x.detach().clone()
    outputs = kernels.fake_quantize(x, torch.tensor([0.25], requires_grad=True), None, -4, 3)
    assert not outputs.requires_grad
    assert x.requires_grad
    assert torch.equal(x, before)
    assert outputs.data_ptr() != x.data_ptr()


def closed_form(x, scale, zero_point, quant_min, quant_max, upstream, factor):
    """Gradients to x and scale, one number at a time in float64."""
    to_x, to_scale = np.zeros(x.shape), np.zeros(scale.shape)
    for index in np.ndindex(x.shape):
        channel = tuple(i if n > 1 else 0 for i, n in zip(index, scale.shape, strict=True))
        ratio = float(x[index]) / float(scale[channel])
        point = int(zero_point[channel])
        position = round(ratio) + point
        inside = quant_min <= position <= quant_max
        code = min(max(position, quant_min), quant_max)
        to_x[index] = float(upstream[index]) if inside else 0.0
        to_scale[channel] += factor * float(upstream[index]) * (code - point - (ratio if inside else 0.0))
    return to_x, to_scale


def gradients(learned, x, scale, zero_point, low, high, factor, upstream):
    x = x.clone().requires_grad_()
    scale = scale.clone().requires_grad_()
    outputs = learned(x, scale, zero_point, low, high, factor)
    outputs.backward(upstream)
    return outputs.detach(), x.grad, scale.grad


@learned_both
@given(
    num_bits=st.integers(1, 8),
    kind=st.sampled_from(KINDS),
    axis=st.sampled_from([None, 0]),
    factor=st.sampled_from([1.0, 0.1, 2.0**-7]),
    seed=st.integers(0, 99),
)
def test_gradient_equals_the_closed_form(learned, num_bits, kind, axis, factor, seed):
    params = grid(kind, num_bits, axis)
    generator = np.random.default_rng(seed)
    x = generator.normal(0, 0.6, (4, 40)) * float((params.max_range - params.min_range).max())
    upstream = generator.normal(0, 1, x.shape)
    scale, zero_point = aligned(params, torch.float64)
    _, to_x, to_scale = gradients(
        learned,
        torch.from_numpy(x),
        scale,
        zero_point.double() if params.zero_point.any() else None,
        params.quant_min,
        params.quant_max,
        factor,
        torch.from_numpy(upstream),
    )
    expected_x, expected_scale = closed_form(
        x, scale.numpy(), zero_point.numpy(), params.quant_min, params.quant_max, upstream, factor
    )
    np.testing.assert_array_equal(to_x.numpy(), expected_x)
    # float64 sums of at most 160 terms of size |upstream| * 2**num_bits in another order.
    np.testing.assert_allclose(to_scale.numpy(), expected_scale, rtol=0, atol=factor * 160 * 2**num_bits * 1e-15)


@learned_both
@pytest.mark.parametrize("zero_point", [None, 3])
def test_gradient_to_input_passes_at_the_ends_of_the_mask(learned, zero_point):
    point = None if zero_point is None else torch.tensor([float(zero_point)])
    low, high = (-8, 7) if zero_point is None else (0, 15)
    centre = zero_point or 0
    # Scale 1/2: ties are exact. The ends themselves, and the last and first values that round to them.
    steps = torch.tensor(
        [low - 1.0, low - 0.5, low - 0.25, float(low), high - 0.0, high + 0.25, high + 0.5, high + 1.0]
    )
    x = (steps - centre) * 0.5
    _, to_x, _ = gradients(learned, x, torch.tensor([0.5]), point, low, high, 1.0, torch.ones_like(x))
    # Rounding comes before the zero point, so the ties go to the side whose quotient is even.
    quotients = [round(value) for value in (x / 0.5).tolist()]
    expected = [float(low <= quotient + centre <= high) for quotient in quotients]
    assert to_x.tolist() == expected
    assert expected[2:6] == [1.0, 1.0, 1.0, 1.0]
    assert expected[0] == expected[-1] == 0.0


@learned_both
def test_gradient_to_scale_outside_the_range_is_the_end_of_the_grid(learned):
    x = torch.tensor([-100.0, 100.0, float("inf"), -float("inf")])
    for position, expected in enumerate([-8.0, 7.0, 7.0, -8.0]):
        upstream = torch.zeros(4)
        upstream[position] = 1.0
        _, to_x, to_scale = gradients(learned, x, torch.tensor([0.5]), None, -8, 7, 1.0, upstream)
        assert to_scale.tolist() == [expected]
        assert to_x.tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["symmetric", "uniform"])
@pytest.mark.parametrize("factor", [1.0, 0.037])
def test_fused_gradient_equals_autograd_through_the_formula(kind, dtype, factor):
    params = grid(kind, 4, axis=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 500, generator=generator).mul(3).to(dtype)
    upstream = torch.randn(4, 500, generator=generator).to(dtype)
    scale, zero_point = aligned(params)
    point = zero_point.float() if params.zero_point.any() else None

    def generic(x, *arguments):
        # The wing casts at the door, as `arithmetic.fake_quantize` does.
        values = arithmetic.fake_quantize_learned(torch_ops.to_compute_dtype(x), *arguments, torch_ops)
        return torch_ops.cast_like(values, x)

    arguments = (x, scale, point, params.quant_min, params.quant_max, factor, upstream)
    fused = gradients(kernels.fake_quantize_learned, *arguments)
    autograd = gradients(generic, *arguments)
    for ours, theirs in zip(fused[:2], autograd[:2], strict=True):
        assert ours.dtype == theirs.dtype == dtype
        assert torch.equal(ours, theirs)
    assert fused[2].dtype == torch.float32
    # The same 500 float32 terms, summed in an order that the framework may choose; float64 input sums in float64.
    bound = 500 * 2.0**-24 * upstream.abs().max().item() * 16 * factor
    torch.testing.assert_close(fused[2], autograd[2], rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradient_is_computed_in_float32(dtype):
    params = grid("uniform", 6, axis=0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 50, generator=generator).to(dtype)
    upstream = torch.randn(4, 50, generator=generator).to(dtype)
    scale, zero_point = aligned(params)
    arguments = (scale, zero_point, params.quant_min, params.quant_max, 1.0)
    _, to_x, to_scale = gradients(kernels.fake_quantize_learned, x, *arguments, upstream)
    _, single_x, single_scale = gradients(kernels.fake_quantize_learned, x.float(), *arguments, upstream.float())
    assert to_x.dtype == dtype
    assert torch.equal(to_x.float(), single_x)
    assert torch.equal(to_scale, single_scale)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (3, 1, 1), (1, 4, 1), (1, 1, 5), (3, 1, 5)])
def test_scale_gradient_has_the_shape_of_the_scale_and_sums_the_rest(shape):
    generator = torch.Generator().manual_seed(2)
    x, upstream = (torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    scale = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    _, to_x, to_scale = gradients(kernels.fake_quantize_learned, x, scale, None, -2, 1, 1.0, upstream)
    full = scale.expand(3, 4, 5).contiguous()
    expected_x, expected_scale = closed_form(x.numpy(), full.numpy(), np.zeros((3, 4, 5)), -2, 1, upstream.numpy(), 1.0)
    np.testing.assert_array_equal(to_x.numpy(), expected_x)
    assert to_scale.shape == scale.shape
    summed = torch.from_numpy(expected_scale).sum_to_size(shape)
    # float64 sums of at most 60 terms below 10 in another order.
    np.testing.assert_allclose(to_scale.numpy(), summed.numpy(), rtol=0, atol=1e-13)


@learned_both
def test_scale_gradient_equals_finite_differences_of_the_surrogate(learned):
    # With the rounding residue r - x/s frozen, x̂ = s * (x/s + residue) inside and s * end outside: its derivative to s
    # is the residue or the end, which is the formula. Linear in s, so the difference quotient is exact up to rounding.
    x = torch.tensor([-3.0, -0.9, -0.2, 0.3, 0.85, 2.5], dtype=torch.float64)
    scale = torch.tensor([0.5], dtype=torch.float64)
    residue = torch.round(x / scale) - x / scale
    inside = (torch.round(x / scale) >= -2) & (torch.round(x / scale) <= 1)
    end = torch.where(x < 0, -2.0, 1.0)

    def surrogate(s):
        return torch.where(inside, x + s * residue, s * end)

    step = 2.0**-10
    expected = (surrogate(scale + step) - surrogate(scale - step)) / (2 * step)
    for position in range(x.numel()):
        upstream = torch.zeros_like(x)
        upstream[position] = 1.0
        _, _, to_scale = gradients(learned, x, scale, None, -2, 1, 1.0, upstream)
        # Cancellation: values of size 3, unit 2**-52, divided by a step of 2**-9.
        assert abs(to_scale.item() - expected[position].item()) <= 2.0**-52 * 3 * 2**10


@learned_both
def test_nan_reaches_no_other_gradient(learned):
    x = torch.tensor([[0.3, float("nan"), 0.6], [0.1, 0.2, 5.0]])
    scale = torch.tensor([[0.25], [0.5]])
    outputs, to_x, to_scale = gradients(learned, x, scale, None, -4, 3, 1.0, torch.ones_like(x))
    assert outputs.isnan().tolist() == [[False, True, False], [False, False, False]]
    assert to_x.tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    assert math.isfinite(to_scale[1].item())


def test_no_gradient_is_computed_that_nobody_asked_for():
    x, scale = torch.linspace(-1, 1, 5), torch.tensor([0.25])
    assert not kernels.fake_quantize_learned(x, scale, None, -4, 3).requires_grad
    leaf = x.clone().requires_grad_()
    kernels.fake_quantize_learned(leaf, scale, None, -4, 3).sum().backward()
    assert leaf.grad.tolist() == [1.0] * 4 + [0.0]
    assert scale.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["native", "operators"])
@pytest.mark.parametrize("is_pending", [False, True])
def test_a_second_derivative_is_refused_instead_of_wrong(is_pending, dtype):
    x = torch.randn(4, 3, 5, 5, dtype=dtype, requires_grad=True)
    source = x
    if is_pending:
        norm = torch.nn.BatchNorm2d(3)
        source = batch_norm_before_quantization(x * 1.0, norm, norm.weight)
        source = torch.nn.functional.batch_norm(x, None, None, training=True) if source is None else source
    y = kernels.fake_quantize_learned(source, torch.full((1,), 0.1, requires_grad=True), None, -8, 7)
    (first,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_gradient_factor_is_one_unless_given():
    x, scale = torch.linspace(-1, 1, 5), torch.tensor([0.25])
    without = gradients(lambda *a: kernels.fake_quantize_learned(*a[:-1]), x, scale, None, -4, 3, None, torch.ones(5))
    given_one = gradients(kernels.fake_quantize_learned, x, scale, None, -4, 3, 1.0, torch.ones(5))
    assert torch.equal(without[2], given_one[2])


# torch's own tracer of autograd functions raises it, whatever the function.
compiles = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def check_compiled(backend):
    torch._dynamo.reset()
    params = grid("uniform", 4, axis=0)
    scale, zero_point = aligned(params)
    generator = torch.Generator().manual_seed(0)
    x, upstream = torch.randn(4, 64, generator=generator) * 2, torch.randn(4, 64, generator=generator)
    compiled = torch.compile(kernels.fake_quantize_learned, fullgraph=True, backend=backend)
    arguments = (x, scale, zero_point, params.quant_min, params.quant_max, 0.1, upstream)
    return gradients(kernels.fake_quantize_learned, *arguments), gradients(compiled, *arguments)


@compiles
def test_compiled_kernel_equals_eager():
    eager, compiled = check_compiled("aot_eager")
    assert torch.equal(eager[0], compiled[0])
    assert torch.equal(eager[1], compiled[1])
    # 64 float32 terms below 50, which native code sums in another order.
    torch.testing.assert_close(eager[2], compiled[2], rtol=0, atol=64 * 50 * 2.0**-24)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_kernel_compiled_to_native_code_equals_eager():
    eager, compiled = check_compiled("inductor")
    assert torch.equal(eager[0], compiled[0])
    assert torch.equal(eager[1], compiled[1])
    # The fused sum of 64 float32 terms below 50 may run in another order.
    torch.testing.assert_close(eager[2], compiled[2], rtol=0, atol=64 * 50 * 2.0**-24)


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("is_compiled", [True, False])
@compiles
def test_a_gradient_factor_may_be_a_tensor(is_native, is_compiled, monkeypatch):
    if not is_native:
        monkeypatch.setattr("mct_quantizers.pytorch.native.fake_quantize.native_library", lambda: None)
    torch._dynamo.reset()
    x, upstream = torch.linspace(-1, 1, 5), torch.linspace(1, 2, 5)
    quantize = kernels.fake_quantize_learned
    if is_compiled:
        quantize = torch.compile(quantize, fullgraph=True, backend="aot_eager")
    number = gradients(quantize, x, torch.tensor([0.25]), None, -4, 3, 0.5, upstream)
    tensor = gradients(quantize, x, torch.tensor([0.25]), None, -4, 3, torch.tensor([0.5]), upstream)
    for ours, theirs in zip(tensor, number, strict=True):
        # A power of two: no rounding.
        assert torch.equal(ours, theirs)


def test_compilers_see_one_operator_of_which_they_keep_what_they_compile():
    # autograd's cache of compiled code takes operators, and no autograd.Function.
    seen = []

    def backend(graph, inputs):
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(kernels.fake_quantize_learned, fullgraph=True, backend=backend)
    compiled(torch.linspace(-1, 1, 5), torch.tensor([0.25]).requires_grad_(), None, -4, 3)
    assert [type(target) for target in seen] == [torch._ops.OpOverload]
    assert seen[0].namespace == "mct_quantizers"


def test_an_operator_is_named_by_what_it_does():
    def square(x):
        return x * x

    def cube(x):
        return x * x * x

    def square_again(x):
        return x * x

    assert kernels._fingerprint(square) == kernels._fingerprint(square_again)
    assert kernels._fingerprint(square) != kernels._fingerprint(cube)
    assert kernels._fingerprint(square, cube) != kernels._fingerprint(cube, square)


SECOND_PROCESS = """
import torch
from torch._dynamo.utils import counters
from mct_quantizers.pytorch import kernels

layer = torch.compile(lambda x, scale: kernels.fake_quantize_learned(x * 2.0, scale, None, -8, 7).sum())
layer(torch.linspace(-1, 1, 64).requires_grad_(), torch.tensor([0.25]).requires_grad_()).backward()
print(dict(counters["aot_autograd"]))
"""


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    counts = []
    for _ in range(2):
        command = [sys.executable, "-c", SECOND_PROCESS]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        counts.append(ast.literal_eval(done.stdout))
    assert counts[0].get("autograd_cache_hit", 0) == 0
    assert counts[1]["autograd_cache_hit"] == 1
    assert "autograd_cache_bypass" not in counts[1]

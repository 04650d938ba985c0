# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What every registered training method promises, against NumPy and closed forms."""

import copy
import pickle

import numpy as np
import pytest
import torch

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import from_range, from_threshold
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    SMALLEST_SCALE,
    elements_per_scale,
    method_class,
    registered_names,
)
from model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizer import PytorchMethodQuantizer

POT, SYMMETRIC, UNIFORM = GRIDS = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
WEIGHT, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
CHANNELS = 3
# Every registered method on every grid that it trains: weights both ways, activations per tensor.
CASES = [
    pytest.param(name, grid, target, axis, id=f"{name}-{grid.name}-{target.name}-{axis}")
    for name in registered_names()
    for grid in GRIDS
    if grid in method_class(name).supports
    for target, axis in ((WEIGHT, None), (WEIGHT, 0), (WEIGHT, 1), (ACTIVATION, None))
]
cases = pytest.mark.parametrize(("name", "grid", "target", "axis"), CASES)


def grid_params(grid, axis, num_bits=4, signed=True):
    size = 1 if axis is None else CHANNELS
    if grid is UNIFORM:
        return from_range(-np.linspace(0.5, 0.9, size), np.linspace(1.0, 2.0, size), num_bits, axis=axis)
    thresholds = 2.0 ** np.arange(size) if grid is POT else np.linspace(0.7, 1.9, size)
    return from_threshold(thresholds, num_bits, signed, axis=axis, power_of_two=grid is POT)


def values(axis, seed=0, size=40):
    """Values inside and outside the range, shape (40, 3) or with the channels first."""
    x = np.random.default_rng(seed).normal(scale=1.5, size=(size, CHANNELS)).astype(np.float32)
    return torch.tensor(x.T.copy() if axis == 0 else x)


def quantizer_of(name, grid, target, axis, **arguments):
    params = grid_params(grid, axis, **arguments)
    shape = tuple(values(axis).shape) if target is WEIGHT else None
    return PytorchMethodQuantizer(name, target, grid, params, shape)


def raw_scales(size):
    """Learned numbers as an optimizer may leave them."""
    spread = [0.1, -0.2, 0.31, 1e-12, -1e-31, 0.0, 1e-45, -3.7, 100.0]
    return [np.roll(np.array(spread, np.float32), -start)[:size] for start in range(len(spread))]


@cases
def test_output_lies_on_the_integer_grid(name, grid, target, axis):
    quantizer = quantizer_of(name, grid, target, axis)
    x, params = values(axis), quantizer.params
    output = quantizer(x).detach().double().numpy()
    aligned = arithmetic.broadcast_shape(2, axis)
    codes = output / params.scale.reshape(aligned) + params.zero_point.reshape(aligned)
    # (q - zero_point)·scale is rounded to float32 once: 2**-24 of at most 2**4 steps.
    assert np.abs(codes - np.round(codes)).max() <= 2**4 * 2.0**-24
    assert codes.min() >= params.quant_min - 1e-5
    assert codes.max() <= params.quant_max + 1e-5


@cases
def test_at_the_start_it_quantizes_as_calibrated(name, grid, target, axis):
    quantizer, x = quantizer_of(name, grid, target, axis), values(axis)
    assert quantizer.params == grid_params(grid, axis)
    expected = arithmetic.fake_quantize(x.numpy(), grid_params(grid, axis), numpy_ops)
    assert np.array_equal(quantizer(x).detach().numpy(), expected)


@cases
def test_freeze_equals_quantize_in_evaluation_bit_for_bit(name, grid, target, axis):
    quantizer, x = quantizer_of(name, grid, target, axis).eval(), values(axis)
    for raw in raw_scales(quantizer.scale.numel()):
        with torch.no_grad():
            quantizer.scale.copy_(torch.tensor(raw))
        frozen = quantizer.params
        expected = arithmetic.fake_quantize(x.numpy(), frozen, numpy_ops)
        assert np.array_equal(quantizer(x).detach().numpy(), expected), raw
        assert torch.equal(quantizer.convert2inferable()(x), quantizer(x).detach()), raw
        assert np.isfinite(frozen.scale).all()
        assert (frozen.scale >= SMALLEST_SCALE / 2).all()
        if grid is POT:
            assert (np.frexp(frozen.scale)[0] == 0.5).all()


def expected_gradients(x, upstream, params, factor):
    """Equations 3 and 5 of Esser et al. 2020 in float64, one element at a time."""
    aligned = arithmetic.broadcast_shape(x.ndim, params.axis)
    scale = np.broadcast_to(params.scale.reshape(aligned), x.shape)
    zero_point = np.broadcast_to(params.zero_point.reshape(aligned), x.shape)
    to_x, slope = np.zeros(x.shape), np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        # The ratio is float32, as in every engine: it decides which side of a tie a value falls on.
        ratio = float(np.float32(x[index]) / np.float32(scale[index]))
        position = round(ratio) + zero_point[index]
        inside = params.quant_min <= position <= params.quant_max
        code = min(max(position, params.quant_min), params.quant_max)
        to_x[index] = upstream[index] if inside else 0.0
        slope[index] = upstream[index] * (code - zero_point[index] - (ratio if inside else 0.0))
    axes = tuple(i for i in range(x.ndim) if params.axis is None or i != params.axis)
    return to_x, factor * slope.sum(axis=axes).reshape(params.scale.shape)


@cases
def test_gradients_follow_the_closed_form(name, grid, target, axis):
    quantizer, x = quantizer_of(name, grid, target, axis), values(axis, seed=1).requires_grad_()
    upstream = torch.tensor(np.random.default_rng(2).normal(size=x.shape).astype(np.float32))
    quantizer(x).backward(upstream)
    params = quantizer.params
    factor = (elements_per_scale(x.shape, params) * max(params.quant_max, 1)) ** -0.5
    to_x, to_scale = expected_gradients(x.detach().numpy(), upstream.numpy(), params, factor)
    assert np.array_equal(x.grad.numpy(), to_x.astype(np.float32))
    trainable = dict(quantizer.named_parameters())
    assert set(trainable) == ({"scale"} if name == "LSQ" else set())
    for parameter in trainable.values():
        # A float32 sum of at most 120 terms below 8 in magnitude.
        bound = factor * 120 * 8 * 120 * 2.0**-24
        np.testing.assert_allclose(parameter.grad.numpy(), to_scale, rtol=0, atol=bound)


@pytest.mark.parametrize("grid", [SYMMETRIC, UNIFORM])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_lsq_scale_gradient_equals_finite_differences_of_its_smooth_surrogate(grid, axis):
    """The straight-through estimator takes round(v) for v + c with a constant c.

    Its surrogate in the scale is `clip(x/s + c, quant_min - z, quant_max - z) · s` with c = round(x/s) - x/s held at
    the point of expansion: smooth wherever x is not at the clipping edge, and differentiable by finite differences.
    """
    quantizer = quantizer_of("LSQ", grid, WEIGHT, axis)
    x, params = values(axis, seed=3), quantizer.params
    quantizer(x).sum().backward()
    aligned = arithmetic.broadcast_shape(2, axis)
    zero_point, start = params.zero_point.reshape(aligned), params.scale.reshape(aligned)
    ratio = x.double().numpy() / start
    constant = np.round(ratio) - ratio

    def surrogate(scale):
        moved = x.double().numpy() / scale + constant
        inside = (np.round(ratio) >= params.quant_min - zero_point) & (np.round(ratio) <= params.quant_max - zero_point)
        edge = np.clip(np.round(ratio), params.quant_min - zero_point, params.quant_max - zero_point)
        total = np.where(inside, moved, edge) * scale
        return total.sum(axis=None if axis is None else 1 - axis).reshape(-1)

    step = 1e-5
    slope = (surrogate(start * (1 + step)) - surrogate(start * (1 - step))) / (2 * step * params.scale)
    factor = (elements_per_scale(x.shape, params) * params.quant_max) ** -0.5
    # Central differences of a function of 1/s: step**2 relative, and float64 cancellation of 1e-16/step.
    np.testing.assert_allclose(quantizer.scale.grad.numpy(), factor * slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("num_bits", "signed"), [(2, True), (4, True), (8, True), (3, False), (8, False)])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3), None), ((4, 3), 1), ((3, 5, 2), 0), ((16, 3, 2, 2), 1)])
def test_lsq_gradient_factor_is_that_of_the_paper(num_bits, signed, shape, axis):
    params = grid_params(SYMMETRIC, axis, num_bits, signed)
    quantizer = PytorchMethodQuantizer("LSQ", WEIGHT, SYMMETRIC, params, shape)
    # All values far above the range: each contributes quant_max to the slope.
    quantizer(torch.full(shape, 1e3)).sum().backward()
    count = np.prod(shape) // quantizer.scale.numel()
    expected = count * params.quant_max / np.sqrt(count * params.quant_max)
    np.testing.assert_allclose(quantizer.scale.grad.numpy(), np.full(params.scale.shape, expected), rtol=1e-6)


def test_lsq_activation_factor_counts_the_batch():
    params = grid_params(SYMMETRIC, None, 8, signed=False)
    gradients = []
    for size in (1, 4, 16):
        quantizer = PytorchMethodQuantizer("LSQ", ACTIVATION, SYMMETRIC, params)
        quantizer(torch.full((size, 7), 1e3)).sum().backward()
        gradients.append(float(quantizer.scale.grad))
    # 7·n elements, each with slope 255: the factor turns n·255 into sqrt(n·255).
    np.testing.assert_allclose(gradients, np.sqrt(7.0 * 255 * np.array([1, 4, 16])), rtol=1e-6)


@cases
def test_a_learned_scale_counts_by_its_magnitude(name, grid, target, axis):
    """A step of the optimizer across zero leaves the grid and turns the gradient to the learned number around."""
    results = []
    for sign in (1.0, -1.0):
        quantizer, x = quantizer_of(name, grid, target, axis), values(axis, seed=4)
        with torch.no_grad():
            quantizer.scale.mul_(1.1 * sign)
        output = quantizer(x)
        gradient = None
        if output.requires_grad:
            output.sum().backward()
            gradient = sign * quantizer.scale.grad
        results.append((output.detach(), gradient, quantizer.params))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][2] == results[1][2]
    assert (results[0][1] is None) == (name == "STE")
    if results[0][1] is not None:
        assert results[0][1].abs().max() > 0
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", registered_names())
def test_power_of_two_scales_round_in_the_logarithm(name):
    quantizer = quantizer_of(name, POT, ACTIVATION, None)
    for raw in (*np.geomspace(1e-6, 1e6, 61), 0.7, 0.71, 1.41, 1.42, 3.0, -0.3):
        with torch.no_grad():
            quantizer.scale.fill_(raw)
        assert quantizer.params.scale[0] == 2.0 ** np.round(np.log2(abs(np.float64(np.float32(raw)))))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(("target", "axis"), [(WEIGHT, 0), (WEIGHT, None), (ACTIVATION, None)])
def test_learned_scales_stay_positive_and_finite_at_ten_times_the_learning_rate(grid, optimizer, target, axis):
    for name in registered_names():
        if grid not in method_class(name).supports:
            continue
        quantizer, x = quantizer_of(name, grid, target, axis), values(axis, seed=5).requires_grad_()
        wanted = torch.sin(values(axis, seed=6))
        usual = {"SGD": 1e-1, "Adam": 1e-2}[optimizer]
        trainer = getattr(torch.optim, optimizer)([x, *quantizer.parameters()], lr=10 * usual)
        for _ in range(200):
            loss = (quantizer(x) - wanted).square().mean()
            trainer.zero_grad()
            loss.backward()
            trainer.step()
            assert torch.isfinite(loss)
            scale = quantizer.params.scale
            assert np.isfinite(scale).all()
            assert (scale > 0).all()


@pytest.mark.parametrize("name", registered_names())
def test_nan_stays_nan_and_infinity_saturates(name):
    quantizer = quantizer_of(name, SYMMETRIC, ACTIVATION, None)
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0])
    output, params = quantizer(x).detach(), quantizer.params
    assert torch.isnan(output[0])
    assert output[1:].tolist() == [np.float32(params.max_range[0]), np.float32(params.min_range[0]), 0.0]


def test_trained_uniform_grids_keep_zero_exact():
    quantizer = quantizer_of("LSQ", UNIFORM, ACTIVATION, None)
    for raw in (0.013, -0.7, 1e-6):
        with torch.no_grad():
            quantizer.scale.fill_(raw)
        assert quantizer(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


# The quantizer as a module.


@cases
def test_state_has_shape_of_the_channels_and_is_never_a_scalar(name, grid, target, axis):
    quantizer = quantizer_of(name, grid, target, axis)
    size = 1 if axis is None else CHANNELS
    state = quantizer.state_dict()
    assert set(state) == {"scale", *(["zero_point"] if grid is UNIFORM else [])}
    assert {tuple(tensor.shape) for tensor in state.values()} == {(size,)}
    assert quantizer.scale.dtype == torch.float32


@cases
def test_state_survives_deepcopy_pickle_and_a_strict_load(name, grid, target, axis):
    quantizer, x = quantizer_of(name, grid, target, axis), values(axis)
    with torch.no_grad():
        quantizer.scale.mul_(1.3)
    for twin in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(twin(x), quantizer(x))
        assert twin.params == quantizer.params
        assert twin.scale is not quantizer.scale
    fresh = quantizer_of(name, grid, target, axis)
    assert not torch.equal(fresh.scale, quantizer.scale)
    fresh.load_state_dict(quantizer.state_dict(), strict=True)
    assert torch.equal(fresh(x), quantizer(x))


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
@pytest.mark.parametrize("name", registered_names())
def test_half_precision_keeps_the_scale_in_float32_bit_for_bit(name, cast):
    quantizer = quantizer_of(name, UNIFORM, WEIGHT, 1)
    before = {key: tensor.clone() for key, tensor in quantizer.state_dict().items()}
    getattr(quantizer, cast)()
    for key, tensor in quantizer.state_dict().items():
        assert tensor.dtype == before[key].dtype
        assert torch.equal(tensor, before[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", registered_names())
def test_output_has_the_dtype_of_the_input_and_the_codes_of_float32(name, dtype):
    quantizer, x = quantizer_of(name, UNIFORM, WEIGHT, 1), values(1).to(dtype)
    output = quantizer(x)
    assert output.dtype == dtype
    wide = x.double() if dtype == torch.float64 else x.float()
    assert torch.equal(output, quantizer(wide).to(dtype))


@pytest.mark.parametrize("name", registered_names())
def test_autocast_keeps_the_dtype_of_the_input(name):
    quantizer, x = quantizer_of(name, UNIFORM, ACTIVATION, None), values(None)
    for dtype in (torch.float32, torch.bfloat16):
        expected = quantizer(x.to(dtype))
        with torch.autocast("cpu", torch.bfloat16):
            output = quantizer(x.to(dtype))
        assert output.dtype == dtype
        assert torch.equal(output, expected)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", registered_names())
@pytest.mark.parametrize("grid", GRIDS)
def test_compiled_forward_and_backward_equal_eager(name, grid):
    torch._dynamo.reset()
    results = []
    for compile_it in (False, True):
        quantizer, x = quantizer_of(name, grid, WEIGHT, 1), values(1).requires_grad_()
        call = torch.compile(quantizer, fullgraph=True, backend="aot_eager") if compile_it else quantizer
        output = call(x)
        output.square().sum().backward()
        results.append([output.detach(), x.grad, *(p.grad for p in quantizer.parameters())])
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


@pytest.mark.parametrize("name", registered_names())
def test_wrong_input_is_refused(name):
    quantizer = quantizer_of(name, SYMMETRIC, WEIGHT, 1)
    with pytest.raises(TypeError, match=r"floating-point.*int64"):
        quantizer(torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"3 channels.*\(3, 4\)"):
        quantizer(torch.zeros(3, 4))


@cases
def test_inferable_twin_is_of_the_same_target_and_grid(name, grid, target, axis):
    inferable = quantizer_of(name, grid, target, axis).convert2inferable()
    assert inferable.quantization_target is target
    assert inferable.quantization_method == [grid]
    assert not list(inferable.parameters())


def test_print_shows_method_grid_and_width():
    text = repr(quantizer_of("LSQ", UNIFORM, WEIGHT, 1))
    assert "LSQ, UNIFORM, num_bits=4, axis=1" in text

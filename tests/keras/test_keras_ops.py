# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Every function of the namespace, eager and compiled, against its NumPy twin; the formulas and their gradients."""

import inspect

import keras
import numpy as np
import pytest
from corner_samples import corners, grid

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.ops import Ops
from mct_quantizers.keras import kernels
from mct_quantizers.keras import ops as keras_ops

pytestmark = pytest.mark.keras
KINDS = ("symmetric", "unsigned", "power_of_two", "uniform")
# JAX computes in float64 only when it is told so before anything else.
HAS_DOUBLE = keras.config.backend() != "jax"
needs_double = pytest.mark.skipif(not HAS_DOUBLE, reason="the backend has no float64")


@pytest.fixture(params=["eager", "compiled"])
def run(request, compiled):
    """A function of tensors as it is, or as the backend compiles it; called with arrays."""
    make = compiled if request.param == "compiled" else lambda function: function

    def call(function, *arrays):
        return make(function)(*(keras.ops.convert_to_tensor(array) for array in arrays))

    return call


def numbers(dtype: type = np.float32) -> np.ndarray:
    """Ties, ends, special values; no subnormal numbers, which some processors flush to zero."""
    info = np.finfo(dtype)
    special = [0.0, -0.0, info.max, -info.max, np.inf, -np.inf, np.nan, info.tiny, -info.tiny]
    ties = np.arange(-6, 6.5, 0.5)
    beside = np.nextafter(ties[ties != 0].astype(dtype), dtype(9))
    random = np.random.default_rng(0).normal(0, 30, 500)
    return np.concatenate([special, ties, beside, random]).astype(dtype)


def test_the_namespace_supplies_every_name_of_the_protocol_with_its_arguments():
    names = [name for name in vars(Ops) if not name.startswith("_")]
    assert len(names) > 15
    for name in names:
        promised = list(inspect.signature(getattr(Ops, name)).parameters)[1:]
        assert list(inspect.signature(getattr(keras_ops, name)).parameters) == promised, name


# Types.


@pytest.mark.parametrize(("given", "computed"), [("float16", "float32"), ("bfloat16", "float32"), ("float32",) * 2])
def test_compute_dtype_is_at_least_float32_and_the_way_back_is_exact(given, computed):
    x = keras.ops.cast(keras.ops.convert_to_tensor(np.float32([0.5, -1.75, 3.0])), given)
    values = keras_ops.to_compute_dtype(x)
    back = keras_ops.cast_like(values, x)
    assert keras.backend.standardize_dtype(values.dtype) == computed
    assert keras.backend.standardize_dtype(back.dtype) == given
    assert bool(keras.ops.all(back == x))


@needs_double
def test_double_precision_stays():
    assert keras.backend.standardize_dtype(keras_ops.to_compute_dtype(np.zeros(2)).dtype) == "float64"


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_tensor_that_is_not_floating_point_is_refused(dtype):
    with pytest.raises(TypeError, match=f"floating-point.*dtype {dtype}$"):
        keras_ops.to_compute_dtype(keras.ops.zeros((2,), dtype=dtype))


def test_integers_are_int32_and_nan_has_none(as_numpy):
    codes = as_numpy(keras_ops.to_integer(keras.ops.convert_to_tensor(np.float32([-8.0, 65535.0, -0.0]))))
    assert codes.dtype == np.int32
    assert codes.tolist() == [-8, 65535, 0]
    with pytest.raises(ValueError, match="NaN"):
        keras_ops.to_integer(keras.ops.convert_to_tensor(np.float32([1.0, np.nan])))


@pytest.mark.parametrize("value", [0.1, [0.1, 2], np.array([0.1]), np.arange(3, dtype=np.int32)])
@pytest.mark.parametrize(
    ("like", "dtype"),
    [("bfloat16", "float32"), ("float32", "float32"), pytest.param("float64", "float64", marks=needs_double)],
)
def test_constant_has_the_compute_dtype(value, like, dtype, assert_same_bits):
    made = keras_ops.constant(value, keras.ops.zeros((1,), dtype=like))
    assert_same_bits(made, np.asarray(value, dtype))


def test_constant_is_a_copy(as_numpy):
    array = np.float32([1.0, 2.0])
    made = keras_ops.constant(array, keras.ops.zeros((1,)))
    array[0] = 9.0
    assert as_numpy(made).tolist() == [1.0, 2.0]


def test_constant_may_come_from_a_read_only_array(as_numpy):
    array = np.float32([1.0, 2.0])
    array.setflags(write=False)
    assert as_numpy(keras_ops.constant(array, keras.ops.zeros((1,)))).tolist() == [1.0, 2.0]


def test_shape_of_an_unknown_length_is_none():
    assert keras_ops.shape(keras.ops.zeros((2, 3))) == (2, 3)
    assert keras_ops.shape(keras.Input((5,))) == (None, 5)


# Functions of numbers.

LEVELS = np.float32([-3.0, -1.0, -1.0, 0.0, 2.5, 7.0, np.inf])
UNARY = {
    "round": lambda ops: ops.round,
    "absolute": lambda ops: ops.absolute,
    "clip": lambda ops: lambda x: ops.clip(x, -3, 2.5),
    "maximum": lambda ops: lambda x: ops.maximum(x, 0.5),
    "where": lambda ops: lambda x: ops.where(x >= 0.5, x, 7.0),
    "reshape": lambda ops: lambda x: ops.reshape(x, (-1, 1)),
    "stop_gradient": lambda ops: ops.stop_gradient,
    "take": lambda ops: lambda x: ops.take(ops.constant(LEVELS, x), ops.search_sorted(ops.constant(LEVELS[:-1], x), x)),
}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=needs_double)])
def test_function_equals_numpy_bit_for_bit(name, dtype, run, assert_same_bits):
    x = numbers(dtype)
    if name == "take":
        x = x.reshape(2, -1) if x.size % 2 == 0 else x[:-1].reshape(2, -1)
    assert_same_bits(run(UNARY[name](keras_ops), x), UNARY[name](numpy_ops)(x))


def test_search_counts_the_boundaries_that_are_not_above(run, as_numpy):
    x = np.concatenate([numbers(), LEVELS, np.nextafter(LEVELS[LEVELS != 0], np.float32(-9))])
    found = as_numpy(run(lambda t: keras_ops.search_sorted(keras_ops.constant(LEVELS, t), t), x))
    # NaN is above all of them.
    np.testing.assert_array_equal(found, numpy_ops.search_sorted(LEVELS, x))
    assert found[np.isnan(x)].tolist() == [LEVELS.size]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1), (2, 3, 4)])
def test_search_and_take_keep_the_shape(shape, run):
    x = np.full(shape, 0.3, np.float32)
    assert tuple(run(UNARY["take"](keras_ops), x).shape) == shape


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=needs_double)])
def test_frexp_of_normal_numbers_equals_numpy(dtype, run, as_numpy, assert_same_bits):
    info = np.finfo(dtype)
    powers = 2.0 ** np.arange(-120, 121, dtype=dtype)
    x = np.concatenate([powers, np.nextafter(powers, dtype(0)), 1.7 * powers, [info.tiny, info.max]]).astype(dtype)
    x = np.concatenate([x, -x])
    mantissa, exponent = run(keras_ops.frexp, x)
    expected, expected_exponent = np.frexp(x)
    assert_same_bits(mantissa, expected)
    np.testing.assert_array_equal(as_numpy(exponent), expected_exponent)


def test_stopped_gradient_is_zero(gradients):
    x = np.float32([0.5, -2.0])
    (gradient,) = gradients(lambda t: t * keras_ops.stop_gradient(t), x)
    np.testing.assert_array_equal(gradient, x)


# Division.

# 0.275 / 32 as float32: the quotient is above the tie 154.5, the product with the inverse on it.
SCALE, POINT = np.float32(0.00859375), np.float32(1.3277345)


def test_the_chosen_point_tells_division_from_multiplication():
    assert np.round(POINT / SCALE) == 155
    assert np.round(POINT * (np.float32(1) / SCALE)) == 154


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5)])
def test_division_by_a_constant_divides(shape, run, assert_same_bits):
    x = np.full(shape, POINT, np.float32)
    assert_same_bits(run(lambda t: keras_ops.divide(t, keras_ops.constant(SCALE, t)), x), x / SCALE)
    aligned = np.full((1,) * len(shape), SCALE, np.float32)
    assert_same_bits(run(lambda t: keras_ops.divide(t, keras_ops.constant(aligned, t)), x), x / aligned)


def test_division_by_a_number_of_python_divides(run, assert_same_bits):
    # Only powers of two are such divisors, in the formula of the tables.
    x = numbers()
    with np.errstate(over="ignore"):
        assert_same_bits(run(lambda t: keras_ops.divide(t, 1.0 / 128), x), x / np.float32(1 / 128))


def test_division_by_any_constant_equals_numpy_bit_for_bit(run, assert_same_bits):
    generator = np.random.default_rng(1)
    scale = generator.uniform(1e-3, 1, (64, 1)).astype(np.float32)
    ties = (np.arange(-64, 64) + np.float32(0.5)) * scale
    x = np.concatenate([ties, np.nextafter(ties, np.float32(9)), generator.normal(0, 9, (64, 200))], 1)
    x = x.astype(np.float32)
    x[:, :5] = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    assert_same_bits(run(lambda t: keras_ops.divide(t, keras_ops.constant(scale, t)), x), numpy_ops.divide(x, scale))


@pytest.mark.parametrize("first", [np.nan, np.inf, -np.inf, 0.0])
def test_the_first_number_of_a_tensor_does_not_change_how_the_others_are_divided(first, run, assert_same_bits):
    x = np.float32([first, POINT, 1.0])
    assert_same_bits(run(lambda t: keras_ops.divide(t, keras_ops.constant(SCALE, t)), x), x / SCALE)


def test_division_of_no_numbers_gives_none(run):
    x = np.zeros((0, 3), np.float32)
    assert tuple(run(lambda t: keras_ops.divide(t, keras_ops.constant(SCALE, t)), x).shape) == (0, 3)


# Formulas.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_bits", [1, 4, 8, 16])
def test_kernel_equals_numpy(kind, num_bits, run, assert_same_values):
    params = grid(kind, num_bits, axis=0)
    x = corners(params, random=2_000)
    scale = params.scale.astype(np.float32).reshape(-1, 1)
    zero_point = params.zero_point.copy().reshape(-1, 1) if kind == "uniform" else None
    outputs = run(lambda t: kernels.fake_quantize(t, scale, zero_point, params.quant_min, params.quant_max), x)
    assert_same_values(outputs, arithmetic.fake_quantize(x, params, numpy_ops))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_bits", [1, 4, 16])
def test_formulas_equal_numpy(kind, num_bits, assert_same_bits, assert_same_values):
    params = grid(kind, num_bits, axis=0)
    x = corners(params, random=2_000)
    outputs = arithmetic.fake_quantize(keras.ops.convert_to_tensor(x), params, keras_ops)
    assert_same_values(outputs, arithmetic.fake_quantize(x, params, numpy_ops))
    x = np.where(np.isnan(x), np.float32(0), x)
    codes = arithmetic.quantize(keras.ops.convert_to_tensor(x), params, keras_ops)
    expected = arithmetic.quantize(x, params, numpy_ops)
    assert_same_bits(codes, expected)
    like = keras.ops.zeros((1,))
    assert_same_bits(
        arithmetic.dequantize(codes, params, keras_ops, like=like),
        arithmetic.dequantize(expected, params, numpy_ops, like=x),
    )


def test_power_of_two_equals_numpy(run, assert_same_bits):
    x = np.random.default_rng(0).lognormal(0, 20, 5_000).astype(np.float32).clip(1e-30, 1e30)
    assert_same_bits(run(lambda t: arithmetic.power_of_two(t, keras_ops), x), arithmetic.power_of_two(x, numpy_ops))


def test_straight_through_rounding_has_gradient_one(gradients, as_numpy):
    x = np.linspace(-2, 2, 17, dtype=np.float32)
    (gradient,) = gradients(lambda t: arithmetic.round_ste(t, keras_ops), x)
    assert (gradient == 1).all()
    outputs = arithmetic.round_ste(keras.ops.convert_to_tensor(x), keras_ops)
    np.testing.assert_array_equal(as_numpy(outputs), np.round(x))


def test_scale_gradient_multiplies_the_gradient_alone(gradients, as_numpy):
    x = np.float32([0.5, 2.0])
    (gradient,) = gradients(lambda t: arithmetic.scale_gradient(t, 0.125, keras_ops), x)
    assert gradient.tolist() == [0.125, 0.125]
    assert as_numpy(arithmetic.scale_gradient(keras.ops.convert_to_tensor(x), 0.125, keras_ops)).tolist() == [0.5, 2.0]


# The learned formula: steps that are powers of two, inputs on sixteenths of them, so that every sum is exact.

LEARNED_SCALE = np.float32([[0.25], [1.0]])
LEARNED_ZERO = np.int32([[2], [5]])
FACTOR = 0.125


def learned_inputs() -> np.ndarray:
    ratios = np.arange(-12, 12, 1 / 16, dtype=np.float32)
    return np.stack([ratios * 0.25, ratios])


def learned(zero_point, low=-4, high=3):
    def function(x, scale):
        zeros = None if zero_point is None else keras_ops.constant(zero_point, x)
        return kernels.fake_quantize_learned(x, scale, zeros, low, high, FACTOR)

    return function


@pytest.mark.parametrize("zero_point", [None, LEARNED_ZERO], ids=["without_zero_point", "with_zero_point"])
def test_learned_formula_has_the_values_and_gradients_of_the_closed_form(zero_point, run, gradients, as_numpy):
    x = learned_inputs()
    low, high = (-4, 3) if zero_point is None else (0, 7)
    zeros = 0 if zero_point is None else zero_point
    function = learned(zero_point, low, high)
    ratio = x / LEARNED_SCALE
    position = np.round(ratio) + zeros
    inside = (position >= low) & (position <= high)
    codes = position.clip(low, high)
    np.testing.assert_array_equal(as_numpy(run(function, x, LEARNED_SCALE)), (codes - zeros) * LEARNED_SCALE)
    to_x, to_scale = gradients(function, x, LEARNED_SCALE)
    np.testing.assert_array_equal(to_x, inside.astype(np.float32))
    expected = FACTOR * (codes - zeros - np.where(inside, ratio, 0)).sum(1, keepdims=True)
    np.testing.assert_array_equal(to_scale, expected)
    # The ends of the grid are inside of it.
    assert to_x[position == low].all()
    assert to_x[position == high].all()
    assert 0 < inside.sum() < inside.size


def test_learned_formula_has_the_same_gradients_when_compiled(compiled, gradients):
    x, function = learned_inputs(), learned(LEARNED_ZERO, 0, 7)
    for eager, made in zip(
        gradients(function, x, LEARNED_SCALE), gradients(compiled(function), x, LEARNED_SCALE), strict=True
    ):
        np.testing.assert_array_equal(made, eager)


def test_learned_formula_divides_by_the_scale(run, assert_same_bits):
    x, scale = np.float32([POINT, -POINT]), np.float32([SCALE])
    outputs = run(lambda *t: kernels.fake_quantize_learned(*t, None, -(2**15), 2**15 - 1), x, scale)
    assert_same_bits(outputs, np.float32([155, -155]) * SCALE)


def test_learned_formula_keeps_nan_and_saturates_infinity(run, gradients, as_numpy):
    x, scale = np.float32([np.nan, np.inf, -np.inf, 3.4e38, 1.0]), np.float32([0.5])
    outputs = as_numpy(run(learned(None), x, scale))
    assert np.isnan(outputs[0])
    assert outputs[1:].tolist() == [1.5, -2.0, 1.5, 1.0]
    to_x, to_scale = gradients(learned(None), x[1:], scale)
    assert to_x.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert to_scale.tolist() == [FACTOR * (3 - 4 + 3 + 0)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_learned_formula_is_computed_in_float32(dtype, as_numpy):
    half = keras.ops.cast(keras.ops.convert_to_tensor(learned_inputs() * np.float32(1.1)), dtype)
    scale = keras.ops.convert_to_tensor(LEARNED_SCALE)
    outputs = learned(None)(half, scale)
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype
    expected = learned(None)(keras.ops.cast(half, "float32"), scale)
    np.testing.assert_array_equal(as_numpy(outputs), as_numpy(keras.ops.cast(expected, dtype)))


# What the cache of quantized weights asks.


def test_only_tensors_with_values_are_concrete(compiled):
    seen = []

    def function(x):
        seen.append(keras_ops.is_concrete(x))
        return x + 1

    x = keras.ops.ones((2,))
    function(x)
    assert seen == [True]
    compiled(function)(x)
    # torch's compiler does not run side effects while it traces: it runs them after, and says what it saw.
    assert seen[1:] == [False]


def test_a_snapshot_tells_any_change():
    variable = keras.Variable(np.float32([[1.0, 2.0], [3.0, 4.0]]))
    before = keras_ops.snapshot(keras.ops.convert_to_tensor(variable))
    assert keras_ops.is_unchanged(keras.ops.convert_to_tensor(variable), before)
    changed = np.float32([[1.0, 2.0], [3.0, np.nextafter(np.float32(4), np.float32(5))]])
    variable.assign(changed)
    assert not keras_ops.is_unchanged(keras.ops.convert_to_tensor(variable), before)


@pytest.mark.parametrize("other", [np.ones((4,), np.float32), np.ones((2, 2), np.float16)])
def test_another_shape_or_dtype_is_another_tensor(other):
    before = keras_ops.snapshot(keras.ops.ones((2, 2)))
    assert not keras_ops.is_unchanged(keras.ops.convert_to_tensor(other), before)

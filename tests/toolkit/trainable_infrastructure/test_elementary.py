# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The elementary functions: values against NumPy, gradients against closed forms in float64 and finite differences."""

import importlib
import importlib.util
import inspect
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mct_quantizers.common import arithmetic, numpy_ops, quant_utils
from mct_quantizers.common.quant_params import from_range, from_threshold
from model_compression_toolkit.trainable_infrastructure.common import elementary

PACKAGE = "model_compression_toolkit.trainable_infrastructure"
HAS_TORCH = importlib.util.find_spec("torch") is not None
# Without Keras the directory tests/keras is found, a package without a file.
HAS_KERAS = getattr(importlib.util.find_spec("keras"), "origin", None) is not None
NAMES = {
    "ste_round": "x",
    "ste_clip": "x min_val=-1.0 max_val=1.0",
    "grad_scale": "x scale=1.0",
    "adjust_range_to_include_zero": "range_min range_max n_bits",
    "symmetric_quantizer": "x threshold n_bits sign=False",
    "uniform_quantizer": "x range_min range_max n_bits",
    "symmetric_lsq_quantizer": "x thresholds num_bits sign min_int max_int scale_factor",
    "uniform_lsq_quantizer": "x min_range max_range num_bits min_int max_int scale_factor",
    "int_quantization_with_threshold": "data n_bits signed threshold eps",
}
CORNERS = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e38, -1e38, 1e-45], np.float32)


class Pytorch:
    """Calls the functions on torch tensors."""

    dtype = np.float64

    def __init__(self):
        self.functions = importlib.import_module(f"{PACKAGE}.pytorch.quantizer_utils")

    def tensor(self, array):
        import torch

        return torch.tensor(array)

    def array(self, tensor):
        return tensor.detach().numpy()

    def gradients(self, function, upstream, *arrays):
        """Gradients of Σ upstream · function(*arrays) to each of the arrays."""
        import torch

        tensors = [torch.tensor(each, requires_grad=True) for each in arrays]
        total = (torch.tensor(upstream) * function(*tensors)).sum()
        return [each.numpy() for each in torch.autograd.grad(total, tensors)]

    def compiled(self, function):
        import torch

        torch.compiler.reset()
        traced = torch.compile(function, fullgraph=True, backend="eager")

        def call(*args):
            with warnings.catch_warnings():
                # torch's own compiler uses what torch has deprecated.
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
                return traced(*args)

        return call


class Keras:
    """Calls the functions on the tensors of the Keras backend."""

    def __init__(self):
        import keras

        self.functions = importlib.import_module(f"{PACKAGE}.keras.quantizer_utils")
        self.backend = keras.config.backend()
        # JAX computes in float32 unless a program asks otherwise at its start.
        self.dtype = np.float32 if self.backend == "jax" else np.float64

    def tensor(self, array):
        import keras

        return keras.ops.convert_to_tensor(array)

    def array(self, tensor):
        import keras

        return keras.ops.convert_to_numpy(tensor)

    def gradients(self, function, upstream, *arrays):
        """Gradients of Σ upstream · function(*arrays) to each of the arrays."""
        if self.backend == "torch":
            return Pytorch.gradients(self, function, upstream, *arrays)
        if self.backend == "jax":
            import jax

            found = jax.grad(lambda *args: (upstream * function(*args)).sum(), argnums=tuple(range(len(arrays))))(
                *(jax.numpy.asarray(each) for each in arrays)
            )
            return [np.asarray(each) for each in found]
        import tensorflow as tf

        tensors = [tf.constant(each) for each in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = tf.reduce_sum(upstream * function(*tensors))
        return [each.numpy() for each in tape.gradient(total, tensors)]

    def compiled(self, function):
        if self.backend == "tensorflow":
            import tensorflow as tf

            return tf.function(function, jit_compile=True)
        if self.backend == "jax":
            import jax

            return jax.jit(function)
        return Pytorch.compiled(self, function)


@pytest.fixture(
    params=[
        pytest.param(Pytorch, marks=pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")),
        pytest.param(Keras, marks=[pytest.mark.keras, pytest.mark.skipif(not HAS_KERAS, reason="no Keras")]),
    ],
    ids=["pytorch", "keras"],
)
def wing(request):
    return request.param()


def tolerance(wing):
    """Of sums of some fifty products."""
    return {"rtol": 1e-11, "atol": 1e-12} if wing.dtype is np.float64 else {"rtol": 2e-5, "atol": 2e-5}


# The functions and their arguments.


def test_every_function_has_the_signature_of_the_interface(wing):
    assert sorted(wing.functions.__all__) == sorted(NAMES)
    for name, expected in NAMES.items():
        parameters = inspect.signature(getattr(wing.functions, name)).parameters.values()
        words = [str(item.replace(annotation=inspect.Parameter.empty)) for item in parameters]
        assert words == expected.split(), name


# Values.

float32s = st.floats(-100, 100, width=32)
thresholds = st.floats(2.0**-10, 2.0**10, width=32)
widths = st.integers(2, 8)
vectors = st.lists(float32s, min_size=1, max_size=20).map(lambda numbers: np.array(numbers, np.float32))


def test_rounding_keeps_the_values_of_half_to_even_rounding():
    x = np.concatenate([np.arange(-3, 3.5, 0.5, dtype=np.float32), CORNERS])
    np.testing.assert_array_equal(elementary.ste_round(x, numpy_ops), np.round(x))


def test_clipping_keeps_the_bound_far_outside():
    # A difference to 1e38 would have swallowed the bound.
    clipped = elementary.ste_clip(np.concatenate([CORNERS, np.array([0.5], np.float32)]), -1.5, 0.75, numpy_ops)
    expected = np.array([0.75, -1.5, np.nan, 0, 0, 0.75, -1.5, 1e-45, 0.5], np.float32)
    np.testing.assert_array_equal(clipped, expected)


@given(vectors, st.floats(-4, 4))
def test_a_scaled_gradient_keeps_the_value_exactly(x, factor):
    np.testing.assert_array_equal(elementary.grad_scale(x, factor, numpy_ops), x)


@given(vectors, thresholds, widths, st.booleans())
def test_symmetric_quantizers_have_the_values_of_the_inferable_one(x, threshold, num_bits, sign):
    x, threshold = np.concatenate([x, CORNERS]), np.float32([threshold])
    params = from_threshold(threshold, num_bits, sign)
    expected = arithmetic.fake_quantize(x, params, numpy_ops)
    ends = (params.quant_min, params.quant_max)
    straight = elementary.symmetric_quantizer(x, threshold, num_bits, sign, numpy_ops)
    learned = elementary.symmetric_lsq_quantizer(x, threshold, num_bits, sign, *ends, 0.3, numpy_ops)
    np.testing.assert_array_equal(straight, expected)
    np.testing.assert_array_equal(learned, expected)
    assert straight.dtype == learned.dtype == np.float32


@given(thresholds, widths, st.booleans(), vectors)
def test_symmetric_quantizer_is_idempotent_monotone_and_near(threshold, num_bits, sign, x):
    x, step = np.sort(x).astype(np.float64), threshold / 2 ** (num_bits - sign)
    low, high = (-threshold if sign else 0.0), threshold - step
    q = elementary.symmetric_quantizer(x, np.array([threshold]), num_bits, sign, numpy_ops)
    again = elementary.symmetric_quantizer(q, np.array([threshold]), num_bits, sign, numpy_ops)
    np.testing.assert_array_equal(again, q)
    assert (np.diff(q) >= 0).all()
    assert ((q >= low) & (q <= high)).all()
    np.testing.assert_array_less(np.abs(q - np.clip(x, low, high)), step / 2 * (1 + 1e-12))


ranges = st.tuples(float32s, st.floats(2.0**-6, 100, width=32)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(ranges, widths)
def test_adjusted_range_is_that_of_the_runtime(ends, num_bits):
    low, high = (np.array([end]) for end in ends)
    ours = elementary.adjust_range_to_include_zero(low, high, num_bits, numpy_ops)
    expected = quant_utils.adjust_range_to_include_zero(low, high, num_bits)
    # The runtime's ends are clamped to zero, these are not.
    np.testing.assert_array_equal((np.minimum(ours[0], 0.0), np.maximum(ours[1], 0.0)), expected)
    steps = 2**num_bits - 1
    position = ours[0] / ((ours[1] - ours[0]) / steps)
    np.testing.assert_allclose(position, np.round(position), atol=1e-9 * steps)
    if ends[0] <= 0 <= ends[1]:
        np.testing.assert_allclose(ours[1] - ours[0], ends[1] - ends[0], rtol=1e-12)


def test_range_on_one_side_of_zero_is_extended_to_it():
    low, high = np.array([1.0, -3.0, -1.0, 0.0, -2.0]), np.array([2.0, -1.0, 2.0, 3.0, 0.0])
    ends = elementary.adjust_range_to_include_zero(low, high, 3, numpy_ops)
    # -1 … 2 has steps of 3/7, of which two lie below zero.
    np.testing.assert_allclose(ends, [[0, -3, -6 / 7, 0, -2], [2, 0, 15 / 7, 3, 0]], rtol=1e-15)


@given(ranges, widths, st.integers(0, 2**32 - 1))
def test_uniform_quantizers_have_the_values_of_the_inferable_one(ends, num_bits, seed):
    low, high = (np.array([end]) for end in ends)
    params = from_range(low, high, num_bits)
    generator, steps = np.random.default_rng(seed), 2**num_bits - 1
    # Not at the middle of a step, where the last bit of a number decides.
    position = generator.integers(-3, steps + 4, 30) + generator.uniform(-0.45, 0.45, 30)
    x = (position - params.zero_point) * params.scale
    x = np.concatenate([x, [np.inf, -np.inf, np.nan]])
    expected = arithmetic.fake_quantize(x, params, numpy_ops)
    close = {"rtol": 0, "atol": 1e-6 * steps * params.scale[0]}
    np.testing.assert_allclose(elementary.uniform_quantizer(x, low, high, num_bits, numpy_ops), expected, **close)
    learned = elementary.uniform_lsq_quantizer(x, low, high, num_bits, 0, steps, 0.3, numpy_ops)
    np.testing.assert_allclose(learned, expected, **close)


def test_integers_outside_the_ends_that_are_given_are_clipped():
    x, one = np.linspace(-2, 2, 81), np.array([1.0])
    q = elementary.symmetric_lsq_quantizer(x, one, 4, True, -3, 2, 1.0, numpy_ops)
    assert set(q * 8) == {-3, -2, -1, 0, 1, 2}
    q = elementary.uniform_lsq_quantizer(x, 0 * one, one, 4, 1, 5, 1.0, numpy_ops)
    np.testing.assert_allclose(np.unique(q * 15), [1, 2, 3, 4, 5], rtol=1e-12)


CALLS = {
    "ste_round": lambda f, x: f.ste_round(x),
    "ste_clip": lambda f, x: f.ste_clip(x),
    "ste_clip ends": lambda f, x: f.ste_clip(x, -0.25, 2.5),
    "grad_scale": lambda f, x: f.grad_scale(x, 0.3),
    "symmetric": lambda f, x: f.symmetric_quantizer(x, 1.3, 4, True),
    "symmetric unsigned": lambda f, x: f.symmetric_quantizer(x, 1.3, 4),
    "symmetric channels": lambda f, x: f.symmetric_quantizer(x, [[0.4], [1.3], [2.9]], 5, True),
    "symmetric_lsq": lambda f, x: f.symmetric_lsq_quantizer(x, [1.3], 4, True, -8, 7, 0.1),
    "uniform": lambda f, x: f.uniform_quantizer(x, -0.7, 1.9, 4),
    "uniform channels": lambda f, x: f.uniform_quantizer(x, [[-0.4], [0.3], [-2]], [[0.9], [1.5], [-1]], 4),
    "uniform_lsq": lambda f, x: f.uniform_lsq_quantizer(x, -0.7, [1.9], 4, 0, 15, 0.1),
}


class Reference:
    """The functions over NumPy, called like those of a wing."""

    @staticmethod
    def _parameters(x, *values):
        return [np.asarray(value, np.float32) for value in values]

    def __getattr__(self, name):
        function = getattr(elementary, name)
        defaults = {"ste_clip": (-1.0, 1.0), "symmetric_quantizer": (False,)}.get(name, ())
        count = {"symmetric_quantizer": 1, "symmetric_lsq_quantizer": 1}.get(name, 2 if "uniform" in name else 0)

        def call(x, *args):
            given = len(inspect.signature(function).parameters) - 2
            args = (*args, *defaults[len(defaults) - (given - len(args)) :]) if len(args) < given else args
            return function(x, *self._parameters(x, *args[:count]), *args[count:], numpy_ops)

        return call


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
def test_both_wings_have_the_values_of_numpy(wing, call, is_compiled):
    x = np.random.default_rng(0).normal(0, 2, (3, 40)).astype(np.float32)
    x[:, : CORNERS.size] = CORNERS
    expected = call(Reference(), x)
    run = wing.compiled(lambda x: call(wing.functions, x)) if is_compiled else lambda x: call(wing.functions, x)
    actual = wing.array(run(wing.tensor(x)))
    assert actual.dtype == np.float32
    assert actual.shape == x.shape
    if is_compiled and "uniform" in inspect.getsource(call).partition("lambda")[2]:
        # A compiler may add without rounding the product before.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2.0**-22)
    else:
        # Flushing subnormal numbers to zero is the engine's choice.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-44)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_half_precision_is_computed_in_float32_and_returned(wing, call):
    x = np.random.default_rng(1).normal(0, 2, (3, 40)).astype(np.float16)
    actual = wing.array(call(wing.functions, wing.tensor(x)))
    assert actual.dtype == np.float16
    single = wing.array(call(wing.functions, wing.tensor(x.astype(np.float32))))
    np.testing.assert_array_equal(actual, single.astype(np.float16))


def test_parameters_may_be_of_another_precision_than_the_tensor(wing):
    x = np.linspace(-2, 2, 9, dtype=np.float16)
    threshold = wing.tensor(np.array([1.3], np.float32))
    actual = wing.array(wing.functions.symmetric_quantizer(wing.tensor(x), threshold, 8, True))
    expected = elementary.symmetric_quantizer(x.astype(np.float32), np.float32([1.3]), 8, True, numpy_ops)
    np.testing.assert_array_equal(actual, expected.astype(np.float16))


def test_adjusted_ends_are_tensors_in_the_precision_of_the_ends(wing):
    for ends in ((-1.0, 2.0), ([-1.0], np.array([2.0])), (wing.tensor(np.float32(-1)), 2.0)):
        low, high = wing.functions.adjust_range_to_include_zero(*ends, 3)
        assert wing.array(low).dtype == wing.array(high).dtype == np.float32
        np.testing.assert_allclose(wing.array(low), np.full(np.shape(ends[0]), -6 / 7), rtol=1e-6)
        np.testing.assert_allclose(wing.array(high), np.full(np.shape(ends[1]), 15 / 7), rtol=1e-6)
    tensors = [wing.tensor(np.array(end, wing.dtype)) for end in (-1, 2)]
    for end in wing.functions.adjust_range_to_include_zero(*tensors, 3):
        assert wing.array(end).dtype == wing.dtype


# Gradients.


def positions(low, high, seed=0, count=60):
    """Places on a grid of integers: inside, beyond both ends, at the ends and just within their rounding."""
    generator = np.random.default_rng(seed)
    found = generator.integers(low - 4, high + 5, count) + generator.uniform(-0.4, 0.4, count)
    found[:6] = [low, high, low - 0.4, high + 0.4, low - 0.6, high + 0.6]
    return found


def clipped(v, low, high):
    """Clipped integer and whether the gradient passes, for places `v`."""
    r = np.round(v)
    return np.clip(r, low, high), (r >= low) & (r <= high)


def upstream_of(x):
    return np.random.default_rng(9).normal(size=x.shape)


def check(wing, function, upstream, arrays, expected):
    actual = wing.gradients(function, upstream.astype(wing.dtype), *(each.astype(wing.dtype) for each in arrays))
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, **tolerance(wing))


PARAMETER_SHAPES = pytest.mark.parametrize("shape", [(), (1,), (3, 1)], ids=["number", "vector", "channels"])


def summed(values, shape):
    """Sum over what shares a parameter."""
    if shape == (3, 1):
        return values.sum(axis=1, keepdims=True)
    return values.sum().reshape(shape)


def spread(shape, *values):
    """The parameter: one number, or one for each channel."""
    return np.array(values).reshape(3, 1) if shape == (3, 1) else np.full(shape, values[0])


def test_rounding_has_gradient_one_and_clipping_too_outside(wing):
    x = np.array([-3.0, -1.0, -0.3, 0.2, 1.0, 1.7, 1e6])
    upstream = upstream_of(x)
    check(wing, wing.functions.ste_round, upstream, [x], [upstream])
    check(wing, wing.functions.ste_clip, upstream, [x], [upstream])
    check(wing, lambda x: wing.functions.ste_clip(x, -0.5, 0.1), upstream, [x], [upstream])


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0, -3.7])
def test_grad_scale_multiplies_the_gradient(wing, factor):
    x = np.array([-3.0, 0.2, 1.7])
    upstream = upstream_of(x)
    check(wing, lambda x: wing.functions.grad_scale(x, factor), upstream, [x], [factor * upstream])
    check(wing, wing.functions.grad_scale, upstream, [x], [upstream])


def test_infinite_and_undefined_numbers_leave_the_gradient_of_the_others_alone(wing):
    x = np.array([np.inf, 0.3, -np.inf, np.nan, -1.2])
    for function in (wing.functions.ste_round, wing.functions.ste_clip):
        (gradient,) = wing.gradients(function, np.ones(5, wing.dtype), x.astype(wing.dtype))
        np.testing.assert_array_equal(gradient[[1, 4]], 1.0)
        assert np.isfinite(gradient).all()


@PARAMETER_SHAPES
@pytest.mark.parametrize("sign", [True, False])
def test_gradients_of_the_straight_through_symmetric_quantizer(wing, sign, shape):
    threshold, count = spread(shape, 1.3, 0.4, 6.1), 2 ** (4 - sign)
    low, high = (-8, 7) if sign else (0, 15)
    v = np.stack([positions(low, high, seed) for seed in range(3)])
    x, upstream = v * threshold / count, upstream_of(v)
    c, _ = clipped(v, low, high)
    expected = [upstream, summed(upstream * (c - v) / count, shape)]
    check(wing, lambda x, t: wing.functions.symmetric_quantizer(x, t, 4, sign), upstream, [x, threshold], expected)


@PARAMETER_SHAPES
@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize("factor", [1.0, 0.07])
def test_gradients_of_the_symmetric_lsq_quantizer(wing, sign, shape, factor):
    threshold, count = spread(shape, 1.3, 0.4, 6.1), 2 ** (4 - sign)
    ends = (-8, 7) if sign else (0, 15)
    v = np.stack([positions(*ends, seed) for seed in range(3)])
    x, upstream = v * threshold / count, upstream_of(v)
    c, inside = clipped(v, *ends)
    expected = [upstream * inside, summed(upstream * factor * (c - inside * v) / count, shape)]

    def function(x, t):
        return wing.functions.symmetric_lsq_quantizer(x, t, 4, sign, *ends, factor)

    check(wing, function, upstream, [x, threshold], expected)


def test_the_gradient_passes_at_both_ends_of_the_grid(wing):
    # In steps of 1/8: rounding gives -8 and 7, the ends; a little further out it gives -9 and 8.
    v = np.array([-8.4, -8.0, 7.0, 7.4, -8.6, 7.6])
    (gradient,) = wing.gradients(
        lambda x: wing.functions.symmetric_lsq_quantizer(x, 1.0, 4, True, -8, 7, 1.0),
        np.ones(6, wing.dtype),
        (v / 8).astype(wing.dtype),
    )
    assert gradient.tolist() == [1, 1, 1, 1, 0, 0]
    (gradient,) = wing.gradients(
        lambda x: wing.functions.uniform_lsq_quantizer(x, 0.0, 15 / 8, 4, 0, 15, 1.0),
        np.ones(4, wing.dtype),
        np.array([-0.4 / 8, 15.4 / 8, -0.6 / 8, 15.6 / 8], wing.dtype),
    )
    assert gradient.tolist() == [1, 1, 0, 0]


AROUND_ZERO = ((-0.7, -0.31, -4.2), (1.9, 1.3, 0.9))
ABOVE_ZERO = ((0.2, 0.31, 1.2), (1.9, 1.3, 2.9))
BELOW_ZERO = ((-1.9, -1.3, -2.9), (-0.2, -0.31, -1.2))


def range_case(shape, ends, num_bits=4):
    """x, its places, both ends, `k` and the number of steps."""
    low, high = (spread(shape, *end) for end in ends)
    steps = 2**num_bits - 1
    first, last = elementary.adjust_range_to_include_zero(low, high, num_bits, numpy_ops)
    step = (last - first) / steps
    v = np.stack([positions(0, steps, seed) for seed in range(3)])
    return v * step + first, v, low, high, np.round(low / ((high - low) / steps)), steps


@PARAMETER_SHAPES
@pytest.mark.parametrize("ends", [AROUND_ZERO, ABOVE_ZERO, BELOW_ZERO], ids=["around", "above", "below"])
def test_gradients_of_the_straight_through_uniform_quantizer(wing, ends, shape):
    x, v, low, high, _, steps = range_case(shape, ends)
    upstream = upstream_of(x)
    c, _ = clipped(v, 0, steps)
    slope = summed(upstream * (c - v) / steps, shape)
    to_low, to_high = {AROUND_ZERO: (-slope, slope), ABOVE_ZERO: (0 * slope, slope), BELOW_ZERO: (-slope, 0 * slope)}[
        ends
    ]
    check(
        wing,
        lambda x, low, high: wing.functions.uniform_quantizer(x, low, high, 4),
        upstream,
        [x, low, high],
        [upstream, to_low, to_high],
    )


@PARAMETER_SHAPES
@pytest.mark.parametrize("ends", [AROUND_ZERO, ABOVE_ZERO, BELOW_ZERO], ids=["around", "above", "below"])
@pytest.mark.parametrize("factor", [1.0, 0.07])
def test_gradients_of_the_uniform_lsq_quantizer(wing, ends, shape, factor):
    x, v, low, high, k, steps = range_case(shape, ends)
    upstream = upstream_of(x)
    c, inside = clipped(v, 0, steps)
    through_step = factor * (c - inside * v) / steps
    if ends is AROUND_ZERO:
        both = summed(upstream * (through_step + (1 - inside) * k / steps), shape)
        to_low, to_high = -both, both
    elif ends is ABOVE_ZERO:
        to_high = summed(upstream * through_step, shape)
        to_low = 0 * to_high
    else:
        # The grid starts at the smallest value and ends at zero.
        to_low = summed(upstream * (-through_step + (1 - inside)), shape)
        to_high = 0 * to_low
    check(
        wing,
        lambda x, low, high: wing.functions.uniform_lsq_quantizer(x, low, high, 4, 0, steps, factor),
        upstream,
        [x, low, high],
        [upstream * inside, to_low, to_high],
    )


def test_a_range_of_no_width_beside_zero_gives_no_undefined_gradient(wing):
    x, ends = np.array([0.1, 0.9, 3.0]), [np.array(2.0), np.array(2.0)]
    found = wing.gradients(
        lambda x, low, high: wing.functions.uniform_quantizer(x, low, high, 4),
        np.ones(3, wing.dtype),
        *(each.astype(wing.dtype) for each in (x, *ends)),
    )
    for gradient in found:
        assert np.isfinite(gradient).all()


# Finite differences: the gradients are those of the functions in which what rounding adds is held fixed.


def held(function, *arrays):
    """`function(round_and_clip, *arrays)` in which the additions of rounding (and clipping) are those at `arrays`."""
    additions = []

    def record(value, added):
        additions.append(added)
        return value + added

    function(record, *arrays)

    def moved_function(*moved):
        left = iter(additions)
        return function(lambda value, added: value + next(left), *moved)

    return moved_function


def differences(function, upstream, *arrays, h=1e-6):
    """Central differences of Σ upstream · function(*arrays) to each number of the arrays."""
    found = []
    for place, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            values = []
            for sign in (1, -1):
                moved = [each.copy() for each in arrays]
                moved[place][index] += sign * h
                values.append((upstream * function(*moved)).sum())
            gradient[index] = (values[0] - values[1]) / (2 * h)
        found.append(gradient)
    return found


def straight(low, high):
    """Rounding and clipping, both straight through, of values on the grid."""

    def apply(hold, v):
        return hold(v, np.clip(np.round(v), low, high) - v)

    return apply


def learned(low, high):
    """Rounding straight through, then real clipping."""

    def apply(hold, v):
        return np.clip(hold(v, np.round(v) - v), low, high)

    return apply


@pytest.mark.parametrize("name", ["symmetric_quantizer", "symmetric_lsq_quantizer"])
def test_symmetric_gradients_are_those_of_finite_differences(wing, name):
    threshold = np.array([[1.3], [0.4], [6.1]])
    v = np.stack([positions(-8, 7, seed, 20) for seed in range(3)])
    # Where clipping bends, no difference tells the slope.
    v[np.isin(np.round(v), (-8, 7))] += 0.05
    grid = (straight if name == "symmetric_quantizer" else learned)(-8, 7)
    v = v[:, 6:]
    x, upstream = v * threshold / 8, upstream_of(v)
    is_bent = np.isin(np.round(v), (-8, 7)) & (name == "symmetric_lsq_quantizer")
    upstream = np.where(is_bent, 0.0, upstream)
    function = held(lambda hold, x, t: t / 8 * grid(hold, x / (t / 8)), x, threshold)
    expected = differences(function, upstream, x, threshold)
    rest = {"symmetric_quantizer": (4, True), "symmetric_lsq_quantizer": (4, True, -8, 7, 1.0)}[name]
    check_differences(wing, name, rest, upstream, [x, threshold], expected)


@pytest.mark.parametrize("name", ["uniform_quantizer", "uniform_lsq_quantizer"])
@pytest.mark.parametrize("ends", [AROUND_ZERO, ABOVE_ZERO, BELOW_ZERO], ids=["around", "above", "below"])
def test_uniform_gradients_are_those_of_finite_differences(wing, name, ends):
    x, v, low, high, _, steps = range_case((3, 1), ends)
    grid = (straight if name == "uniform_quantizer" else learned)(0, steps)
    is_bent = np.isin(np.round(v), (0, steps)) & (name == "uniform_lsq_quantizer")
    upstream = np.where(is_bent, 0.0, upstream_of(x))

    def quantize(hold, x, low, high):
        first, last = elementary.adjust_range_to_include_zero(low, high, 4, numpy_ops)
        step = (last - first) / steps
        return step * grid(hold, (x - first) / step) + first

    expected = differences(held(quantize, x, low, high), upstream, x, low, high)
    rest = {"uniform_quantizer": (4,), "uniform_lsq_quantizer": (4, 0, steps, 1.0)}[name]
    check_differences(wing, name, rest, upstream, [x, low, high], expected)


def check_differences(wing, name, rest, upstream, arrays, expected):
    function = getattr(wing.functions, name)
    actual = wing.gradients(
        lambda *tensors: function(*tensors, *rest),
        upstream.astype(wing.dtype),
        *(each.astype(wing.dtype) for each in arrays),
    )
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("ends", [AROUND_ZERO, ABOVE_ZERO, BELOW_ZERO], ids=["around", "above", "below"])
@pytest.mark.parametrize("which", [0, 1], ids=["low", "high"])
def test_gradients_of_the_adjusted_ends_are_those_of_finite_differences(wing, ends, which):
    low, high = (np.array(end) for end in ends)
    upstream = upstream_of(low)
    # The function itself is smooth between the jumps of the rounding.
    expected = differences(
        lambda low, high: elementary.adjust_range_to_include_zero(low, high, 4, numpy_ops)[which], upstream, low, high
    )
    actual = wing.gradients(
        lambda low, high: wing.functions.adjust_range_to_include_zero(low, high, 4)[which],
        upstream.astype(wing.dtype),
        low.astype(wing.dtype),
        high.astype(wing.dtype),
    )
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.keras
@pytest.mark.skipif(not HAS_KERAS, reason="Keras is not installed")
def test_keras_variables_are_parameters():
    import keras

    wing = Keras()
    threshold = keras.Variable(np.array([1.3], np.float32))
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    expected = elementary.symmetric_quantizer(x, np.float32([1.3]), 4, True, numpy_ops)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(wing.functions.symmetric_quantizer(x, threshold, 4, True)), expected
    )
    low, high = wing.functions.adjust_range_to_include_zero(keras.Variable(-1.0), keras.Variable(2.0), 3)
    np.testing.assert_allclose([keras.ops.convert_to_numpy(end) for end in (low, high)], [-6 / 7, 15 / 7], rtol=1e-6)


# Errors.


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda f, x: f.symmetric_quantizer(x, 1.0, 0),
            ValueError,
            "`n_bits` must be from 1 to 16. Received: n_bits=0",
        ),
        (lambda f, x: f.symmetric_quantizer(x, 1.0, 17), ValueError, "`n_bits`.*17"),
        (lambda f, x: f.symmetric_quantizer(x, 1.0, 4.0), TypeError, "`n_bits` must be an integer.*4.0"),
        (lambda f, x: f.symmetric_quantizer(x, 1.0, 4, 2), TypeError, "`sign`.*2"),
        (lambda f, x: f.uniform_quantizer(x, 0.0, 1.0, "4"), TypeError, "`n_bits`.*'4'"),
        (lambda f, x: f.uniform_quantizer(x, 0.0, 1.0, 20), ValueError, "`n_bits`.*20"),
        (lambda f, x: f.adjust_range_to_include_zero(0.0, 1.0, True), TypeError, "`n_bits`.*True"),
        (lambda f, x: f.symmetric_lsq_quantizer(x, 1.0, 0, True, -8, 7, 1.0), ValueError, "`num_bits`.*0"),
        (lambda f, x: f.symmetric_lsq_quantizer(x, 1.0, 4, None, -8, 7, 1.0), TypeError, "`sign`.*None"),
        (lambda f, x: f.uniform_lsq_quantizer(x, 0.0, 1.0, 0, 0, 15, 1.0), ValueError, "`num_bits`.*0"),
    ],
)
def test_wrong_arguments_are_refused(wing, call, error, text):
    with pytest.raises(error, match=text):
        call(wing.functions, wing.tensor(np.ones(3, np.float32)))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_integers_are_refused(wing, call):
    with pytest.raises(TypeError, match=r"floating-point.*int32"):
        call(wing.functions, wing.tensor(np.ones((3, 2), np.int32)))

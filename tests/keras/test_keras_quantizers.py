# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import contextlib
import copy
import json
import pickle
import re

import keras
import numpy as np
import pytest
from corner_samples import corners, grid

from mct_quantizers import QuantizationMethod, QuantizationTarget, keras_quantizers
from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.packing import pack_integers
from mct_quantizers.common.quant_info import QuantizerID
from mct_quantizers.common.quant_params import from_range, from_threshold
from mct_quantizers.common.registry import get_inferable_quantizer_class
from mct_quantizers.keras.quantizers import (
    ActivationLutPOTInferableQuantizer,
    ActivationPOTInferableQuantizer,
    ActivationSymmetricInferableQuantizer,
    ActivationUniformInferableQuantizer,
    BaseKerasInferableQuantizer,
    WeightsLUTPOTInferableQuantizer,
    WeightsLUTSymmetricInferableQuantizer,
    WeightsPOTInferableQuantizer,
    WeightsSymmetricInferableQuantizer,
    WeightsUniformInferableQuantizer,
)

pytestmark = pytest.mark.keras
CHANNELS = {"per_channel": True, "channel_axis": 0}
TENSOR = {"per_channel": False}
LEVELS = [-25, 3, 40, -100, 0, 100]
SAMPLES = {
    "weights_symmetric": lambda: WeightsSymmetricInferableQuantizer(4, [1.3, 0.4], **CHANNELS),
    "weights_unsigned": lambda: WeightsSymmetricInferableQuantizer(4, [1.3, 0.4], **CHANNELS, signed=False),
    "weights_pot": lambda: WeightsPOTInferableQuantizer(8, [2.0], **TENSOR),
    "weights_uniform": lambda: WeightsUniformInferableQuantizer(3, [-2.0, -0.3], [1.1, 0.9], **CHANNELS),
    "weights_lut_symmetric": lambda: WeightsLUTSymmetricInferableQuantizer(3, LEVELS, [1.3, 0.4], **CHANNELS),
    "weights_lut_pot": lambda: WeightsLUTPOTInferableQuantizer(3, LEVELS, [2.0], **TENSOR),
    "activation_symmetric": lambda: ActivationSymmetricInferableQuantizer(4, [1.3], signed=False),
    "activation_pot": lambda: ActivationPOTInferableQuantizer(4, [0.5], signed=True),
    "activation_uniform": lambda: ActivationUniformInferableQuantizer(8, [-0.4], [3.1]),
    "activation_lut_pot": lambda: ActivationLutPOTInferableQuantizer(3, [0, 9, 100, 255], [2.0], signed=False),
}
GRIDS = {name: make for name, make in SAMPLES.items() if "lut" not in name}
every_quantizer = pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
every_grid = pytest.mark.parametrize("make", GRIDS.values(), ids=GRIDS)
to_tensor = keras.ops.convert_to_tensor


@pytest.fixture(params=["eager", "compiled"])
def run(request, compiled):
    """A function of tensors as it is, or as the backend compiles it; called with arrays."""
    make = compiled if request.param == "compiled" else lambda function: function

    def call(function, *arrays):
        return make(function)(*map(to_tensor, arrays))

    return call


def batch(dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(0).normal(0, 1.5, (2, 300))).astype(dtype)


def reference(x: np.ndarray, params) -> np.ndarray:
    formula = arithmetic.lut_quantize if isinstance(params, LookupTable) else arithmetic.fake_quantize
    with np.errstate(over="ignore"):
        return formula(x, params, numpy_ops)


def dtype_of(x) -> str:
    return keras.backend.standardize_dtype(x.dtype)


# Numbers.

CLASSES = {
    WeightsPOTInferableQuantizer: ("power_of_two",),
    WeightsSymmetricInferableQuantizer: ("symmetric", "unsigned"),
    WeightsUniformInferableQuantizer: ("uniform",),
    ActivationPOTInferableQuantizer: ("power_of_two",),
    ActivationSymmetricInferableQuantizer: ("symmetric", "unsigned"),
    ActivationUniformInferableQuantizer: ("uniform",),
}
TABLE_CLASSES = [
    WeightsLUTPOTInferableQuantizer,
    WeightsLUTSymmetricInferableQuantizer,
    ActivationLutPOTInferableQuantizer,
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_quantizer_equals_numpy(cls, run, assert_same_values):
    per_channel = (1, 5, 8, 16) if cls.__name__.startswith("Weights") else ()
    cases = [grid(kind, bits, None) for kind in CLASSES[cls] for bits in (1, 2, 8, 16)]
    cases += [grid(kind, bits, 0) for kind in CLASSES[cls] for bits in per_channel]
    quantizers = [cls.from_params(params) for params in cases]
    inputs = [grid_inputs(params) for params in cases]
    outputs = run(lambda *xs: [quantizer(x) for quantizer, x in zip(quantizers, xs, strict=True)], *inputs)
    for params, quantizer, x, output in zip(cases, quantizers, inputs, outputs, strict=True):
        assert quantizer.params == params
        assert_same_values(output, reference(x, params))


def grid_inputs(params) -> np.ndarray:
    """Shape (4, 4107), one shape for all grids: a function compiled for one shape is not compiled again."""
    x = corners(params, random=1_000)
    # All columns up to 8 bits; the last ones hold the special values.
    columns = np.append(np.linspace(0, x.shape[1] - 1, 4096).astype(int), np.arange(x.shape[1] - 11, x.shape[1]))
    return np.repeat(x[:, columns], 4 // x.shape[0], axis=0)


@pytest.mark.parametrize("cls", TABLE_CLASSES, ids=lambda cls: cls.__name__)
def test_table_quantizer_equals_numpy(cls, run, assert_same_values):
    is_weights, is_pot = cls.__name__.startswith("Weights"), "POT" in cls.__name__
    thresholds = [2.0, 0.25, 8.0] if is_pot else [1.3, 0.275, 7.7]
    generator = np.random.default_rng(3)
    cases = []
    for bits, width, signed, axis in ((1, 2, True, 0), (2, 8, True, None), (4, 8, False, 0), (6, 16, False, None)):
        is_signed = signed or is_weights
        low, high = (-(2 ** (width - 1)), 2 ** (width - 1)) if is_signed else (0, 2**width)
        levels = generator.permutation(np.arange(low, high))[: 2**bits]
        chosen = thresholds if is_weights and axis == 0 else thresholds[:1]
        cases.append(LookupTable(levels, chosen, bits, is_signed, width, axis=axis if is_weights else None))
    quantizers = [cls.from_params(table) for table in cases]
    inputs = [table_inputs(table) for table in cases]
    outputs = run(lambda *xs: [quantizer(x) for quantizer, x in zip(quantizers, xs, strict=True)], *inputs)
    for table, quantizer, x, output in zip(cases, quantizers, inputs, outputs, strict=True):
        assert quantizer.params == table
        assert_same_values(output, reference(x, table))


def table_inputs(table: LookupTable) -> np.ndarray:
    """Shape (3, n): every half integer of the fine grid, its neighbours, random and special values."""
    # More than there are up to 9 bits.
    halves = np.linspace(table.grid.low - 2, table.grid.high + 2, 2_100)
    rows = []
    for threshold in np.broadcast_to(table.threshold, 3):
        exact = (np.round(2 * halves) / 2 * (threshold + table.eps) / table.level_scale).astype(np.float32)
        special = [0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]
        beside = [np.nextafter(exact, np.float32(-9)), np.nextafter(exact, np.float32(9))]
        random = np.random.default_rng(0).normal(0, threshold, 500)
        rows.append(np.concatenate([exact, *beside, random, special]).astype(np.float32))
    return np.stack(rows)


@pytest.mark.parametrize(
    ("cls", "arguments", "params"),
    [
        (WeightsSymmetricInferableQuantizer, (4, [1.3], False), from_threshold(1.3, 4)),
        (WeightsSymmetricInferableQuantizer, (4, [1.3, 2.0], True, 1), from_threshold([1.3, 2.0], 4, axis=1)),
        (
            WeightsSymmetricInferableQuantizer,
            (4, [1.3, 2.0], True, 1, 2, False),
            from_threshold([1.3, 2.0], 4, False, axis=1),
        ),
        (WeightsPOTInferableQuantizer, (4, [0.5], False), from_threshold(0.5, 4)),
        (WeightsUniformInferableQuantizer, (4, [-1.3], [0.4], False), from_range(-1.3, 0.4, 4)),
        (WeightsUniformInferableQuantizer, (4, [-1, 1], [2, 3], True, -1, 4), from_range([-1, 1], [2, 3], 4, axis=-1)),
        (
            WeightsLUTSymmetricInferableQuantizer,
            (3, LEVELS, [1.3, 2.0], True, 1, 4, 9, 1e-6),
            LookupTable(LEVELS, [1.3, 2.0], 3, True, 9, 1e-6, 1),
        ),
        (WeightsLUTPOTInferableQuantizer, (3, LEVELS, [0.5], False), LookupTable(LEVELS, 0.5, 3)),
        (ActivationSymmetricInferableQuantizer, (4, [1.3], False), from_threshold(1.3, 4, False)),
        (ActivationPOTInferableQuantizer, (4, [2.0], True), from_threshold(2.0, 4)),
        (ActivationUniformInferableQuantizer, (4, [-1.3], [0.4]), from_range(-1.3, 0.4, 4)),
        (ActivationLutPOTInferableQuantizer, (2, [1, 9], [4.0], False, 5, 0.0), LookupTable([1, 9], 4, 2, False, 5, 0)),
    ],
)
def test_positional_arguments_stand_in_the_promised_order(cls, arguments, params):
    assert cls(*arguments).params == params


PER_CHANNEL = {
    WeightsPOTInferableQuantizer: lambda size: {"threshold": (2.0 ** np.arange(-2, size - 2)).tolist()},
    WeightsSymmetricInferableQuantizer: lambda size: {"threshold": np.linspace(0.3, 2, size).tolist()},
    WeightsUniformInferableQuantizer: lambda size: {
        "min_range": np.linspace(-2, -0.2, size).tolist(),
        "max_range": np.linspace(0.3, 1.0, size).tolist(),
    },
    WeightsLUTPOTInferableQuantizer: lambda size: {
        "lut_values": LEVELS,
        "threshold": (2.0 ** np.arange(-2, size - 2)).tolist(),
    },
    WeightsLUTSymmetricInferableQuantizer: lambda size: {
        "lut_values": LEVELS,
        "threshold": np.linspace(0.3, 2, size).tolist(),
    },
}


@pytest.mark.parametrize("cls", PER_CHANNEL, ids=lambda cls: cls.__name__)
def test_per_channel_equals_a_loop_over_slices_along_every_axis(cls, run, as_numpy):
    x = np.random.default_rng(1).normal(0, 1, (3, 4, 5, 6)).astype(np.float32)
    # Each from both ends.
    axes = (0, 1, 2, 3, -4, -3, -2, -1) if cls is WeightsUniformInferableQuantizer else (0, -3, 2, -1)
    arguments = [PER_CHANNEL[cls](x.shape[axis]) for axis in axes]
    quantizers = [
        cls(3, **values, per_channel=True, channel_axis=axis) for axis, values in zip(axes, arguments, strict=True)
    ]
    all_outputs = run(lambda tensor: [quantizer(tensor) for quantizer in quantizers], x)
    for axis, values, tensor in zip(axes, arguments, all_outputs, strict=True):
        outputs = np.moveaxis(as_numpy(tensor), axis, 0)
        for channel, slice_of_x in enumerate(np.moveaxis(x, axis, 0)):
            own = {name: value if name == "lut_values" else value[channel] for name, value in values.items()}
            alone = cls(3, **own, per_channel=False)
            np.testing.assert_array_equal(outputs[channel], reference(slice_of_x, alone.params))


def test_codes_of_weights_are_the_formula(as_numpy):
    weight = np.float32([[-1.0, -0.45, 0.124, 0.126], [2.0, 1.0, -4.0, 0.9375]])
    quantizer = WeightsSymmetricInferableQuantizer(4, [1.0, 8.0], True, 0)
    # x / (1/8) and x / 1; -0.992 rounds to -1.
    codes = quantizer.quantize(to_tensor(weight))
    assert dtype_of(codes) == "int32"
    assert as_numpy(codes).tolist() == [[-8, -4, 1, 1], [2, 1, -4, 1]]
    assert quantizer.scale.tolist() == [0.125, 1.0]
    assert quantizer.zero_point.tolist() == [0, 0]
    real = quantizer.dequantize(codes)
    assert dtype_of(real) == "float32"
    assert as_numpy(real).tolist() == [[-1.0, -0.5, 0.125, 0.125], [2.0, 1.0, -4.0, 1.0]]


def test_codes_of_a_range_are_the_formula(as_numpy):
    quantizer = ActivationUniformInferableQuantizer(3, -0.75, 1.0)
    codes = quantizer.quantize(np.float32([-9.0, -0.75, -0.3, 0.0, 0.125, 0.375, 1.0, 9.0]))
    # Steps of a quarter, zero is 3; 0.125 and 0.375 are ties: to the even ones before 3 is added.
    assert as_numpy(codes).tolist() == [0, 0, 2, 3, 3, 5, 7, 7]
    assert (quantizer.scale.tolist(), quantizer.zero_point.tolist()) == ([0.25], [3])
    assert as_numpy(quantizer.dequantize(np.int32([[0, 3], [7, 5]]))).tolist() == [[-0.75, 0.0], [1.0, 0.5]]


@every_quantizer
def test_codes_and_values_are_two_halves_of_the_call(make, as_numpy):
    quantizer, x = make(), batch()
    is_table = isinstance(quantizer.params, LookupTable)
    codes = quantizer.quantize(to_tensor(x))
    expected = (arithmetic.lut_codes if is_table else arithmetic.quantize)(x, quantizer.params, numpy_ops)
    np.testing.assert_array_equal(as_numpy(codes), expected)
    np.testing.assert_array_equal(as_numpy(quantizer.dequantize(codes)), as_numpy(quantizer(to_tensor(x))))
    low, high = (0, quantizer.lut_values.size - 1) if is_table else (quantizer.quant_min, quantizer.quant_max)
    assert low <= int(as_numpy(codes).min()) < int(as_numpy(codes).max()) <= high
    assert quantizer.pack(to_tensor(x)).tobytes() == pack_integers(expected, quantizer.num_bits).tobytes()


def test_levels_of_a_table_are_the_formula(run, as_numpy):
    quantizer = WeightsLUTSymmetricInferableQuantizer(2, [-64, 0, 32], [1.0, 2.0], True, 0, eps=0.0)
    # Levels -1/2, 0, 1/4 of the threshold; between two of them the first of the table wins.
    x = np.float32([[-9.0, -0.26, -0.25, 0.124, 0.125, 0.126], [-9.0, -0.52, -0.5, 0.248, 0.25, 0.252]])
    expected = np.float32([[-0.5, -0.5, -0.5, 0.0, 0.0, 0.25], [-1.0, -1.0, -1.0, 0.0, 0.0, 0.5]])
    np.testing.assert_array_equal(as_numpy(run(quantizer, x)), expected)
    codes = quantizer.quantize(x)
    assert dtype_of(codes) == "int32"
    assert as_numpy(codes).tolist() == [[0, 0, 0, 1, 1, 2]] * 2
    assert as_numpy(quantizer.dequantize(np.int32([[2, 1], [0, 2]]))).tolist() == [[0.25, 0.0], [-1.0, 0.5]]


def test_codes_of_a_table_in_no_order_are_first_positions_in_it(as_numpy):
    quantizer = ActivationLutPOTInferableQuantizer(2, [64, 0, 64, 128], [2.0], signed=False)
    # Levels 1/2, 0 and 1; 64 stands in the table twice.
    assert as_numpy(quantizer.quantize(np.float32([-1.0, 0.1, 0.4, 0.6, 9.0]))).tolist() == [1, 1, 0, 0, 3]


# Types.


@every_quantizer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(make, dtype, as_numpy):
    quantizer, half = make(), keras.ops.cast(to_tensor(batch()), dtype)
    outputs, single = quantizer(half), keras.ops.cast(half, "float32")
    assert dtype_of(outputs) == dtype
    np.testing.assert_array_equal(as_numpy(outputs), as_numpy(keras.ops.cast(quantizer(single), dtype)))
    np.testing.assert_array_equal(as_numpy(quantizer(single)), reference(as_numpy(single), quantizer.params))
    np.testing.assert_array_equal(as_numpy(quantizer.quantize(half)), as_numpy(quantizer.quantize(single)))


@pytest.fixture
def double_precision():
    """JAX has float64 only where it is asked for."""
    if keras.config.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


@every_quantizer
def test_double_precision_stays_double(make, double_precision, as_numpy):
    quantizer, x = make(), batch("float64")
    with double_precision:
        outputs = quantizer(to_tensor(x, dtype="float64"))
        assert dtype_of(outputs) == "float64"
        np.testing.assert_array_equal(as_numpy(outputs), reference(x, quantizer.params))


@every_quantizer
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_precision_policy_changes_nothing(make, policy, as_numpy):
    quantizer, x = make(), to_tensor(batch())
    expected, before = as_numpy(quantizer(x)), keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        outputs = quantizer(x)
    finally:
        keras.config.set_dtype_policy(before)
    assert dtype_of(outputs) == "float32"
    np.testing.assert_array_equal(as_numpy(outputs), expected)


@every_quantizer
def test_arrays_and_variables_are_quantized_like_tensors(make, as_numpy):
    quantizer, x = make(), batch()
    expected = as_numpy(quantizer(to_tensor(x)))
    for given in (x, keras.Variable(x)):
        outputs = quantizer(given)
        assert keras.ops.is_tensor(outputs)
        np.testing.assert_array_equal(as_numpy(outputs), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3, 1, 1)])
def test_shape_and_type_are_kept(shape, dtype):
    x = keras.ops.cast(to_tensor(np.full(shape, 0.3, np.float32)), dtype)
    for name in ("weights_pot", "activation_uniform", "activation_pot", "weights_lut_pot", "activation_lut_pot"):
        outputs = SAMPLES[name]()(x)
        assert (tuple(outputs.shape), dtype_of(outputs)) == (shape, dtype)
        assert tuple(SAMPLES[name]().quantize(x).shape) == shape


@every_quantizer
def test_compiled_quantizer_keeps_half_precision_and_shape(make, compiled, as_numpy):
    quantizer, x = make(), keras.ops.cast(to_tensor(batch()), "bfloat16")
    outputs = compiled(quantizer)(x)
    assert dtype_of(outputs) == "bfloat16"
    np.testing.assert_array_equal(as_numpy(outputs), as_numpy(quantizer(x)))


# Input at the edges of floating point (C12, C13).


@every_quantizer
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38])
def test_dead_and_subnormal_input_becomes_zero(make, value, as_numpy):
    assert (as_numpy(make()(np.full((2, 8), value, np.float32))) == 0.0).all()


def test_zero_keeps_its_sign_inside_a_signed_grid(run, as_numpy):
    outputs = as_numpy(run(SAMPLES["weights_symmetric"](), np.float32([[0.0, -0.0], [-0.0, 0.0]])))
    assert np.signbit(outputs).tolist() == [[False, True], [True, False]]


@every_quantizer
def test_dead_channel_beside_a_live_one_stays_zero(make, as_numpy):
    x = batch()
    x[0] = 0.0
    outputs = as_numpy(make()(x))
    assert (outputs[0] == 0.0).all()
    assert (outputs[1] != 0.0).any()
    assert np.isfinite(outputs).all()


@every_quantizer
def test_constant_input_gives_one_constant(make, as_numpy):
    for row in as_numpy(make()(np.full((2, 100), 0.37, np.float32))):
        assert np.unique(row).size == 1


@every_quantizer
@pytest.mark.parametrize("place", [(0, 0), (0, 5), (1, 299)])
def test_nan_stays_nan_and_touches_no_neighbour(make, place, as_numpy):
    quantizer, x = make(), batch()
    expected = as_numpy(quantizer(x)).copy()
    x[place] = expected[place] = np.nan
    np.testing.assert_array_equal(as_numpy(quantizer(x)), expected)
    with pytest.raises(ValueError, match="NaN"):
        quantizer.quantize(x)


@every_quantizer
def test_nan_stays_nan_and_infinity_saturates_when_compiled(make, compiled, as_numpy):
    quantizer, x = make(), batch()
    x[0, 0] = x[1, 7] = np.nan
    x[:, 1], x[:, 2] = np.inf, -np.inf
    np.testing.assert_array_equal(as_numpy(compiled(quantizer)(to_tensor(x))), reference(x, quantizer.params))


@every_quantizer
def test_infinity_saturates_at_the_ends(make, as_numpy):
    quantizer, x = make(), np.float32([[np.inf, -np.inf]] * 2)
    largest = np.float32([[3.4e38, -3.4e38]] * 2)
    outputs = as_numpy(quantizer(x))
    assert np.isfinite(outputs).all()
    np.testing.assert_array_equal(outputs, as_numpy(quantizer(largest)))
    if hasattr(quantizer, "quant_max"):
        assert as_numpy(quantizer.quantize(x)).tolist() == [[quantizer.quant_max, quantizer.quant_min]] * 2
        params = quantizer.params
        ends = np.stack([params.max_range, params.min_range], axis=1).astype(np.float32)
        np.testing.assert_array_equal(outputs, np.broadcast_to(ends, (2, 2)))


# Input that is refused, and input that is left alone.


@every_quantizer
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_integer_input_is_refused(make, dtype):
    quantizer, x = make(), keras.ops.zeros((2, 3), dtype=dtype)
    for call in (quantizer, quantizer.quantize):
        with pytest.raises(TypeError, match=f"floating-point.*dtype {dtype}$"):
            call(x)


@pytest.mark.parametrize("shape", [(3, 2), (), (1, 2)])
@pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith("weights") and "pot" not in name])
def test_wrong_number_of_channels_is_refused(name, shape):
    quantizer, x = SAMPLES[name](), np.zeros(shape, np.float32)
    text = re.escape("Received: 0" if shape == () else f"shape {shape}")
    for call in (quantizer, quantizer.quantize):
        with pytest.raises(ValueError, match=text):
            call(x)


def test_axis_that_the_input_does_not_have_is_refused():
    quantizer = WeightsSymmetricInferableQuantizer(4, [1.0, 2.0], True, -3)
    with pytest.raises(ValueError, match=r"`channel_axis` must be from -2 to 1 for shape \(2, 2\). Received: -3"):
        quantizer(np.zeros((2, 2), np.float32))


@every_quantizer
def test_no_gradient_flows(make, gradients):
    quantizer, x = make(), batch()
    assert not gradients(lambda tensor: quantizer(tensor) * 2.0, x)[0].any()
    # The path beside it is open.
    assert (gradients(lambda tensor: quantizer(tensor) + tensor, x)[0] == 1).all()


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only torch's tensors tell")
@every_quantizer
def test_output_needs_no_gradient(make):
    import torch

    assert not make()(torch.tensor(batch(), requires_grad=True)).requires_grad


@every_quantizer
def test_input_is_left_alone(make):
    x = batch()
    given, before = to_tensor(x), x.copy()
    make()(given)
    make()(x)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(given), before)
    np.testing.assert_array_equal(x, before)


# Construction.


@pytest.mark.parametrize(
    "threshold",
    [2, 2.0, [2], (2.0,), [2.0], np.float32(2), np.int64(2), np.array(2.0), np.array([2.0]), to_tensor([2.0])],
    ids=lambda value: type(value).__name__,
)
def test_one_number_may_come_in_any_form(threshold):
    expected, table = from_threshold(2.0, 4), LookupTable(LEVELS, 2.0, 4)
    assert WeightsSymmetricInferableQuantizer(4, threshold, False).params == expected
    assert WeightsPOTInferableQuantizer(4, threshold, False).params == expected
    assert WeightsLUTSymmetricInferableQuantizer(4, LEVELS, threshold, False).params == table
    assert WeightsLUTPOTInferableQuantizer(4, LEVELS, threshold, False).params == table
    assert ActivationSymmetricInferableQuantizer(4, threshold, True).params == expected
    assert ActivationPOTInferableQuantizer(4, threshold, True).params == expected
    assert ActivationUniformInferableQuantizer(4, 0, threshold).params == from_range(0.0, 2.0, 4)
    quantizer = ActivationLutPOTInferableQuantizer(4, LEVELS, threshold, True)
    assert quantizer.params == table
    assert json.loads(json.dumps(quantizer.get_config()))["threshold"] in (2.0, [2.0])


@pytest.mark.parametrize(
    "convert",
    [list, tuple, np.array, np.float32, to_tensor, lambda values: [[[value]] for value in values]],
    ids=["list", "tuple", "array", "float32", "tensor", "nested"],
)
def test_numbers_of_channels_may_come_in_any_form(convert):
    low, high, levels = [-1.0, -0.5, 0.25], [1.0, 0.25, 3.0], [-4.0, 7.0, 9.0]
    quantizer = WeightsUniformInferableQuantizer(4, convert(low), convert(high), True, 0)
    assert quantizer.params == from_range(low, high, 4, axis=0)
    assert WeightsSymmetricInferableQuantizer(4, convert(high), True, 0).params == from_threshold(high, 4, axis=0)
    table = WeightsLUTSymmetricInferableQuantizer(4, convert(levels), convert(high), True, 0)
    assert table.params == LookupTable(levels, high, 4, axis=0)
    for each in (quantizer, table):
        assert type(each)(**json.loads(json.dumps(each.get_config()))).params == each.params


def test_threshold_may_be_a_variable():
    threshold = keras.Variable(np.float32([1.0, 2.0]))
    quantizer = WeightsSymmetricInferableQuantizer(4, threshold, True, 0)
    assert quantizer.params == from_threshold([1.0, 2.0], 4, axis=0)
    assert quantizer.get_config()["threshold"] == [1.0, 2.0]


def test_numpy_words_are_accepted():
    quantizer = WeightsSymmetricInferableQuantizer(np.int64(4), [1.0], np.bool_(True), np.int32(-1), np.int64(2))
    assert quantizer.params == from_threshold([1.0], 4, axis=-1)
    assert tuple(quantizer.quantize(np.zeros((3, 1), np.float32)).shape) == (3, 1)


def test_rank_of_the_input_may_be_given_or_left_out():
    x = np.zeros((3, 2), np.float32)
    for rank in (None, 2):
        assert tuple(WeightsPOTInferableQuantizer(4, [1.0, 2.0], True, -1, rank)(x).shape) == (3, 2)


GOOD = {
    WeightsPOTInferableQuantizer: {"num_bits": 4, "threshold": [1.0], "per_channel": False},
    WeightsSymmetricInferableQuantizer: {"num_bits": 4, "threshold": [1.0], "per_channel": False},
    WeightsUniformInferableQuantizer: {"num_bits": 4, "min_range": [-1.0], "max_range": [1.0], "per_channel": False},
    WeightsLUTPOTInferableQuantizer: {
        "num_bits": 2,
        "lut_values": [1.0, -2.0],
        "threshold": [1.0],
        "per_channel": False,
    },
    WeightsLUTSymmetricInferableQuantizer: {
        "num_bits": 2,
        "lut_values": [1.0, -2.0],
        "threshold": [1.0],
        "per_channel": False,
    },
    ActivationPOTInferableQuantizer: {"num_bits": 4, "threshold": [1.0], "signed": True},
    ActivationSymmetricInferableQuantizer: {"num_bits": 4, "threshold": [1.0], "signed": True},
    ActivationUniformInferableQuantizer: {"num_bits": 4, "min_range": [-1.0], "max_range": [1.0]},
    ActivationLutPOTInferableQuantizer: {
        "num_bits": 2,
        "lut_values": [1.0, 2.0],
        "threshold": [1.0],
        "signed": False,
    },
}
CLASSES_WITH_THRESHOLD = [cls for cls in GOOD if "threshold" in GOOD[cls]]
POWERS_ONLY = [cls for cls in GOOD if "POT" in cls.__name__]
WEIGHTS = [cls for cls in GOOD if cls.__name__.startswith("Weights")]
TABLES = [cls for cls in GOOD if "lut_values" in GOOD[cls]]
RANGES = [cls for cls in GOOD if "min_range" in GOOD[cls]]
SIGNED = [cls for cls in GOOD if "signed" in GOOD[cls]] + WEIGHTS[:2]
INF, NAN = float("inf"), float("nan")
# Classes, changed arguments, type and text of the error: each rule of `mct_quantizers.common.validation`.
ARGUMENT_ERRORS = [
    # checked_num_bits
    (GOOD, {"num_bits": 0}, ValueError, "`num_bits` must be from 1 to 16. Received: num_bits=0"),
    (GOOD, {"num_bits": 17}, ValueError, "`num_bits` must be from 1 to 16. Received: num_bits=17"),
    (GOOD, {"num_bits": 4.0}, TypeError, "`num_bits` must be an integer. Received: num_bits=4.0"),
    (GOOD, {"num_bits": True}, TypeError, "`num_bits` must be an integer. Received: num_bits=True"),
    (GOOD, {"num_bits": None}, TypeError, "`num_bits` must be an integer. Received: num_bits=None"),
    # as_vector
    (CLASSES_WITH_THRESHOLD, {"threshold": None}, TypeError, "Received: threshold=None"),
    (CLASSES_WITH_THRESHOLD, {"threshold": "1"}, TypeError, "Received: threshold='1'"),
    (CLASSES_WITH_THRESHOLD, {"threshold": True}, TypeError, "Received: threshold=True"),
    (CLASSES_WITH_THRESHOLD, {"threshold": [True]}, TypeError, "Received: threshold=[True]"),
    (CLASSES_WITH_THRESHOLD, {"threshold": ["1"]}, TypeError, "Received: threshold=['1']"),
    (CLASSES_WITH_THRESHOLD, {"threshold": [1j]}, TypeError, "Received: threshold=[1j]"),
    (CLASSES_WITH_THRESHOLD, {"threshold": [[1.0], [1.0, 2.0]]}, TypeError, "threshold=[[1.0], [1.0, 2.0]]"),
    (CLASSES_WITH_THRESHOLD, {"threshold": []}, ValueError, "`threshold` must hold at least one number"),
    (CLASSES_WITH_THRESHOLD, {"threshold": [NAN]}, ValueError, "`threshold` must be finite. Received: threshold=[nan]"),
    (CLASSES_WITH_THRESHOLD, {"threshold": [INF]}, ValueError, "`threshold` must be finite. Received: threshold=[inf]"),
    (RANGES, {"min_range": "a"}, TypeError, "Received: min_range='a'"),
    (RANGES, {"min_range": None}, TypeError, "Received: min_range=None"),
    (RANGES, {"max_range": []}, ValueError, "`max_range` must hold at least one number"),
    (RANGES, {"max_range": [INF]}, ValueError, "`max_range` must be finite. Received: max_range=[inf]"),
    (TABLES, {"lut_values": "ab"}, TypeError, "Received: lut_values='ab'"),
    (TABLES, {"lut_values": []}, ValueError, "`lut_values` must hold at least one number"),
    (TABLES, {"lut_values": [NAN]}, ValueError, "`lut_values` must be finite"),
    # check_positive
    (CLASSES_WITH_THRESHOLD, {"threshold": [0.0]}, ValueError, "`threshold` must be"),
    (CLASSES_WITH_THRESHOLD, {"threshold": [-1.0]}, ValueError, "`threshold` must be"),
    # check_power_of_two
    (POWERS_ONLY, {"threshold": [0.3]}, ValueError, "`threshold` must be a power of two (…, 0.25, 0.5, 1, 2, 4, …)."),
    (POWERS_ONLY, {"threshold": [3.0]}, ValueError, "Received: [3.0]"),
    # check_ordered_range
    (RANGES, {"min_range": [2.0]}, ValueError, "Received: min_range=[2.0], max_range=[1.0]"),
    (RANGES, {"min_range": [1.0]}, ValueError, "`min_range` must be below `max_range`."),
    (RANGES, {"min_range": [-1.0, -2.0]}, ValueError, "Received: 2 minima and 1 maxima"),
    # check_length
    (CLASSES_WITH_THRESHOLD, {"threshold": [1.0, 2.0]}, ValueError, "Received: [1.0, 2.0]"),
    (RANGES, {"min_range": [-1.0, -2.0], "max_range": [1.0, 2.0]}, ValueError, "Received: [-1.0, -2.0]"),
    # checked_bool
    (SIGNED, {"signed": None}, TypeError, "`signed` must be True or False. Received: signed=None"),
    (SIGNED, {"signed": 2}, TypeError, "`signed` must be True or False. Received: signed=2"),
    (WEIGHTS, {"per_channel": 2}, TypeError, "`per_channel` must be True or False. Received: per_channel=2"),
    # checked_axis
    (WEIGHTS, {"per_channel": True}, ValueError, "`channel_axis` must be given when `per_channel` is True"),
    (WEIGHTS, {"per_channel": True, "channel_axis": 0.5}, TypeError, "`channel_axis` must be an integer."),
    (WEIGHTS, {"per_channel": True, "channel_axis": True}, TypeError, "Received: channel_axis=True"),
    (WEIGHTS, {"per_channel": True, "channel_axis": 0, "input_rank": "4"}, TypeError, "Received: input_rank='4'"),
    (
        WEIGHTS,
        {"per_channel": True, "channel_axis": 4, "input_rank": 4},
        ValueError,
        "`channel_axis` must be from -4 to 3 for `input_rank`=4. Received: channel_axis=4",
    ),
    (WEIGHTS, {"per_channel": True, "channel_axis": -5, "input_rank": 4}, ValueError, "Received: channel_axis=-5"),
    # what a table asks
    (TABLES, {"lut_values": [1.0, 0.5]}, ValueError, "`lut_values` must be integers. Received: [1.0, 0.5]"),
    (TABLES, {"lut_values": [1, 2, 3, 4, 5]}, ValueError, "at most 4 different values for 2 bits. Received: 5"),
    (TABLES, {"lut_values": [300.0]}, ValueError, "for 8 bits"),
    (TABLES, {"lut_values": [-129.0]}, ValueError, "for 8 bits"),
    (TABLES, {"lut_values_bitwidth": 1}, ValueError, "Received: num_bits=2, lut_values_bitwidth=1"),
    (TABLES, {"lut_values_bitwidth": 17}, ValueError, "Received: lut_values_bitwidth=17"),
    (TABLES, {"eps": -1.0}, ValueError, "Received: eps=-1.0"),
]


@pytest.mark.parametrize(("classes", "change", "error", "text"), ARGUMENT_ERRORS)
def test_wrong_argument_is_refused_by_name_and_value(classes, change, error, text):
    for cls in classes:
        with pytest.raises(error, match=re.escape(text)):
            cls(**{**GOOD[cls], **change})


@pytest.mark.parametrize("cls", GOOD, ids=lambda cls: cls.__name__)
def test_unknown_argument_is_refused(cls):
    with pytest.raises(TypeError, match="n_bits"):
        cls(**GOOD[cls], n_bits=4)


@pytest.mark.parametrize("cls", TABLES, ids=lambda cls: cls.__name__)
def test_index_as_wide_as_the_levels_warns(cls):
    with pytest.warns(UserWarning, match="a uniform grid does the same"):
        cls(**GOOD[cls], lut_values_bitwidth=2)


# Configuration.


@every_quantizer
def test_config_round_trip_gives_the_same_outputs(make, as_numpy):
    quantizer, x = make(), batch()
    config = json.loads(json.dumps(quantizer.get_config()))
    for restored in (type(quantizer)(**config), type(quantizer).from_config(config)):
        assert restored.params == quantizer.params
        assert restored.get_config() == config
        np.testing.assert_array_equal(as_numpy(restored(x)), as_numpy(quantizer(x)))


@every_quantizer
def test_keras_finds_the_class_of_what_it_has_saved(make, as_numpy):
    quantizer, x = make(), batch()
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(quantizer)))
    assert saved["registered_name"] == f"mct_quantizers>{type(quantizer).__name__}"
    restored = keras.saving.deserialize_keras_object(saved, safe_mode=True)
    assert type(restored) is type(quantizer)
    assert restored.params == quantizer.params
    assert restored.get_config() == quantizer.get_config()
    np.testing.assert_array_equal(as_numpy(restored(x)), as_numpy(quantizer(x)))


@every_quantizer
def test_params_round_trip_gives_the_same_outputs(make, as_numpy):
    quantizer, x = make(), batch()
    restored = type(quantizer).from_params(quantizer.params)
    assert restored.params == quantizer.params
    np.testing.assert_array_equal(as_numpy(restored(x)), as_numpy(quantizer(x)))


WEIGHT_KEYS = {"num_bits", "per_channel", "channel_axis", "input_rank"}
TABLE_KEYS = {"lut_values", "threshold", "lut_values_bitwidth", "eps"}


@pytest.mark.parametrize(
    ("cls", "keys"),
    [
        (WeightsPOTInferableQuantizer, WEIGHT_KEYS | {"threshold"}),
        (WeightsSymmetricInferableQuantizer, WEIGHT_KEYS | {"threshold"}),
        (WeightsUniformInferableQuantizer, WEIGHT_KEYS | {"min_range", "max_range"}),
        (WeightsLUTPOTInferableQuantizer, WEIGHT_KEYS | TABLE_KEYS),
        (WeightsLUTSymmetricInferableQuantizer, WEIGHT_KEYS | TABLE_KEYS),
        (ActivationPOTInferableQuantizer, {"num_bits", "threshold", "signed"}),
        (ActivationSymmetricInferableQuantizer, {"num_bits", "threshold", "signed"}),
        (ActivationUniformInferableQuantizer, {"num_bits", "min_range", "max_range"}),
        (ActivationLutPOTInferableQuantizer, {"num_bits", "signed"} | TABLE_KEYS),
    ],
)
def test_config_has_the_promised_keys(cls, keys):
    config = cls(**GOOD[cls]).get_config()
    assert keys <= set(config)
    assert GOOD[cls].items() <= config.items()


@every_quantizer
def test_repr_shows_the_configuration(make):
    quantizer = make()
    assert repr(quantizer).startswith(f"{type(quantizer).__name__}(num_bits={quantizer.num_bits}, ")
    for name, value in quantizer.get_config().items():
        assert f"{name}={value}" in repr(quantizer)


# State.


@every_quantizer
def test_state_is_read_only_vectors(make):
    quantizer = make()
    for name in ("scale", "zero_point") if hasattr(quantizer, "scale") else ("threshold", "lut_values"):
        value = getattr(quantizer, name)
        assert value.dtype == (np.int32 if name == "zero_point" else np.float32)
        assert value.ndim == 1
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 1
    assert quantizer.initialize_quantization((2, 300), "kernel", None) == {}


@every_grid
def test_public_attributes_are_those_of_the_parameters(make):
    quantizer = make()
    params = quantizer.params
    np.testing.assert_array_equal(quantizer.scale, params.scale)
    np.testing.assert_array_equal(quantizer.zero_point, params.zero_point)
    assert (quantizer.quant_min, quantizer.quant_max) == (params.quant_min, params.quant_max)
    assert (quantizer.num_bits, quantizer.signed, quantizer.axis) == (params.num_bits, params.signed, params.axis)


def test_public_attributes_of_a_table():
    quantizer = SAMPLES["weights_lut_symmetric"]()
    assert quantizer.lut_values.tolist() == LEVELS
    assert quantizer.threshold.tolist() == np.float32([1.3, 0.4]).tolist()
    assert (quantizer.num_bits, quantizer.signed, quantizer.lut_values_bitwidth, quantizer.eps) == (3, True, 8, 1e-8)
    assert (quantizer.per_channel, quantizer.channel_axis) == (True, 0)


@every_quantizer
@pytest.mark.parametrize("after_call", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_quantize_alike_and_stay_read_only(make, after_call, copied, as_numpy):
    quantizer, x = make(), batch()
    if after_call:
        quantizer(x)
    clone = copied(quantizer)
    assert clone is not quantizer
    assert clone.params == quantizer.params
    assert clone.get_config() == quantizer.get_config()
    np.testing.assert_array_equal(as_numpy(clone(x)), as_numpy(quantizer(x)))
    for name in {"scale", "zero_point", "threshold", "lut_values"} & set(vars(quantizer)):
        assert not getattr(clone, name).flags.writeable, name


# Marks.


@pytest.mark.parametrize(
    ("cls", "target", "method"),
    [
        (WeightsPOTInferableQuantizer, "Weights", "POWER_OF_TWO"),
        (WeightsSymmetricInferableQuantizer, "Weights", "SYMMETRIC"),
        (WeightsUniformInferableQuantizer, "Weights", "UNIFORM"),
        (WeightsLUTPOTInferableQuantizer, "Weights", "LUT_POT_QUANTIZER"),
        (WeightsLUTSymmetricInferableQuantizer, "Weights", "LUT_SYM_QUANTIZER"),
        (ActivationPOTInferableQuantizer, "Activation", "POWER_OF_TWO"),
        (ActivationSymmetricInferableQuantizer, "Activation", "SYMMETRIC"),
        (ActivationUniformInferableQuantizer, "Activation", "UNIFORM"),
        (ActivationLutPOTInferableQuantizer, "Activation", "LUT_POT_QUANTIZER"),
    ],
)
def test_marks_say_what_is_quantized_and_find_exactly_this_class(cls, target, method):
    assert cls.quantization_target is QuantizationTarget[target]
    assert cls.quantization_method == [QuantizationMethod[method]]
    assert cls.identifier is QuantizerID.INFERABLE
    found = get_inferable_quantizer_class(
        QuantizationTarget[target], QuantizationMethod[method], BaseKerasInferableQuantizer
    )
    assert found is cls
    assert getattr(keras_quantizers, cls.__name__) is cls


def test_base_carries_no_marks_and_says_what_is_missing():
    for name in ("quantization_target", "quantization_method", "identifier"):
        assert not hasattr(BaseKerasInferableQuantizer, name)
    with pytest.raises(NotImplementedError, match="BaseKerasInferableQuantizer must define `__call__`"):
        BaseKerasInferableQuantizer()(keras.ops.zeros((1,)))
    with pytest.raises(NotImplementedError, match="BaseKerasInferableQuantizer must define `get_config`"):
        BaseKerasInferableQuantizer().get_config()

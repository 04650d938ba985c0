# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Every quantizer gives the same numbers in NumPy, PyTorch and Keras, eager and compiled, bit for bit."""

import functools
import warnings

import ml_dtypes
import numpy as np
import pytest
from corner_samples import corners
from engines import ENGINES, quantizers_of, run_on

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.packing import unpack_integers
from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16)
CHANNELS = 4
RANDOM = 125_000  # twice for each of the four channels: a million numbers
THRESHOLDS = [1.3, 0.275, 7.7, 0.9]  # 0.275 / 2**5: a step at which products with the inverse give other codes
POWERS = [2.0, 0.25, 8.0, 1.0]
LOW, HIGH = [-1.7, -0.3, -2.9, 0.4], [0.9, 2.2, -0.6, 1.9]
NAMES = (
    "WeightsPOTInferableQuantizer",
    "WeightsSymmetricInferableQuantizer",
    "WeightsUniformInferableQuantizer",
    "WeightsLUTPOTInferableQuantizer",
    "WeightsLUTSymmetricInferableQuantizer",
    "ActivationPOTInferableQuantizer",
    "ActivationSymmetricInferableQuantizer",
    "ActivationUniformInferableQuantizer",
    "ActivationLutPOTInferableQuantizer",
)


def table(num_bits: int, signed: bool = True) -> list[int]:
    """Levels in no order, some of them neighbours, so that ties and nearly ties occur."""
    bitwidth = 8 if num_bits < 8 else 16
    low, high = (-(2 ** (bitwidth - 1)), 2 ** (bitwidth - 1)) if signed else (0, 2**bitwidth)
    return np.random.default_rng(num_bits).permutation(np.arange(low, high))[: min(2**num_bits, 400)].tolist()


def arguments_of(name: str, num_bits: int, per_channel: bool) -> dict:
    count = CHANNELS if per_channel else 1
    thresholds = (POWERS if "POT" in name else THRESHOLDS)[:count]
    arguments: dict = {"num_bits": num_bits}
    if "Uniform" in name:
        arguments |= {"min_range": LOW[:count], "max_range": HIGH[:count]}
    else:
        arguments |= {"threshold": thresholds}
    if "L" in name.removesuffix("InferableQuantizer") and "LUT" in name.upper():
        arguments |= {"lut_values": table(num_bits), "lut_values_bitwidth": 8 if num_bits < 8 else 16}
    if name.startswith("Weights"):
        arguments |= {"per_channel": per_channel, "channel_axis": 0 if per_channel else None}
    elif "Uniform" not in name:
        arguments |= {"signed": True}
    return arguments


def params_of(arguments: dict) -> QuantParams | LookupTable:
    """The reference's own way from the arguments to the parameters."""
    axis = arguments.get("channel_axis")
    if "lut_values" in arguments:
        names = ("lut_values", "threshold", "num_bits", "lut_values_bitwidth")
        return LookupTable(**{name: arguments[name] for name in names}, axis=axis)
    if "min_range" in arguments:
        return from_range(arguments["min_range"], arguments["max_range"], arguments["num_bits"], axis=axis)
    return from_threshold(arguments["threshold"], arguments["num_bits"], True, axis=axis)


@functools.cache
def samples() -> np.ndarray:
    """float32, shape (4, n): a million random numbers, and every corner of every grid of the tests."""
    rows = []
    for num_bits in WIDTHS[:-1]:
        for name in NAMES[:3]:
            params = params_of(arguments_of(name, num_bits, True))
            rows.append(corners(params, random=RANDOM if num_bits == 2 and name == NAMES[1] else 10))
    levels = np.arange(-128, 128, 0.5)
    for threshold in (*THRESHOLDS, *POWERS):
        ties = (levels / 128 * (np.float32(threshold) + np.float32(1e-8))).astype(np.float32)
        with_neighbours = [ties, np.nextafter(ties, np.float32(-9)), np.nextafter(ties, np.float32(9))]
        rows.append(np.tile(np.concatenate(with_neighbours), (CHANNELS, 1)))
    return np.concatenate(rows, axis=1)


def cases_of(name: str) -> list[dict]:
    granularities = (False, True) if name.startswith("Weights") else (False,)
    return [arguments_of(name, num_bits, each) for each in granularities for num_bits in WIDTHS]


def reference(x: np.ndarray, params: QuantParams | LookupTable) -> np.ndarray:
    formula = arithmetic.lut_quantize if isinstance(params, LookupTable) else arithmetic.fake_quantize
    with np.errstate(over="ignore"):
        return formula(x, params, numpy_ops)


@functools.cache
def expected_of(name: str) -> list[np.ndarray]:
    return [reference(samples(), params_of(arguments)) for arguments in cases_of(name)]


def made(engine: str, name: str) -> list:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*a uniform grid does the same")
        return [getattr(quantizers_of(engine), name)(**arguments) for arguments in cases_of(name)]


def test_the_samples_are_a_million_numbers_and_the_corners():
    x = samples()
    assert x.shape[0] == CHANNELS
    assert x.size > 1_000_000
    assert np.isnan(x).any()
    assert np.isinf(x).any()
    assert (np.signbit(x) & (x == 0)).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ENGINES)
def test_engine_equals_the_numpy_reference(engine, name):
    outputs = run_on(engine, made(engine, name), samples())
    for arguments, output, expected in zip(cases_of(name), outputs, expected_of(name), strict=True):
        # Values that are equal come from equal codes: a code's value is one product in float32.
        different = ~((output == expected) | (np.isnan(output) & np.isnan(expected)))
        assert not different.any(), (arguments["num_bits"], samples()[different][:5], output[different][:5])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ["pytorch", pytest.param("keras", marks=pytest.mark.keras)])
def test_half_precision_is_computed_in_float32(engine, name, dtype):
    pytest.importorskip("torch" if engine == "pytorch" else "keras.layers")
    half = getattr(np, dtype, None) or getattr(ml_dtypes, dtype)
    with np.errstate(over="ignore"):
        given = samples()[:, ::97].astype(half).astype(np.float32)
    outputs = run_on(engine, made(engine, name), given, dtype)
    for arguments, output in zip(cases_of(name), outputs, strict=True):
        with np.errstate(over="ignore"):
            expected = reference(given, params_of(arguments)).astype(half).astype(np.float32)
        np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ["pytorch", pytest.param("keras", marks=pytest.mark.keras)])
def test_integer_codes_equal_the_numpy_reference(engine, name):
    pytest.importorskip("torch" if engine == "pytorch" else "keras.layers")
    x = samples()[:, ::7]
    x = np.where(np.isnan(x), np.float32(0), x)
    quantizers = made(engine, name)
    codes = run_on(engine, [_as_float(quantizer.quantize) for quantizer in quantizers], x)
    for arguments, quantizer, ours in zip(cases_of(name), quantizers, codes, strict=True):
        params = params_of(arguments)
        if isinstance(params, LookupTable):
            expected, signed = arithmetic.lut_codes(x, params, numpy_ops), False
            # The first of equal levels, so that the codes of one level are one code.
            assert len(np.unique(expected)) <= 2**params.num_bits
        else:
            expected, signed = arithmetic.quantize(x, params, numpy_ops), True
        np.testing.assert_array_equal(ours, expected)
        (values,) = run_on(engine, [lambda _, q=quantizer, c=expected: _to_float(q.dequantize(_like(engine, c)))], x)
        np.testing.assert_array_equal(values, reference(x, params))
        packed = quantizer.pack(_like(engine, x))
        assert packed.size == (x.size * params.num_bits + 7) // 8
        unpacked = unpack_integers(packed, params.num_bits, x.size, signed=signed and bool((expected < 0).any()))
        np.testing.assert_array_equal(unpacked.reshape(x.shape), expected)


def _like(engine, array):
    if engine == "pytorch":
        import torch

        return torch.from_numpy(array)
    import keras

    return keras.ops.convert_to_tensor(array)


def _to_float(values):
    assert "float32" in str(values.dtype)
    return values


def _as_float(quantize):
    """Codes of at most 16 bits are whole float32 numbers."""

    def call(x):
        codes = quantize(x)
        assert "int32" in str(codes.dtype)
        if hasattr(codes, "float"):
            return codes.float()
        import keras

        return keras.ops.cast(codes, "float32")

    return call

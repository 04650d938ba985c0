# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The interface's functions on arrays and tensors, against its formulas written down once more in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mct_quantizers.common.quant_params import from_range
from mct_quantizers.common.quant_utils import (
    adjust_range_to_include_zero,
    int_quantization_with_threshold,
    lut_quantizer_np,
    validate_adjusted_min_max_ranges,
    validate_uniform_min_max_ranges,
)

NAN, INFINITY = float("nan"), float("inf")
ENDS = st.floats(-1000.0, 1000.0, width=32)
LUT_VALUES = [-100, -17, -1, 0, 3, 64, 127]
EPS = 1e-8


@pytest.fixture(params=["numpy", "pytorch", pytest.param("keras", marks=pytest.mark.keras)])
def wing(request):
    """A wing's functions as functions of arrays."""
    return Wing(request.param)


class Wing:
    def __init__(self, name: str) -> None:
        self.name = name
        if name == "numpy":
            self.lut_quantizer, self.int_quantization = lut_quantizer_np, int_quantization_with_threshold
            self.tensor = self.array = np.asarray
        elif name == "pytorch":
            torch = pytest.importorskip("torch")
            from mct_quantizers.pytorch import quantizer_utils

            self.tensor, self.array = torch.tensor, lambda tensor: tensor.detach().numpy()
        else:
            pytest.importorskip("keras.layers")
            keras = pytest.importorskip("keras")
            from mct_quantizers.keras import quantizer_utils

            self.tensor, self.array = keras.ops.convert_to_tensor, keras.ops.convert_to_numpy
        if name != "numpy":
            self.lut_quantizer = quantizer_utils.lut_quantizer
            self.int_quantization = quantizer_utils.int_quantization_with_threshold


def samples(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 2.0, shape).astype(np.float32)


# Oracles: section 3.6 and 4.4 of the interface, element by element in Python's float64.


def adjusted_range(low: float, high: float, num_bits: int) -> tuple[float, float]:
    step = (high - low) / (2**num_bits - 1)
    if low > 0:
        return 0.0, high
    if high < 0:
        return low, 0.0
    shifted = step * round(low / step)
    return min(shifted, 0.0), max(high - low + shifted, 0.0)


def position(x: float, num_bits: int, signed: bool, threshold: float, eps: float) -> float:
    low, high = (-(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1) if signed else (0, 2**num_bits - 1)
    return min(max(x / (threshold + eps) * 2 ** (num_bits - signed), low), high)


def nearest_level(x: float, levels: list, num_bits: int, signed: bool, threshold: float, eps: float) -> float:
    u = position(x, num_bits, signed, threshold, eps)
    # The first of equally near ones, as argmin.
    return min(levels, key=lambda level: abs(u - level)) / 2 ** (num_bits - signed) * threshold


def elementwise(function, x: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    x, threshold = np.broadcast_arrays(x.astype(np.float64), threshold)
    return np.array([function(*pair) for pair in zip(x.ravel().tolist(), threshold.ravel().tolist(), strict=True)])


# Ranges.


@given(st.lists(st.tuples(ENDS, ENDS).filter(lambda ends: ends[0] < ends[1]), min_size=1), st.integers(1, 16))
def test_ranges_are_adjusted_as_the_interface_says(ranges, num_bits):
    low, high = np.array(ranges).T
    new_low, new_high = adjust_range_to_include_zero(low, high, num_bits)
    expected = np.array([adjusted_range(*ends, num_bits) for ends in ranges]).T
    np.testing.assert_array_equal([new_low, new_high], expected)
    for index, (minimum, maximum) in enumerate(ranges):
        # Numbers give numbers, the same ones.
        number_low, number_high = adjust_range_to_include_zero(minimum, maximum, num_bits)
        assert (number_low, number_high) == (new_low[index], new_high[index])
        assert isinstance(number_low, float)
        assert isinstance(number_high, float)


@pytest.mark.parametrize(
    ("low", "high", "num_bits", "expected"),
    [
        (-4, 4, 7, (-4.03149606, 3.96850394)),
        (-3, 3, 5, (-3.09677419, 2.90322581)),
        (-2, 2, 3, (-2.2857142857, 1.7142857143)),
        (1.0, 3.0, 4, (0.0, 3.0)),
        (-3.0, -1.0, 4, (-3.0, 0.0)),
        (0.0, 5.0, 8, (0.0, 5.0)),
        (-5.0, 0.0, 8, (-5.0, 0.0)),
    ],
)
def test_ranges_that_the_interface_quotes(low, high, num_bits, expected):
    np.testing.assert_allclose(adjust_range_to_include_zero(low, high, num_bits), expected, atol=1e-9)


def test_the_adjusted_range_is_that_of_the_quantizers_and_keeps_its_shape():
    low, high = np.array([[-0.53168], [-3.0], [0.2]]), np.array([[1.1652], [-0.5], [0.7]])
    new_low, new_high = adjust_range_to_include_zero(low, high, 2)
    assert new_low.shape == new_high.shape == (3, 1)
    params = from_range(low.ravel(), high.ravel(), 2, axis=0)
    np.testing.assert_allclose(new_low.ravel(), params.min_range, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(new_high.ravel(), params.max_range, rtol=1e-6, atol=1e-12)


def test_lists_and_integers_are_ranges_too():
    new_low, new_high = adjust_range_to_include_zero([-4, 1], [4, 3], 7)
    np.testing.assert_allclose(new_low, [-4.03149606, 0.0], atol=1e-8)
    np.testing.assert_allclose(new_high, [3.96850394, 3.0], atol=1e-8)


@pytest.mark.parametrize(
    ("low", "high", "num_bits", "error", "text"),
    [
        (1.0, 1.0, 8, ValueError, r"`range_min` must be below.*range_min=1\.0, range_max=1\.0"),
        ([-1.0, 2.0], [1.0, 1.0], 8, ValueError, r"`range_min` must be below.*2\.0"),
        (-1e308, 1e308, 8, ValueError, "width that a number can hold"),
        (0.0, 5e-324, 8, ValueError, "width that a number can hold"),
        ([-1.0], [1.0, 2.0], 8, ValueError, r"same shape. Received: shapes \(1,\) and \(2,\)"),
        (NAN, 1.0, 8, ValueError, "`range_min` must be finite"),
        (-1.0, INFINITY, 8, ValueError, "`range_max` must be finite"),
        ("low", 1.0, 8, TypeError, "`range_min` must be a number"),
        (-1.0, None, 8, TypeError, "`range_max` must be a number"),
        (-1.0, 1.0, 0, ValueError, "`n_bits` must be from 1 to 16. Received: n_bits=0"),
        (-1.0, 1.0, 8.0, TypeError, r"`n_bits` must be an integer. Received: n_bits=8\.0"),
    ],
)
def test_a_wrong_range_is_refused_by_name_and_value(low, high, num_bits, error, text):
    with pytest.raises(error, match=text):
        adjust_range_to_include_zero(low, high, num_bits)


# Positions on a grid.


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("num_bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("threshold", [1.0, 0.7, 4.0])
def test_positions_are_scaled_and_clipped_but_not_rounded(wing, num_bits, signed, threshold):
    x = samples(200)
    output = wing.array(wing.int_quantization(wing.tensor(x), num_bits, signed, threshold, EPS))
    expected = elementwise(lambda *pair: position(pair[0], num_bits, signed, pair[1], EPS), x, np.array(threshold))
    assert output.dtype == np.float32
    assert output.shape == x.shape
    np.testing.assert_allclose(output, expected, rtol=3e-7)
    inside = np.abs(output) < 2 ** (num_bits - 1) - 1
    if num_bits > 2:
        assert (output[inside] != np.round(output[inside])).any()


def test_positions_of_channels_have_their_own_thresholds(wing):
    x, thresholds = samples(5, 3, 2), np.array([[0.5], [1.0], [3.0]], np.float32)
    for threshold in (thresholds, wing.tensor(thresholds)):
        output = wing.array(wing.int_quantization(wing.tensor(x), 4, True, threshold, EPS))
        expected = elementwise(lambda x, threshold: position(x, 4, True, threshold, EPS), x, thresholds)
        np.testing.assert_allclose(output.ravel(), expected, rtol=3e-7)


def test_eps_counts_and_keeps_a_threshold_of_zero_finite(wing):
    x = np.array([1.0, -1.0, 0.0, 0.25], np.float32)
    halved = wing.array(wing.int_quantization(wing.tensor(x), 8, True, 1.0, 1.0))
    np.testing.assert_array_equal(halved, [64.0, -64.0, 0.0, 16.0])
    at_zero = wing.array(wing.int_quantization(wing.tensor(x), 8, True, 0.0, EPS))
    np.testing.assert_array_equal(at_zero, [127.0, -128.0, 0.0, 127.0])


def test_nan_stays_and_infinity_saturates(wing):
    x = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32)
    np.testing.assert_array_equal(
        wing.array(wing.int_quantization(wing.tensor(x), 8, False, 0.5, EPS)), [np.nan, 255.0, 0.0, 255.0]
    )
    output = wing.array(wing.lut_quantizer(wing.tensor(x), LUT_VALUES, True, 0.5, 8, EPS))
    np.testing.assert_array_equal(output, [np.nan, 127 / 256, -100 / 256, 127 / 256])


def test_sixteen_bit_positions_of_half_precision_do_not_overflow(wing):
    x = np.array([1.0, 2.0], np.float16)
    output = wing.array(wing.int_quantization(wing.tensor(x), 16, False, 1.0, 0.0))
    assert output.dtype == np.float32
    np.testing.assert_array_equal(output, [65535.0, 65535.0])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((17, True), ValueError, "`n_bits` must be from 1 to 16. Received: n_bits=17"),
        ((True, True), TypeError, "`n_bits` must be an integer"),
        ((8, 2), TypeError, "`signed` must be True or False. Received: signed=2"),
    ],
)
def test_a_wrong_grid_is_refused_by_name_and_value(wing, arguments, error, text):
    with pytest.raises(error, match=text):
        wing.int_quantization(wing.tensor(samples(3)), *arguments, 1.0, EPS)


def test_integers_have_no_position(wing):
    with pytest.raises(TypeError, match="floating-point"):
        wing.int_quantization(wing.tensor(np.array([1, 2])), 8, True, 1.0, EPS)
    with pytest.raises(TypeError, match="floating-point"):
        wing.lut_quantizer(wing.tensor(np.array([1, 2])), LUT_VALUES, True, 1.0, 8, EPS)


# Lookup tables.


@pytest.mark.parametrize(
    ("lut_values", "bitwidth", "signed"),
    [
        (LUT_VALUES, 8, True),
        ([5, 1, 2, 5, 0, 250], 8, False),
        ([1, -1], 2, True),
        (list(range(-128, 128)), 8, True),
        ([-30000, 17, 4, 32767], 16, True),
    ],
)
@pytest.mark.parametrize("threshold", [1.0, 0.75, 4.0, 1.3])
def test_numbers_go_to_the_nearest_level(wing, lut_values, bitwidth, signed, threshold):
    # A float32 number, so that both formulas speak of the same threshold.
    threshold = float(np.float32(threshold))
    x = samples(500)
    output = wing.array(wing.lut_quantizer(wing.tensor(x), lut_values, signed, threshold, bitwidth, EPS))
    expected = elementwise(
        lambda x, threshold: nearest_level(x, lut_values, bitwidth, signed, threshold, EPS), x, np.array(threshold)
    )
    assert output.dtype == np.float32
    # float32 may see a tie elsewhere: such a number lies in the middle of two levels.
    different = ~np.isclose(output, expected, rtol=1e-6, atol=1e-7)
    middles = np.abs(np.abs(output - x) - np.abs(expected - x)) < 1e-4 * threshold
    assert (middles | ~different).all()
    assert different.mean() < 0.02


def test_the_first_of_equally_near_levels_wins(wing):
    x = np.array([0.5, -0.5, 1.5], np.float32) / 8
    for lut_values, expected in (([0, 1, -1, 2], [0, 0, 1]), ([2, 1, -1, 0], [1, -1, 2])):
        output = wing.array(wing.lut_quantizer(wing.tensor(x), lut_values, True, 1.0, 4, 0.0))
        np.testing.assert_array_equal(output * 8, expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_each_channel_has_its_own_threshold(wing, axis):
    x = samples(3, 3, 3)
    thresholds = [0.5, 1.0, 4.0]
    aligned = np.reshape(thresholds, [-1 if index == axis % 3 else 1 for index in range(3)])
    expected = elementwise(lambda x, t: nearest_level(x, LUT_VALUES, 8, True, t, EPS), x, aligned).reshape(x.shape)
    call = (wing.tensor(x), LUT_VALUES, True, thresholds, 8, EPS, True, axis)
    for rank in ((), (3,)):
        np.testing.assert_allclose(wing.array(wing.lut_quantizer(*call, *rank)), expected, rtol=1e-6)
    # A threshold that lines up by its shape needs no axis.
    for threshold in (aligned.astype(np.float32), wing.tensor(aligned.astype(np.float32))):
        by_shape = wing.lut_quantizer(wing.tensor(x), LUT_VALUES, True, threshold, 8, EPS)
        np.testing.assert_allclose(wing.array(by_shape), expected, rtol=1e-6)


def test_arguments_may_be_tensors_of_the_framework(wing):
    x = samples(4, 3)
    thresholds = np.array([0.5, 1.0, 2.0], np.float32)
    levels = np.array(LUT_VALUES, np.float32)
    from_arrays = wing.lut_quantizer(wing.tensor(x), levels, True, thresholds, 8, EPS, True, 1)
    from_tensors = wing.lut_quantizer(
        wing.tensor(x), wing.tensor(levels), True, wing.tensor(thresholds), 8, EPS, True, 1
    )
    np.testing.assert_array_equal(wing.array(from_tensors), wing.array(from_arrays))


def test_every_level_of_the_width_may_be_in_the_table(wing):
    x = samples(50)
    output = wing.array(wing.lut_quantizer(wing.tensor(x), list(range(8)), False, 2.0, 3, 0.0))
    np.testing.assert_array_equal(output * 4, np.clip(np.ceil(x * 4 - 0.5), 0, 7))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_table_keeps_shape_and_dtype(wing, dtype):
    for x in (samples(2, 3), samples(1)[0], samples(0, 2)):
        tensor = wing.tensor(np.asarray(x, dtype))
        output = wing.array(wing.lut_quantizer(tensor, LUT_VALUES, True, 1.0, 8, EPS))
        # JAX makes float32 of float64.
        assert output.dtype == wing.array(tensor).dtype
        assert output.shape == np.shape(x)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lut_values": [1.5]}, ValueError, "`lut_values` must be integers"),
        ({"lut_values": [128]}, ValueError, "`lut_values` must be from -128 to 127"),
        ({"lut_values": [-1], "signed": False}, ValueError, "`lut_values` must be from 0 to 255"),
        ({"lut_values": None}, TypeError, "`lut_values`"),
        ({"signed": None}, TypeError, "`signed` must be True or False"),
        ({"threshold": 0.0}, ValueError, "`threshold` must be positive"),
        ({"threshold": "1"}, TypeError, "`threshold`"),
        ({"threshold": np.ones((2, 3))}, ValueError, r"`threshold` must vary along one axis.*\(2, 3\)"),
        ({"threshold": [1.0, 2.0]}, ValueError, "2 channels along axis -1"),
        ({"threshold": np.ones((2, 1, 1))}, ValueError, "from -2 to 1 .*Received: -3"),
        ({"lut_values_bitwidth": 17}, ValueError, "`lut_values_bitwidth` must be from 1 to 16"),
        ({"eps": -1.0}, ValueError, "`eps`"),
        ({"per_channel": 2}, TypeError, "`per_channel` must be True or False"),
        ({"per_channel": True}, ValueError, "`channel_axis` must be given"),
        ({"per_channel": True, "channel_axis": 2}, ValueError, "`channel_axis` must be from -2 to 1"),
        ({"per_channel": True, "channel_axis": 0}, ValueError, "1 channels along axis 0"),
        ({"per_channel": True, "channel_axis": 0, "input_rank": 4}, ValueError, "`input_rank` must be .* 2. .*=4"),
    ],
)
def test_a_wrong_table_is_refused_by_name_and_value(wing, change, error, text):
    good = {"lut_values": LUT_VALUES, "signed": True, "threshold": 1.0, "lut_values_bitwidth": 8, "eps": EPS}
    with pytest.raises(error, match=text):
        wing.lut_quantizer(wing.tensor(samples(2, 3)), **{**good, **change})


def test_inputs_are_never_changed(wing):
    x = samples(3, 4)
    tensor, before = wing.tensor(x), x.copy()
    threshold = np.array([0.5, 1.0, 2.0, 3.0])
    wing.lut_quantizer(tensor, LUT_VALUES, True, threshold, 8, EPS, True, 1)
    wing.int_quantization(tensor, 8, True, threshold, EPS)
    np.testing.assert_array_equal(wing.array(tensor), before)
    np.testing.assert_array_equal(threshold, [0.5, 1.0, 2.0, 3.0])


# What only torch has.


def test_a_range_of_tensors_is_adjusted_in_float64_and_returned_in_float32():
    torch = pytest.importorskip("torch")
    from mct_quantizers.pytorch.quantizer_utils import fix_range_to_include_zero

    low, high = torch.tensor([[-4.0], [0.5], [-3.0]], requires_grad=True), torch.tensor([[4.0], [1.0], [-1.0]])
    new_low, new_high = fix_range_to_include_zero(low, high, 7)
    assert new_low.dtype == new_high.dtype == torch.float32
    assert new_low.shape == new_high.shape == (3, 1)
    assert not new_low.requires_grad
    torch.testing.assert_close(new_low, torch.tensor([[-4.03149606], [0.0], [-3.0]]), rtol=1e-7, atol=0)
    torch.testing.assert_close(new_high, torch.tensor([[3.96850394], [1.0], [0.0]]), rtol=1e-7, atol=0)
    number_low, number_high = fix_range_to_include_zero(-3.0, 3.0, 5)
    assert (number_low.item(), number_high.item()) == pytest.approx((-3.09677419, 2.90322581), abs=1e-7)
    with pytest.raises(ValueError, match="`range_min` must be below"):
        fix_range_to_include_zero(high, low, 7)


def test_to_torch_tensor_converts_what_the_interface_lists():
    torch = pytest.importorskip("torch")
    from mct_quantizers.pytorch.quantizer_utils import get_working_device, to_torch_tensor

    device = get_working_device()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    double = torch.ones(2, dtype=torch.float64)
    assert to_torch_tensor(double).dtype == torch.float64
    array = np.arange(6.0).reshape(2, 3)
    tensor = to_torch_tensor(array)
    array[:] = 0.0
    torch.testing.assert_close(tensor, torch.arange(6.0, device=device).reshape(2, 3))
    for value, dtype in ((2.5, torch.float32), (np.float64(2.5), torch.float32), (3, torch.int32)):
        tensor = to_torch_tensor(value)
        assert (tensor.dtype, tensor.shape, tensor.item(), tensor.device) == (
            dtype,
            (1,),
            value,
            double.to(device).device,
        )
    (first,), second = to_torch_tensor([(1.0,), np.zeros(2, np.int64)])
    assert (first.dtype, second.dtype) == (torch.float32, torch.float32)
    assert isinstance(to_torch_tensor((1, 2)), tuple)


@pytest.mark.parametrize("value", [None, "text", {"a": 1}, 1j, np.array(["text"]), np.array([1j])], ids=repr)
def test_to_torch_tensor_refuses_the_rest(value):
    pytest.importorskip("torch")
    from mct_quantizers.pytorch.quantizer_utils import to_torch_tensor

    for wrapped in (value, [1.0, value]):
        with pytest.raises(TypeError, match=r"`x` must be a tensor, .* Received: \w+ "):
            to_torch_tensor(wrapped)


def test_positions_have_gradients_and_tables_have_none():
    torch = pytest.importorskip("torch")
    from mct_quantizers.pytorch.quantizer_utils import int_quantization_with_threshold, lut_quantizer

    x = torch.tensor([0.25, 9.0], requires_grad=True)
    threshold = torch.tensor([2.0], requires_grad=True)
    int_quantization_with_threshold(x, 8, True, threshold, 0.0).sum().backward()
    # 128/t inside, nothing outside; to t: -x·128/t².
    assert x.grad.tolist() == [64.0, 0.0]
    assert threshold.grad.tolist() == [-8.0]
    assert not lut_quantizer(x, LUT_VALUES, True, threshold, 8, EPS).requires_grad


# Ranges of the Keras wing's validators.


def test_ordered_ranges_pass_and_others_are_refused():
    validate_uniform_min_max_ranges([-1.0, 0.0], [1.0, 2.0])
    validate_uniform_min_max_ranges(-1, 1)
    for low, high, error in (([1.0], [1.0], ValueError), ([0.0], [1.0, 2.0], ValueError), (["a"], [1.0], TypeError)):
        with pytest.raises(error, match="`min_range`"):
            validate_uniform_min_max_ranges(low, high)


def test_an_adjusted_range_must_contain_zero_and_warns_of_a_change():
    low, high = [-1.0, -2.0], [1.0, 3.0]
    # A warning is an error in these tests.
    validate_adjusted_min_max_ranges(low, high, low, high)
    validate_adjusted_min_max_ranges(low, high, [-1.0000001, -2.0], [0.9999999, 3.0])
    with pytest.warns(UserWarning, match=r"from .*\[-2\.0, 3\.0\].* to .*\[-2\.1, 2\.9\]"):
        validate_adjusted_min_max_ranges(low, high, [-1.0, -2.1], [1.0, 2.9])
    with pytest.raises(ValueError, match="`adj_min` to `adj_max` must contain zero"):
        validate_adjusted_min_max_ranges(low, high, [0.1, -2.0], high)
    with pytest.raises(ValueError, match="must contain zero"):
        validate_adjusted_min_max_ranges(low, high, low, [1.0, -0.1])
    with pytest.raises(ValueError, match="`adj_min` and `adj_max` must have the length"):
        validate_adjusted_min_max_ranges(low, high, [-1.0], high)
    with pytest.raises(ValueError, match="`min_range` must be below"):
        validate_adjusted_min_max_ranges(high, low, low, high)

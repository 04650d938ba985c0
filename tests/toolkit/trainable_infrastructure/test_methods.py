# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What every registered training method computes, against NumPy: its levels, where it starts, what it freezes to."""

import numpy as np
import pytest
from method_cases import (
    ACTIVATION,
    CHANNELS,
    GRIDS,
    NAMES,
    POT,
    SCHEDULES,
    SYMMETRIC,
    TABLES,
    UNIFORM,
    WEIGHT,
    Case,
    cases_of,
    class_of,
    config_of,
    few_of,
    frozen_levels,
    gradients,
    is_torch,
    odd_states,
    perturbed,
    quantizer_of,
    run,
    run_inferable,
    sample,
    set_state,
    state_of,
    tensor_for,
    trainable_names,
    variables_of,
    wings,
)

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure import VariableGroup
from model_compression_toolkit.trainable_infrastructure.methods.method import SMALLEST_SCALE, method_class

# Every method on every grid: weights all three ways, activations per tensor. Keras: one of each target.
cases = wings(cases_of(*NAMES), few_of(*NAMES))
ON_GRIDS = [name for name in NAMES if name not in TABLES]


def aligned(array, case):
    return np.asarray(array).reshape((-1, 1) if case.axis == 0 else (1, -1))


def reference(x, params):
    """What a frozen quantizer computes, by the neutral formulas in NumPy."""
    quantize = arithmetic.lut_quantize if isinstance(params, LookupTable) else arithmetic.fake_quantize
    with np.errstate(over="ignore"):
        return quantize(x, params, numpy_ops)


def train(quantizer, case, steps=3):
    """A few steps in which everything that is learned moves by a twentieth of its size, down the mean square error."""
    wanted = tensor_for(quantizer, np.sin(sample(case, seed=6)))
    x = sample(case, seed=5)
    for _ in range(steps):
        found = gradients(quantizer, x, lambda output: (output - wanted) * (output - wanted) / x.size)
        run(quantizer, x, training=True)
        state = state_of(quantizer)
        for name in trainable_names(quantizer):
            size = np.abs(state[name]).max() or 1.0
            direction = found[name] / (np.abs(found[name]).max() or 1.0)
            set_state(quantizer, {name: (state[name] - 0.05 * size * direction).astype(np.float32)})


@cases
def test_what_is_learned_is_what_the_paper_says(wing, case):
    learned = {
        "STE": set() if case.target is WEIGHT else {"scale"},
        "DOREFA": set(),
        "DQA": {"attention"},
        "SOFT_ROUNDING": {"rounding"},
        "DSQ": {"scale", "alpha"},
        "LSQ_PLUS": {"scale", "offset"},
        "LUT": {"scale", "levels"},
        "LQ_NETS": {"scale", "basis"},
    }.get(case.name, {"scale"})
    assert set(trainable_names(quantizer_of(wing, case))) == learned
    assert not trainable_names(quantizer_of_frozen_parameters(wing, case))


def quantizer_of_frozen_parameters(wing, case):
    quantizer = class_of(wing, case)(config_of(case), True)
    quantizer.initialize_quantization(case.shape, "x", None)
    assert quantizer.get_trainable_variables(VariableGroup.QPARAMS) == []
    return quantizer


@cases
def test_without_trained_parameters_the_gradient_still_reaches_the_tensor(wing, case):
    found = gradients(quantizer_of_frozen_parameters(wing, case), sample(case))
    assert set(found) == {"x"}
    assert found["x"].any()


@cases
def test_outputs_of_evaluation_are_levels_of_what_it_freezes_to(wing, case):
    quantizer = quantizer_of(wing, case, **SCHEDULES.get(case.name, {}))
    perturbed(quantizer)
    train(quantizer, case)
    output = run(quantizer, sample(case)).astype(np.float64)
    levels = frozen_levels(quantizer.params)
    assert len(levels) <= 2**4
    levels = np.broadcast_to(levels[:, None, :] if case.axis != 0 else levels[:, :, None], (len(levels), *case.shape))
    # A level times a scale or threshold is rounded to float32 once.
    bound = 2.0**-24 * np.abs(levels).max()
    assert np.abs(output - levels).min(axis=0).max() <= bound


@cases
def test_at_the_start_it_quantizes_as_calibrated(wing, case):
    quantizer, x = quantizer_of(wing, case), sample(case)
    params = quantizer.initial_params
    if case.name == "DOREFA" and case.target is WEIGHT:
        squeezed = np.tanh(x.astype(np.float64))
        squeezed /= np.abs(squeezed).max(axis=None if case.axis is None else 1 - case.axis, keepdims=True)
        ends = np.maximum(np.abs(params.min_range), np.abs(params.max_range))
        expected = reference((squeezed * aligned(ends, case)).astype(np.float32), params)
    elif case.name in TABLES and (case.name == "APOT" or case.target is ACTIVATION):
        # The largest level is that of the calibrated grid, or with a power-of-two threshold near it.
        largest, table = (params.max_range, quantizer.params)
        ratio = table.lut_values.max() / table.level_scale * table.threshold / largest
        assert isinstance(table, LookupTable)
        if case.target is ACTIVATION:
            assert 2**-0.5 <= ratio[0] <= 2**0.5
            assert (np.frexp(table.threshold)[0] == 0.5).all()
        else:
            np.testing.assert_allclose(ratio, 1.0, rtol=1e-6 if case.grid is SYMMETRIC or case.name != "APOT" else 0.5)
        return
    else:
        expected = reference(x, params)
        if case.name not in TABLES:
            assert quantizer.params == params
    np.testing.assert_array_equal(run(quantizer, x), expected)


@cases
def test_it_freezes_to_what_it_computes_in_evaluation_bit_for_bit(wing, case):
    """After steps of training, and with numbers as no training should leave them."""
    quantizer, x = quantizer_of(wing, case, **SCHEDULES.get(case.name, {})), sample(case)
    x.flat[:6] = [0.0, -0.0, np.inf, -np.inf, 3e38, 1e-45]
    train(quantizer, case)
    for state in [{}, *odd_states(quantizer)]:
        set_state(quantizer, state)
        frozen, output = quantizer.params, run(quantizer, x)
        assert output.dtype == np.float32
        np.testing.assert_array_equal(output, run_inferable(quantizer, x), err_msg=str(state))
        if case.name not in ("DOREFA", "SOFT_ROUNDING"):
            # These two change the weight as well.
            np.testing.assert_array_equal(output, reference(x, frozen), err_msg=str(state))
        size = frozen.threshold if isinstance(frozen, LookupTable) else frozen.scale
        assert np.isfinite(size).all()
        assert (size >= SMALLEST_SCALE).all()
        is_power_of_two = case.grid is POT or (case.name in TABLES and case.target is ACTIVATION)
        assert not is_power_of_two or (np.frexp(size)[0] == 0.5).all()


@cases
def test_integer_codes_are_those_of_what_it_freezes_to(wing, case):
    quantizer, x = quantizer_of(wing, case), sample(case)
    perturbed(quantizer)
    codes = np.asarray(quantizer.quantize(tensor_for(quantizer, x)))
    params, output = quantizer.params, run(quantizer, x)
    assert codes.dtype == np.int32
    if isinstance(params, LookupTable):
        values = arithmetic.lut_dequantize(codes, params, numpy_ops, x)
    else:
        values = arithmetic.dequantize(codes, params, numpy_ops, x)
    np.testing.assert_array_equal(values, output)


@cases
def test_a_learned_scale_counts_by_its_magnitude(wing, case):
    """A step of the optimizer across zero leaves the grid and turns the gradient to the learned number around."""
    quantizer, x, results = quantizer_of(wing, case), sample(case, seed=4), []
    scale = state_of(quantizer)["scale"] * np.float32(1.1)
    for sign in (np.float32(1.0), np.float32(-1.0)):
        set_state(quantizer, {"scale": sign * scale})
        found = gradients(quantizer, x)
        gradient = found.pop("scale", np.zeros(1)) * sign
        results.append((run(quantizer, x), gradient, quantizer.params, found))
    (output, gradient, params, rest), (turned_output, turned_gradient, turned_params, turned_rest) = results
    np.testing.assert_array_equal(output, turned_output)
    np.testing.assert_array_equal(gradient, turned_gradient)
    assert params == turned_params
    for name, each in rest.items():
        np.testing.assert_array_equal(each, turned_rest[name])


@pytest.mark.parametrize("case", [case for case in cases_of(*NAMES) if case.grid is POT and case.axis is None], ids=str)
def test_power_of_two_scales_round_in_the_logarithm(case):
    pytest.importorskip("torch")
    quantizer = quantizer_of("pytorch", case)
    for raw in np.float32([*np.geomspace(1e-6, 1e6, 61), 0.7, 0.71, 1.41, 1.42, 3.0, -0.3]):
        set_state(quantizer, {"scale": np.array([raw])})
        params = quantizer.params
        scale = params.threshold / 2.0**3 if isinstance(params, LookupTable) else params.scale
        assert scale[0] == 2.0 ** np.round(np.log2(abs(np.float64(raw))))


@cases
@pytest.mark.parametrize("training", [False, True])
def test_zero_stays_zero_whatever_was_learned(wing, case, training):
    quantizer = quantizer_of(wing, case)
    x = sample(case)
    x.flat[::2] = 0.0
    for state in [{}, *odd_states(quantizer)[:4]]:
        set_state(quantizer, {name: value for name, value in state.items() if name not in ("rounding", "attention")})
        output = run(quantizer, x, training)
        # In training a weight is rounded by a share that is computed of logarithms and tangents.
        bound = 2.0**-20 * quantizer.params.scale.max() if training and case.name == "SOFT_ROUNDING" else 0.0
        assert np.abs(output.flat[::2]).max() <= bound
        assert np.isfinite(output).all()


# Of DoReFa's weights the largest one is the measure of all others: there is no NaN or infinity to keep apart.
@wings(*([c for c in few if (c.name, c.target) != ("DOREFA", WEIGHT)] for few in (cases_of(*NAMES), few_of(*NAMES))))
@pytest.mark.parametrize("training", [False, True])
def test_nan_stays_nan_and_infinity_saturates(wing, case, training):
    quantizer = quantizer_of(wing, case, **SCHEDULES.get(case.name, {}))
    end_of_schedule = {
        name: np.full(1, 1e3, np.float32) for name in ("step", "annealing_step") if name in state_of(quantizer)
    }
    set_state(quantizer, end_of_schedule)
    x = np.zeros(case.shape, np.float32)
    first = (slice(None), 0) if case.axis != 0 else (0, slice(None))
    x[first][:3] = [np.nan, np.inf, -np.inf]
    output = run(quantizer, x, training)[first]
    levels = frozen_levels(quantizer.params)[:, 0]
    assert np.isnan(output[0])
    # See above.
    assert np.abs(output[3:]).max() <= (2.0**-20 if case.name == "SOFT_ROUNDING" else 0.0)
    if case.name == "DQA" and training:
        # A mixture: the finer grids reach a little further.
        assert levels[-1] * 0.999 <= output[1] <= levels[-1] * 1.15
        assert levels[0] * 1.05 <= output[2] <= levels[0] * 0.999
    else:
        np.testing.assert_array_equal(output[1:3], np.float32(levels[[-1, 0]]))


@cases
def test_training_and_gradients_are_finite_whatever_was_learned(wing, case):
    quantizer, x = quantizer_of(wing, case, **SCHEDULES.get(case.name, {})), sample(case)
    for state in odd_states(quantizer):
        bounded = {name: np.clip(value, -1e4, 1e4) for name, value in state.items()}
        set_state(quantizer, bounded)
        found = gradients(quantizer, x)
        for name, gradient in found.items():
            assert np.isfinite(gradient).all(), (name, bounded)
        set_state(quantizer, bounded)
        assert np.isfinite(run(quantizer, x, training=True)).all()


@pytest.mark.parametrize("num_bits", [2, 3, 5, 8])
@wings([case for case in cases_of(*NAMES) if case.axis is None], few_of("LSQ", "LUT"))
def test_every_width_trains_and_freezes(wing, case, num_bits):
    is_unsigned_too = case.target is ACTIVATION and case.grid is not UNIFORM
    for signed in (True, False) if is_unsigned_too else (True,):
        quantizer = quantizer_of(wing, case, num_bits, signed)
        perturbed(quantizer)
        train(quantizer, case)
        x, params = sample(case), quantizer.params
        output = run(quantizer, x)
        np.testing.assert_array_equal(output, run_inferable(quantizer, x))
        assert params.num_bits == quantizer.num_bits == num_bits
        assert params.signed == quantizer.sign == (signed and case.grid is not UNIFORM)
        assert quantizer.power_of_two == (case.grid is POT)
        assert 2 < len(np.unique(output)) <= 2**num_bits * (1 if case.axis is None else CHANNELS)
        assert signed or (output >= 0).all()


@wings(cases_of("LSQ", "STE", "DSQ", "EWGS", "PACT", "LSQ_PLUS", "DOREFA"), few_of("LSQ"))
@pytest.mark.parametrize("num_bits", [1, 16])
def test_grids_have_up_to_sixteen_bits(wing, case, num_bits):
    quantizer, x = quantizer_of(wing, case, num_bits), sample(case)
    np.testing.assert_array_equal(run(quantizer, x), run_inferable(quantizer, x))
    assert all(np.isfinite(gradient).all() for gradient in gradients(quantizer, x).values())


@pytest.mark.parametrize(("name", "num_bits", "text"), [
    *((name, 16, "at most 8 bits. Received: 16 bits") for name in TABLES),
    ("APOT", 1, "at least 2 bits with sign. Received: 1 bit"),
])  # fmt: skip
def test_widths_that_a_table_cannot_have_are_refused(name, num_bits, text):
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match=text):
        quantizer_of("pytorch", Case(name, SYMMETRIC), num_bits)


@pytest.mark.parametrize("name", ["SOFT_ROUNDING", "STOCHASTIC"])
@pytest.mark.parametrize("shape", [None, ()])
def test_methods_with_a_number_for_each_element_need_the_shape(name, shape):
    pytest.importorskip("torch")
    quantizer = class_of("pytorch", Case(name, SYMMETRIC))(config_of(Case(name, SYMMETRIC)))
    with pytest.raises(ValueError, match=f"{name} needs the shape of the weight. Received: "):
        quantizer.initialize_quantization(shape, "x", None)
    assert not state_of(quantizer)


@pytest.mark.parametrize(("num_bits", "signed"), [(2, True), (4, True), (8, True), (3, False), (8, False)])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_lsq_factor_of_an_activation_counts_the_features_of_a_sample(num_bits, signed, batch):
    pytest.importorskip("torch")
    quantizer = quantizer_of("pytorch", Case("LSQ", SYMMETRIC, ACTIVATION), num_bits, signed)
    # 7·n elements far above the range, each with slope quant_max, and the factor 1/sqrt(7·quant_max).
    found = gradients(quantizer, np.full((batch, 7), 1e3, np.float32))
    expected = batch * np.sqrt(7.0 * quantizer.initial_params.quant_max)
    np.testing.assert_allclose(found["scale"], [expected], rtol=1e-6)


@pytest.mark.parametrize("case", [case for case in cases_of("LSQ", "DSQ") if case.grid is not POT], ids=str)
def test_scale_gradient_equals_finite_differences_of_the_estimators_surrogate(case):
    """The straight-through estimator takes round(v) for v + c with a constant c.

    Its surrogate in the scale is `clip(x/s + c, quant_min - z, quant_max - z) · s` with c = round(x/s) - x/s held at
    the point of expansion: smooth wherever x is not at the clipping edge, and differentiable by finite differences.
    """
    pytest.importorskip("torch")
    quantizer, x = quantizer_of("pytorch", case), sample(case, seed=3)
    params = quantizer.initial_params
    zero_point, start = aligned(params.zero_point, case), aligned(params.scale, case)
    ratio = x.astype(np.float64) / start
    low, high = params.quant_min - zero_point, params.quant_max - zero_point
    constant, inside = np.round(ratio) - ratio, (np.round(ratio) >= low) & (np.round(ratio) <= high)
    alpha = 0.2

    def surrogate(scale):
        moved = x.astype(np.float64) / scale + constant
        if case.name == "DSQ":
            middle = np.floor(ratio) + 0.5
            moved = middle + np.tanh(np.log(2 / alpha - 1) * (x / scale - middle)) / (2 * (1 - alpha))
        total = np.where(inside, moved, np.clip(np.round(ratio), low, high)) * scale
        return total.sum(axis=None if case.axis is None else 1 - case.axis).reshape(-1)

    step = 1e-6
    slope = (surrogate(start * (1 + step)) - surrogate(start * (1 - step))) / (2 * step * params.scale)
    elements = x.size if case.target is WEIGHT else x[0].size
    factor = (elements / params.scale.size * params.quant_max) ** -0.5
    # Sums of up to 120 terms in float32, each up to eight.
    np.testing.assert_allclose(gradients(quantizer, x)["scale"], factor * slope, rtol=1e-4, atol=1e-4)


@cases
def test_the_inferable_twin_is_of_the_same_target_and_grid(wing, case):
    quantizer = quantizer_of(wing, case)
    inferable = quantizer.convert2inferable()
    assert inferable.quantization_target is case.target
    expected = case.grid
    if case.name in TABLES:
        is_power_of_two = case.grid is POT or case.target is ACTIVATION
        expected = QuantizationMethod.LUT_POT_QUANTIZER if is_power_of_two else QuantizationMethod.LUT_SYM_QUANTIZER
    assert inferable.quantization_method == [expected]
    assert inferable.params == quantizer.params
    assert not hasattr(inferable, "convert2inferable")
    assert isinstance(quantizer.params, LookupTable if case.name in TABLES else QuantParams)


@cases
def test_state_is_of_the_shape_of_the_channels_and_never_a_scalar(wing, case):
    quantizer = quantizer_of(wing, case)
    size = 1 if case.axis is None else CHANNELS
    others = {"attention": (3,), "levels": (16,), "basis": (4,), "step": (1,), "annealing_step": (1,)}
    others |= dict.fromkeys(("rounding", "noise"), case.shape)
    for name, value in state_of(quantizer).items():
        assert value.shape == others.get(name, (size,)), name
        assert value.dtype == np.float32, name
    assert "scale" in state_of(quantizer)


@cases
def test_the_state_is_made_once(wing, case):
    quantizer = quantizer_of(wing, case)
    changed, kept = perturbed(quantizer), variables_of(quantizer)
    returned = quantizer.initialize_quantization(case.shape, "again", None)
    assert returned is quantizer.quantizer_parameters or returned == quantizer.quantizer_parameters
    assert all(kept[name] is variable for name, variable in variables_of(quantizer).items())
    for name, value in state_of(quantizer).items():
        np.testing.assert_array_equal(value, changed[name])


@cases
def test_without_state_it_says_how_to_get_it(wing, case):
    quantizer = class_of(wing, case)(config_of(case))
    with pytest.raises(ValueError, match=r"has no state yet: put it into a wrapper or holder"):
        quantizer(tensor_for(quantizer, sample(case)))
    with pytest.raises(ValueError, match=r"has no state yet"):
        quantizer.convert2inferable()


@cases
def test_wrong_input_is_refused(wing, case):
    quantizer = quantizer_of(wing, case)
    with pytest.raises(TypeError, match=r"floating-point.*int"):
        quantizer(tensor_for(quantizer, np.zeros(case.shape, np.int32)))
    if case.axis is not None:
        with pytest.raises(ValueError, match=r"3 channels.*\(5, 5\)"):
            quantizer(tensor_for(quantizer, np.zeros((5, 5), np.float32)))
    # A failed call counts as none.
    np.testing.assert_equal(state_of(quantizer), state_of(quantizer_of(wing, case)))


@wings([Case(name, grid) for name in NAMES for grid in GRIDS if grid not in method_class(name).supports], few_of("LSQ"))
def test_a_grid_or_target_that_is_not_trained_is_refused(wing, case):
    if case.name in ON_GRIDS and case.grid in method_class(case.name).supports:
        case = Case("SOFT_ROUNDING", SYMMETRIC, ACTIVATION)
    with pytest.raises(ValueError, match=f"{case.name} trains .*Received: "):
        class_of(wing, case)


SETTINGS = {
    "DQA": {"temperature": 3.0, "steps": 7, "penalty": 0.0},
    "PACT": {"decay": 0.1},
    "EWGS": {"factor": 0.3},
    "SOFT_ROUNDING": {"steps": 7, "penalty": 0.5},
    "GRADUAL": {"method": "DQA", "start": 3, "end": 9, "arguments": {"steps": 5}},
    "STOCHASTIC": {"method": "PACT", "start": 3, "end": 9, "arguments": {"decay": 0.2}},
}


@wings([Case(name, method_grid, WEIGHT, 1) for name, method_grid in zip(SETTINGS, 2 * GRIDS, strict=True)],
       [Case(name, SYMMETRIC, WEIGHT, 1) for name in SETTINGS])  # fmt: skip
def test_settings_reach_the_method(wing, case):
    settings = SETTINGS[case.name]
    quantizer = quantizer_of(wing, case, **settings)
    assert quantizer.method_arguments == settings
    for name, value in settings.items():
        if name not in ("method", "arguments"):
            assert getattr(quantizer.method, name) == value
    if "method" in settings:
        assert quantizer.method.inner.name == settings["method"]
        assert all(getattr(quantizer.method.inner, name) == value for name, value in settings["arguments"].items())
    assert is_torch(quantizer) == (wing == "pytorch")


@pytest.mark.parametrize(("name", "settings", "error", "text"), [
    ("DQA", {"temperature": "x"}, TypeError, "`temperature` must be a number. Received: temperature='x'"),
    ("DQA", {"temperature": -1}, ValueError, "must be from 0.0 to inf, and finite. Received: temperature=-1"),
    ("DQA", {"temperature": float("nan")}, ValueError, "`temperature` must be .*finite. Received: temperature=nan"),
    ("DQA", {"steps": 0}, ValueError, "`steps` must be at least 1. Received: steps=0"),
    ("DQA", {"steps": 2.5}, TypeError, "`steps` must be an integer. Received: steps=2.5"),
    ("DQA", {"steps": True}, TypeError, "`steps` must be an integer. Received: steps=True"),
    ("DQA", {"penalty": -0.1}, ValueError, "`penalty` must be from 0.0 to inf"),
    ("PACT", {"decay": None}, TypeError, "`decay` must be a number. Received: decay=None"),
    ("PACT", {"decay": -1e-9}, ValueError, "`decay` must be from 0.0"),
    ("EWGS", {"factor": True}, TypeError, "`factor` must be a number. Received: factor=True"),
    ("EWGS", {"factor": -0.1}, ValueError, "`factor` must be from 0.0"),
    ("SOFT_ROUNDING", {"steps": -3}, ValueError, "`steps` must be at least 1. Received: steps=-3"),
    ("SOFT_ROUNDING", {"penalty": float("inf")}, ValueError, "`penalty` must be .*finite. Received: penalty=inf"),
    ("GRADUAL", {"start": 5, "end": 5}, ValueError, "`start` must be below `end`. Received: start=5, end=5"),
    ("GRADUAL", {"start": -1}, ValueError, "`start` must be at least 0. Received: start=-1"),
    ("GRADUAL", {"end": "9"}, TypeError, "`end` must be an integer. Received: end='9'"),
    ("GRADUAL", {"method": "NOPE"}, ValueError, r"must be one of \[.*\]. Received: 'NOPE'"),
    ("GRADUAL", {"method": "STOCHASTIC"}, ValueError, "not annealed itself. Received: method='STOCHASTIC'"),
    ("STOCHASTIC", {"method": "GRADUAL"}, ValueError, "not annealed itself. Received: method='GRADUAL'"),
    ("STOCHASTIC", {"method": "LSQ_PLUS"}, ValueError, r"LSQ_PLUS trains \['UNIFORM'\]. Received: SYMMETRIC"),
    ("GRADUAL", {"method": "DQA", "arguments": {"steps": 0}}, ValueError, "`steps` must be at least 1"),
])  # fmt: skip
def test_wrong_settings_are_refused(name, settings, error, text):
    pytest.importorskip("torch")
    with pytest.raises(error, match=text):
        quantizer_of("pytorch", Case(name, SYMMETRIC, WEIGHT, 1), **settings)


@pytest.mark.parametrize("case", cases_of(*NAMES), ids=str)
def test_print_shows_method_grid_and_width(case):
    pytest.importorskip("torch")
    assert f"{case.name}, {case.grid.name}, num_bits=4, axis={case.axis}" in repr(quantizer_of("pytorch", case))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name != "APOT" and SYMMETRIC in method_class(name).supports]
)
def test_one_bit_with_sign_is_minus_the_threshold_and_zero(name):
    pytest.importorskip("torch")
    case = Case(name, SYMMETRIC, WEIGHT, 0)
    quantizer, x = quantizer_of("pytorch", case, 1), sample(case)
    threshold = np.asarray(config_of(case).weights_quantization_params["threshold"], np.float32)[:, np.newaxis]
    for output in (run(quantizer, x), run_inferable(quantizer, x)):
        assert set(np.unique(output / threshold)) == {-1.0, 0.0}
    assert all(np.isfinite(each).all() for each in gradients(quantizer, x).values())

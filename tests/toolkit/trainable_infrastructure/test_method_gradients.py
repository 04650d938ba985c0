# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The gradient of every training method against its paper's formula, written again in NumPy, float64.

Formulas that are smooth are differentiated by central differences. All are computed at points that are away from ties
and from the edges of a method's cells, so that no last bit decides on which side a value falls.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from method_cases import (
    ACTIVATION,
    CHANNELS,
    ELEMENTS,
    GRIDS,
    NAMES,
    POT,
    SYMMETRIC,
    TABLES,
    UNIFORM,
    WEIGHT,
    Case,
    both_wings,
    cases_of,
    end_step,
    few_of,
    gradients,
    penalty,
    perturbed,
    quantizer_of,
    run,
    set_state,
    state_of,
    tensor_for,
    wings,
)

STEP = 1e-6
Array = np.ndarray[Any, Any]


def slope(function: Callable[[Array], Array], at: Array, step: float = STEP) -> Array:
    """Central difference of a function that acts on each element; its error is of the order of 1e-9."""
    return (function(at + step) - function(at - step)) / (2 * step)


def slopes(function: Callable[[Array], Array], at: Array, step: float = STEP) -> Array:
    """Central differences of a function of a vector along each of its elements: shape (K, …)."""
    return np.stack([(function(at + d) - function(at - d)) / (2 * step) for d in np.eye(at.size) * step])


class Point:
    """A quantizer away from where it started, a sample away from ties, and both in the words of the papers, float64.

    `scale`, `zero` (the zero point) and what is derived of them broadcast against the sample `x`. `ratio` is x in
    steps, `position` its code before clipping, `steps` its code after it, from the zero point on.
    """

    def __init__(self, wing: str, case: Case, num_bits: int = 4, signed: bool = True, **settings: Any) -> None:
        self.case = case
        self.quantizer = quantizer_of(wing, case, num_bits, signed, **settings)
        self.state = {name: value.astype(np.float64) for name, value in perturbed(self.quantizer).items()}
        params = self.quantizer.initial_params
        self.low, self.high = params.quant_min, params.quant_max
        self.sign = np.sign(self.state["scale"])
        scale = np.abs(self.state["scale"])
        # The threshold of a table of activations is a power of two on every grid.
        self.is_power_of_two = case.grid is POT or (case.name in TABLES and case.target is ACTIVATION)
        if self.is_power_of_two:
            scale = 2.0 ** np.round(np.log2(scale))
        zero = self.state.get("zero_point", np.zeros(scale.shape))
        if "offset" in self.state:
            zero = np.clip(-np.round(self.state["offset"] / scale), self.low, self.high)
        self.scale, self.zero = self.aligned(scale), self.aligned(zero)
        self.upstream = np.random.default_rng(5).normal(size=case.shape)
        elements = np.prod(case.shape) if case.target is WEIGHT else np.prod(case.shape[1:])
        self.factor = (elements / scale.size * max(self.high, 1)) ** -0.5
        self.draw(lambda x: away_from_halves(x / self.scale) & away_from_integers(x / self.scale))

    def aligned(self, array: Array) -> Array:
        return array.reshape((-1, 1) if self.case.axis == 0 else (1, -1))

    def draw(self, is_safe: Callable[[Array], Array]) -> None:
        """A sample, float32, whose elements are all safe; from below the range to above it."""
        rng, x = np.random.default_rng(3), np.zeros(self.case.shape)
        missing = np.ones(self.case.shape, bool)
        while missing.any():
            position = rng.uniform(self.low - 2.5, self.high + 2.5, self.case.shape)
            drawn = ((position - self.zero) * self.scale).astype(np.float32).astype(np.float64)
            x = np.where(missing, drawn, x)
            missing = ~np.broadcast_to(is_safe(x), x.shape)
        self.x = x
        self.ratio = x / self.scale
        self.position = np.round(self.ratio) + self.zero
        code = np.clip(self.position, self.low, self.high)
        self.inside, self.steps = self.position == code, code - self.zero

    def found(self, loss: Any = None) -> dict[str, Array]:
        upstream = tensor_for(self.quantizer, self.upstream.astype(np.float32))
        return gradients(self.quantizer, self.x.astype(np.float32), loss or (lambda output: output * upstream))

    def per_scale(self, terms: Array) -> Array:
        """What each element adds to the gradient of each scale: shape (C, …)."""
        size = self.state["scale"].size
        terms = np.broadcast_to(terms, self.case.shape)
        return np.stack([terms * self.aligned(np.eye(size)[i]) * self.sign[i] for i in range(size)])

    def check(self, found: dict[str, Array], to_x: Array, magnitude: float = 0.0, **terms: Array) -> None:
        """Compare with what is expected: of `x` the gradient, of the rest what each element adds to it, (K, …).

        `magnitude` is that of a sum whose terms cancel before they are added up here.
        """
        assert set(found) == {"x", *terms}
        # A few roundings to float32.
        np.testing.assert_allclose(found["x"], to_x, rtol=2e-6, atol=1e-6)
        for name, each in terms.items():
            flat = each.reshape(len(each), -1)
            assert found[name].size == len(flat), name
            # Sums of up to 120 terms: an error of 2**-24 of the code in steps, which is up to ten, in every term.
            bound = 2e-6 * max(np.abs(flat).sum(axis=1).max(), magnitude)
            np.testing.assert_allclose(found[name].ravel(), flat.sum(axis=1), rtol=1e-5, atol=bound, err_msg=name)
            assert np.abs(flat.sum(axis=1)).max() > 20 * bound, f"the point says nothing of {name}"

    def lsq(self) -> tuple[Array, Array]:
        """Gradients to x and, element by element, to the scale: Esser et al. 2020, equation 3, without its factor."""
        to_scale = self.upstream * (self.steps - np.where(self.inside, self.ratio, 0.0))
        return self.upstream * self.inside, to_scale


def away_from_halves(ratio: Array) -> Array:
    return np.abs(ratio - np.floor(ratio) - 0.5) > 0.02


def away_from_integers(ratio: Array) -> Array:
    return np.abs(ratio - np.round(ratio)) > 0.02


def test_every_method_has_its_test():
    tested = {
        param.values[1].name
        for function in globals().values()
        for mark in getattr(function, "pytestmark", [])
        if mark.args[0] == ("wing", "case") and "gradients_are_finite" not in function.__name__
        for param in mark.args[1]
    }
    assert tested == set(NAMES)


@both_wings("STE")
def test_ste_passes_what_is_inside_and_activations_learn_the_scale(wing, case):
    """Jacob et al. 2018, section 3; the scale of activations: the estimator applied to `round(x/s)·s`."""
    point = Point(wing, case)
    to_x, to_scale = point.lsq()
    learned = {"scale": point.per_scale(to_scale)} if case.target is ACTIVATION else {}
    point.check(point.found(), to_x, **learned)


@both_wings("LSQ")
def test_lsq_gradient_is_that_of_the_paper(wing, case):
    """Esser et al. 2020, equations 3 and 5, section 2.2."""
    point = Point(wing, case)
    to_x, to_scale = point.lsq()
    point.check(point.found(), to_x, scale=point.per_scale(point.factor * to_scale))


@both_wings("LSQ_PLUS")
def test_lsq_plus_offset_gets_the_gradient_of_clipped_elements(wing, case):
    """Bhalgat et al. 2020, equations 6 and 7: dβ is 1 where the value is clipped, 0 elsewhere."""
    point = Point(wing, case)
    assert (~point.inside).any()
    to_x, to_scale = point.lsq()
    to_offset = point.factor * point.upstream * ~point.inside
    # The sign of the learned scale does not concern the offset.
    point.check(
        point.found(),
        to_x,
        scale=point.per_scale(point.factor * to_scale),
        offset=point.per_scale(to_offset) * point.sign.reshape(-1, 1, 1),
    )


@both_wings("PACT")
def test_pact_learns_from_clipped_elements_only(wing, case):
    """Choi et al. 2018, equation 3: dα is 1 at and above α, 0 below; here α = scale · quant_max, at both ends."""
    point = Point(wing, case)
    to_x, _ = point.lsq()
    to_scale = point.upstream * np.where(point.inside, 0.0, point.steps)
    point.check(point.found(), to_x, scale=point.per_scale(to_scale))


@both_wings("PACT")
def test_pact_penalty_is_the_square_of_the_clipping_value(wing, case):
    point = Point(wing, case, decay=0.3)
    value, found = penalty(point.quantizer, point.x.astype(np.float32) if case.target is WEIGHT else None)

    def expected(scale: Array) -> Array:
        return np.sum(0.3 * (scale * point.high) ** 2)

    scale = point.scale.ravel()
    np.testing.assert_allclose(value, expected(scale), rtol=1e-6)
    np.testing.assert_allclose(found["scale"], point.sign * slopes(expected, scale), rtol=1e-5)
    assert not found["x"].any()


@both_wings("DOREFA")
def test_dorefa_weights_have_the_gradient_of_the_tangent(wing, case):
    """Zhou et al. 2016, equation 9, stretched to the range; the largest tangent counts as a constant."""
    point = Point(wing, case)
    if case.target is ACTIVATION:
        point.check(point.found(), point.upstream * point.inside)
        return
    over = None if case.axis is None else 1 - case.axis
    ends = np.maximum(np.abs(point.low - point.zero), np.abs(point.high - point.zero)) * point.scale

    def squeezed(x: Array, largest: Array) -> Array:
        return np.tanh(x) / largest * ends

    def largest(x: Array) -> Array:
        return np.abs(np.tanh(x)).max(axis=over, keepdims=True)

    point.draw(lambda x: away_from_halves(squeezed(x, largest(x)) / point.scale))
    fixed = largest(point.x)
    code = np.round(squeezed(point.x, fixed) / point.scale) + point.zero
    inside = (code >= point.low) & (code <= point.high)
    assert inside.any()
    to_x = point.upstream * inside * slope(lambda x: squeezed(x, fixed), point.x)
    point.check(point.found(), to_x)


@both_wings("EWGS")
def test_ewgs_scales_each_gradient_by_the_distance_from_the_level(wing, case):
    """Lee et al. 2021, equation 4, with an upstream gradient that depends on the output and has both signs."""
    point = Point(wing, case, factor=0.7)
    target = np.random.default_rng(8).normal(size=case.shape).astype(np.float32)
    constant = tensor_for(point.quantizer, target)
    point.upstream = point.steps * point.scale - target
    assert (point.upstream > 0).any()
    assert (point.upstream < 0).any()
    error = point.ratio - np.round(point.ratio)
    to_x = point.inside * (point.upstream + 0.7 * np.abs(point.upstream) * error)
    _, to_scale = point.lsq()
    found = point.found(lambda output: 0.5 * (output - constant) * (output - constant))
    point.check(found, to_x, scale=point.per_scale(point.factor * to_scale))


@both_wings("DSQ")
def test_dsq_gradient_is_that_of_the_soft_staircase(wing, case):
    """Gong et al. 2019, equations 3 to 6: `l + Δ (i + (φ(x) + 1) / 2)` with Δ the scale, i the cell, and φ of α."""
    point = Point(wing, case)
    cell, alpha = np.floor(point.ratio), point.aligned(np.clip(point.state["alpha"], 0.01, 0.49))

    def staircase(x: Array, scale: Array, alpha: Array) -> Array:
        steepness = np.log(2 / alpha - 1) / scale
        phi = np.tanh(steepness * (x - (cell + 0.5) * scale)) / np.tanh(0.5 * steepness * scale)
        return np.where(point.inside, scale * (cell + (phi + 1) / 2), scale * point.steps)

    # The soft staircase meets the hard one in the middle of each cell and at its ends.
    soft = staircase(point.x, point.scale, alpha)
    assert np.abs(soft - point.steps * point.scale).max() < 0.5 * point.scale.max()
    to_x = point.upstream * slope(lambda x: staircase(x, point.scale, alpha), point.x)
    to_scale = point.upstream * slope(lambda scale: staircase(point.x, scale, alpha), point.scale)
    to_alpha = point.upstream * slope(lambda alpha: staircase(point.x, point.scale, alpha), alpha)
    point.check(
        point.found(),
        to_x,
        scale=point.per_scale(point.factor * to_scale),
        alpha=point.per_scale(point.factor * to_alpha) * point.sign.reshape(-1, 1, 1),
    )


@both_wings("DSQ")
def test_dsq_alpha_is_kept_in_its_bounds(wing, case):
    quantizer = quantizer_of(wing, case)
    x = np.float32(0.3) * np.ones(case.shape, np.float32)
    results = []
    for value in (0.49, 0.7, 30.0, 0.01, 0.0, -2.0):
        set_state(quantizer, {"alpha": np.full(state_of(quantizer)["alpha"].shape, value, np.float32)})
        results.append(gradients(quantizer, x))
    for bound in (0, 3):
        for beyond in (1, 2):
            for name, gradient in results[bound].items():
                np.testing.assert_array_equal(results[bound + beyond][name], gradient)


@both_wings("DQA")
def test_dqa_is_a_mixture_of_bit_widths_with_the_gradient_of_the_softmax(wing, case):
    """`Σ p_i q_i`, p = softmax(t · a / std(a)), at 4, 8 and 16 bits over one range, half way through the schedule."""
    point = Point(wing, case, temperature=3.0, steps=8)
    set_state(point.quantizer, {"step": np.array([4.0], np.float32)})
    params = point.quantizer.initial_params
    low, high = point.aligned(params.min_range), point.aligned(params.max_range)
    zero = case.grid is UNIFORM

    def grid(bits: int) -> tuple[Array, Array, int, int]:
        if zero:
            scale = (high - low) / (2**bits - 1)
            return scale, -np.round(low / scale), 0, 2**bits - 1
        scale = point.aligned(params.threshold) / 2.0 ** (bits - 1)
        return scale, np.zeros_like(scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    grids = [grid(bits) for bits in (4, 8, 16)]
    # The scale is not learned: the perturbation has left it alone.
    np.testing.assert_allclose(point.scale, grids[0][0], rtol=1e-6)
    point.draw(lambda x: np.all([away_from_halves(x / scale) for scale, *_ in grids], axis=0))
    positions = [np.round(point.x / scale) + zero for scale, zero, *_ in grids]
    quantized = [
        (np.clip(position, low, high) - zero) * scale
        for position, (scale, zero, low, high) in zip(positions, grids, strict=True)
    ]
    inside = [(position >= g[2]) & (position <= g[3]) for position, g in zip(positions, grids, strict=True)]

    def shares(attention: Array) -> Array:
        logits = np.exp(3.0 * 4 / 8 * attention / np.std(attention, ddof=1))
        return logits / logits.sum()

    p = shares(point.state["attention"])
    output = run(point.quantizer, point.x.astype(np.float32), training=True)
    np.testing.assert_allclose(output, sum(w * q for w, q in zip(p, quantized, strict=True)), rtol=0, atol=1e-6)
    to_x = sum(share * point.upstream * mask for share, mask in zip(p, inside, strict=True))
    mixture = np.stack([point.upstream * q for q in quantized])
    jacobian = slopes(shares, point.state["attention"])
    # The three quantizations of an element are nearly the same, and the shares add up to one.
    magnitude = np.abs(mixture).sum() * np.abs(jacobian).max()
    set_state(point.quantizer, {"step": np.array([4.0], np.float32)})
    point.check(point.found(), to_x, magnitude, attention=np.tensordot(jacobian, mixture, axes=1))


@both_wings("DQA")
@pytest.mark.parametrize("num_bits", [2, 4, 5, 16])
def test_dqa_penalty_is_the_mean_excess_of_bits(wing, case, num_bits):
    widths = {2: [2, 4, 8], 4: [4, 8, 16], 5: [5, 10, 16], 16: [16]}[num_bits]
    quantizer = quantizer_of(wing, case, num_bits=num_bits, temperature=3.0, steps=8, penalty=0.5)
    attention = perturbed(quantizer)["attention"].astype(np.float64)
    for step in (0.0, 4.0, 80.0):
        set_state(quantizer, {"step": np.array([step], np.float32)})

        def expected(attention: Array, step: float = step) -> Array:
            deviation = np.std(attention, ddof=1) if attention.size > 1 else 1.0
            weights = np.exp(3.0 * min(step / 8, 1.0) * attention / deviation)
            return np.sum(0.5 * weights / weights.sum() * (np.array(widths) / num_bits - 1))

        value, found = penalty(quantizer, np.ones(case.shape, np.float32) if case.target is WEIGHT else None)
        np.testing.assert_allclose(value, expected(attention), rtol=1e-5, atol=1e-7)
        # The exponential of a difference of logits, with a slope of up to 10: some hundred roundings.
        np.testing.assert_allclose(found["attention"], slopes(expected, attention), rtol=1e-3, atol=2e-6)


def steps_of(x: Array, threshold: Array, levels: Array, level_scale: float) -> tuple[Array, Array]:
    """Index of the level that is nearest to each element, and how much nearer it is than the next one."""
    u = np.clip(x / (threshold + 1e-8) * level_scale, -level_scale, level_scale)
    distance = np.abs(u[..., None] - levels)
    nearest_two = np.sort(distance, axis=-1)[..., :2]
    return np.argmin(distance, axis=-1), nearest_two[..., 1] - nearest_two[..., 0]


def additive_levels() -> Array:
    """Li et al. 2020, equation 4, for 4 bits with sign: one term of {0, 1, 1/4, 1/16} and one of {0, 1/2}."""
    positive = sorted({a + b for a in (0, 1, 1 / 4, 1 / 16) for b in (0, 1 / 2)})
    return np.array([-value for value in positive[:0:-1]] + positive) * 2.0**14


def table_levels(point: Point) -> tuple[Array, Array]:
    """Levels in rising order, whole numbers of 16 bits, and how much of each learned number is in each: (P, K)."""
    name, state = point.case.name, point.state
    if name == "APOT":
        return additive_levels(), np.zeros((0, 15))
    if name == "LUT":
        free = np.arange(-8, 8) != 0
        levels, jacobian = state["levels"] * free, np.diag(free.astype(float))
    else:
        bits = np.array([[code >> bit & 1 for code in range(16)] for bit in range(4)], np.float64)
        levels, jacobian = state["basis"] @ bits, bits
    order = np.argsort(levels)
    whole = np.clip(np.round(levels * 2.0**15), -(2.0**15), 2.0**15 - 1)
    return whole[order], jacobian[:, order]


@both_wings(*TABLES)
def test_levels_get_the_gradients_of_their_elements_and_the_threshold_that_of_lsq(wing, case):
    """A level: the sum over its elements (Han et al. 2016, figure 3). The threshold: Li et al. 2020, equation 8."""
    point = Point(wing, case)
    threshold = point.scale * 2.0**3
    levels, jacobian = table_levels(point)
    # A thousandth of a step of a uniform grid.
    point.draw(lambda x: steps_of(x, threshold, levels, 2.0**15)[1] > 2.0**12 * 1e-3)
    index, _ = steps_of(point.x, threshold, levels, 2.0**15)
    position = point.x / threshold * 2.0**15
    inside = (position >= levels[0]) & (position <= levels[-1])
    value = levels[index] / 2.0**15
    np.testing.assert_allclose(
        run(point.quantizer, point.x.astype(np.float32), training=True), value * threshold, rtol=1e-6
    )
    assert inside.any()
    assert not inside.all()
    slope_of_threshold = point.factor * (value - inside * point.x / threshold)
    learned = {"scale": point.per_scale(point.upstream * slope_of_threshold * 2.0**3)}
    if case.name != "APOT":
        members = np.stack([point.upstream * threshold * (index == k) for k in range(len(levels))])
        learned["basis" if case.name == "LQ_NETS" else "levels"] = np.tensordot(jacobian, members, axes=1)
    point.check(point.found(), point.upstream * inside, **learned)


@pytest.mark.parametrize(("num_bits", "signed", "terms"), [
    (2, True, [[0, 1]]),
    (2, False, [[0, 1, 1 / 2, 1 / 4]]),
    (3, True, [[0, 1, 1 / 2, 1 / 4]]),
    (5, True, [[0, 1, 1 / 4, 1 / 16], [0, 1 / 2, 1 / 8, 1 / 32]]),
    (4, False, [[0, 1, 1 / 4, 1 / 16], [0, 1 / 2, 1 / 8, 1 / 32]]),
])  # fmt: skip
def test_apot_levels_are_those_of_the_paper(num_bits, signed, terms):
    """Li et al. 2020, equation 4 and the sets of section 2.2: {0, 2^-i, 2^-(i+n), 2^-(i+2n)} of n sets."""
    pytest.importorskip("torch")
    target = WEIGHT if signed else ACTIVATION
    params = quantizer_of("pytorch", Case("APOT", SYMMETRIC, target), num_bits, signed).params
    sums = np.zeros(1)
    for term in terms:
        sums = np.unique(sums[:, None] + np.array(term))
    expected = np.unique(np.concatenate([-sums, sums])) if signed else sums
    np.testing.assert_array_equal(np.sort(params.lut_values) / params.lut_values.max(), expected / expected.max())


def rectified_sigmoid(number: Array) -> Array:
    """Nagel et al. 2020, equation 23."""
    return np.clip(1.2 / (1 + np.exp(-number)) - 0.1, 0, 1)


def share_of(point: Point, rounding: Array) -> Array:
    """h of each element, for a learned number that counts from where h is the fraction of `x / scale`."""
    fraction = point.ratio - np.floor(point.ratio)
    sigmoid = (fraction + 0.1) / 1.2
    return rectified_sigmoid(np.log(sigmoid / (1 - sigmoid)) + rounding)


@both_wings("SOFT_ROUNDING")
def test_soft_rounding_learns_the_share_of_rounding_up(wing, case):
    """Nagel et al. 2020, equation 22: `s · clip(floor(w / s) + h(V))`; the weight has a straight-through gradient."""
    point = Point(wing, case)
    rounding = point.state["rounding"]
    # Away from where the sigmoid is cut off, on both sides of it.
    share = share_of(point, rounding)
    number = np.abs(slope(lambda v: share_of(point, v), rounding, 1e-3) - slope(lambda v: share_of(point, v), rounding))
    is_smooth = number < 1e-5
    assert is_smooth.mean() > 0.95
    assert ((share == 0) | (share == 1)).any()
    soft = np.floor(point.ratio) + share + point.zero
    inside = (soft >= point.low) & (soft <= point.high)
    assert not inside.all()
    expected = (np.clip(soft, point.low, point.high) - point.zero) * point.scale
    np.testing.assert_allclose(
        run(point.quantizer, point.x.astype(np.float32), training=True), expected, rtol=0, atol=2e-6
    )
    point.upstream = point.upstream * is_smooth
    to_rounding = point.upstream * inside * point.scale * slope(lambda v: share_of(point, v), rounding)
    found = point.found()
    np.testing.assert_allclose(found["x"], point.upstream * inside, rtol=2e-6, atol=1e-6)
    # The hyperbolic tangent cancels near the ends of its range.
    np.testing.assert_allclose(found["rounding"], to_rounding, rtol=1e-5, atol=1e-6)
    assert np.abs(to_rounding).max() > 0.01


@both_wings("SOFT_ROUNDING")
def test_soft_rounding_penalty_drives_the_share_to_an_end(wing, case):
    """Nagel et al. 2020, equation 24, β from 20 to 2 after the first fifth of the steps."""
    point = Point(wing, case, steps=100, penalty=0.25)
    rounding, x = point.state["rounding"], point.x.astype(np.float32)
    for step, beta in ((0, None), (20, None), (40, 20 - 18 * 0.25), (60, 11.0), (100, 2.0), (1000, 2.0)):
        set_state(point.quantizer, {"step": np.array([step], np.float32)})
        value, found = penalty(point.quantizer, x)
        if beta is None:
            assert value == 0
            assert not any(gradient.any() for gradient in found.values())
            continue

        def expected(rounding: Array, beta: float = beta) -> Array:
            return 0.25 * (1 - np.abs(2 * share_of(point, rounding) - 1) ** beta)

        np.testing.assert_allclose(value, expected(rounding).sum(), rtol=1e-5)
        # Where the sigmoid is cut off the difference quotient sees both sides.
        wanted = slope(expected, rounding)
        is_smooth = np.abs(wanted - slope(expected, rounding, 1e-5)) < 1e-6
        assert is_smooth.mean() > 0.95
        np.testing.assert_allclose(found["rounding"][is_smooth], wanted[is_smooth], rtol=1e-4, atol=1e-5)
        assert not found["x"].any()


@both_wings("GRADUAL")
@pytest.mark.parametrize("calls", [0, 3, 7, 8, 50])
def test_gradual_mixes_the_float_tensor_with_the_quantized_one(wing, case, calls):
    """Liu and Mattina 2019: `(1 - α) x + α q`, here with the gradients that LSQ gives to q."""
    point = Point(wing, case, start=2, end=8)
    set_state(point.quantizer, {"annealing_step": np.array([calls], np.float32)})
    share = min(max((calls - 2) / 6, 0), 1)
    expected = (1 - share) * point.x + share * point.steps * point.scale
    output = run(point.quantizer, point.x.astype(np.float32), training=True)
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)
    assert state_of(point.quantizer)["annealing_step"] == calls + 1
    set_state(point.quantizer, {"annealing_step": np.array([calls], np.float32)})
    found, (to_x, to_scale) = point.found(), point.lsq()
    to_x = (1 - share) * point.upstream + share * to_x
    if share == 0:
        assert not found.pop("scale").any()
        point.check(found, to_x)
    else:
        point.check(found, to_x, scale=point.per_scale(share * point.factor * to_scale))


@both_wings("STOCHASTIC")
def test_stochastic_quantizes_the_elements_whose_number_is_below_the_share(wing, case):
    """Fan et al. 2021, section 4.1: each element is quantized or stays in float, with the gradient of what it is."""
    point = Point(wing, case, end=8)
    noise = point.state["noise"]
    for calls in (0, 3, 5, 8):
        set_state(point.quantizer, {"annealing_step": np.array([calls], np.float32), "noise": noise})
        chosen = noise < calls / 8
        assert abs(chosen.mean() - calls / 8) < 0.15
        output = run(point.quantizer, point.x.astype(np.float32), training=True)
        np.testing.assert_allclose(output, np.where(chosen, point.steps * point.scale, point.x), rtol=1e-6)
        set_state(point.quantizer, {"annealing_step": np.array([calls], np.float32), "noise": noise})
        found, (to_x, to_scale) = point.found(), point.lsq()
        to_x = np.where(chosen, to_x, point.upstream)
        if calls == 0:
            assert not found.pop("scale").any()
            point.check(found, to_x)
        else:
            point.check(found, to_x, scale=point.per_scale(chosen * point.factor * to_scale))


@both_wings("STOCHASTIC")
def test_stochastic_numbers_move_on_by_the_golden_ratio(wing, case):
    quantizer, x = quantizer_of(wing, case, end=8), np.zeros(case.shape, np.float32)
    start = state_of(quantizer)["noise"].astype(np.float64)
    # The same for everyone, and uniform.
    np.testing.assert_array_equal(state_of(quantizer_of(wing, case))["noise"], start)
    assert np.abs(np.quantile(start, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.1
    seen = [start]
    for calls in range(1, 21):
        run(quantizer, x, training=True)
        end_step(quantizer)
        expected = (start + calls * (5**0.5 - 1) / 2) % 1.0
        noise = state_of(quantizer)["noise"]
        # On the circle: 20 roundings of 2**-24.
        assert np.abs((noise - expected + 0.5) % 1.0 - 0.5).max() < 20 * 2.0**-23
        assert noise.min() >= 0
        assert noise.max() < 1
        seen.append(noise)
    # Of 21 calls an element is quantized about as often as the probability says, at every probability.
    for probability in (0.25, 0.5, 0.75):
        share = np.mean(np.array(seen) < probability, axis=0)
        assert np.abs(share - probability).max() < 0.1
    run(quantizer, x)
    np.testing.assert_array_equal(state_of(quantizer)["noise"], seen[-1])


@wings([Case(name, SYMMETRIC, ACTIVATION) for name in ("GRADUAL",)], [Case("GRADUAL", SYMMETRIC, ACTIVATION)])
@pytest.mark.parametrize("inner", ["STE", "PACT", "DQA", "LUT", "DOREFA"])
def test_an_annealed_method_has_the_state_penalty_and_end_of_its_inner_one(wing, case, inner):
    annealed = quantizer_of(wing, case, method=inner, end=8, arguments={"steps": 5} if inner == "DQA" else None)
    plain = quantizer_of(wing, case._replace(name=inner), **({"steps": 5} if inner == "DQA" else {}))
    assert set(state_of(annealed)) == {*state_of(plain), "annealing_step"}
    x = np.random.default_rng(0).normal(size=case.shape).astype(np.float32)
    for calls in range(8):
        mixed, quantized = run(annealed, x, training=True), run(plain, x, training=True)
        np.testing.assert_allclose(mixed, (1 - calls / 8) * x + calls / 8 * quantized, rtol=1e-5, atol=1e-6)
        end_step(annealed)
        end_step(plain)
    for _ in range(2):
        np.testing.assert_array_equal(run(annealed, x, training=True), run(plain, x, training=True))
    np.testing.assert_array_equal(run(annealed, x), run(plain, x))
    assert annealed.params == plain.params
    if inner in ("PACT", "DQA"):
        assert penalty(annealed, None)[0] == penalty(plain, None)[0] > 0


@wings(cases_of("LSQ", "DSQ", "EWGS", "PACT"), few_of("LSQ"))
def test_elements_at_the_ends_of_the_grid_are_inside_and_those_beyond_are_not(wing, case):
    """`quant_min <= round(x / scale) + zero_point <= quant_max`, ends included, NaN outside."""
    quantizer = quantizer_of(wing, case)
    params = quantizer.initial_params
    scale = params.scale.reshape((-1, 1) if case.axis == 0 else (1, -1))
    zero = params.zero_point.reshape(scale.shape)
    steps = np.array([params.quant_min - 0.4, params.quant_min - 0.6, params.quant_max + 0.4, params.quant_max + 0.6])
    rows = np.tile(steps, ELEMENTS // 4)
    steps = np.broadcast_to(rows[None, :] if case.axis == 0 else rows[:, None], case.shape)
    x = ((steps - zero) * scale).astype(np.float32)
    assert x.shape == case.shape == ((CHANNELS, ELEMENTS) if case.axis == 0 else (ELEMENTS, CHANNELS))
    gradient = gradients(quantizer, x)["x"]
    at_an_end = np.broadcast_to(np.abs(steps - np.round(steps)) < 0.5, case.shape) & (
        (np.round(steps) >= params.quant_min) & (np.round(steps) <= params.quant_max)
    )
    assert (gradient[~at_an_end] == 0).all()
    assert (gradient[at_an_end] > 0).all()
    x[:] = np.nan
    found = gradients(quantizer, x)
    assert not found["x"].any()


@wings(cases_of(*NAMES), few_of(*NAMES))
def test_gradients_are_finite_for_infinity_and_huge_numbers(wing, case):
    quantizer = quantizer_of(wing, case)
    x = np.resize(np.array([np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -0.0, 0.3], np.float32), case.shape)
    for name, gradient in gradients(quantizer, x).items():
        assert np.isfinite(gradient).all(), name


def test_grids_are_all_covered():
    assert {case.grid for case in cases_of(*NAMES)} == set(GRIDS)
    assert {case.name for case in few_of(*NAMES)} == set(NAMES)

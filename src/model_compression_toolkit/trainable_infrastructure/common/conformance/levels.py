# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance checks of what a quantizer computes in evaluation."""

import numpy as np

from mct_quantizers.common.quantizer_dispatch import takes_training
from model_compression_toolkit.trainable_infrastructure.common.conformance.bench import (
    Bench,
    Outcome,
    check,
    failed,
    passed,
)
from model_compression_toolkit.trainable_infrastructure.common.conformance.cases import rows
from model_compression_toolkit.trainable_infrastructure.common.conformance.values import (
    TOLERANCE,
    distinct,
    example,
    number,
    rounded,
    shown,
    text_of_error,
)

_NUDGE = 2.0**-21


@check("levels", "at most 2**num_bits levels for each channel, at least two; finite for finite input")
def _levels(bench: Bench) -> Outcome:
    quantizer = bench.settled
    output = bench.evaluate(quantizer, bench.values)
    with_extremes = bench.values.copy()
    table = rows(with_extremes, bench.case.axis)
    largest = float(np.finfo(np.float32).max)
    extremes = np.array([-largest, -1e30, -1e4, -1e-45, 1e-45, 1e-38, 1e4, 1e30, largest], np.float32)
    table[:, : len(extremes)] = extremes
    with_extremes = bench.folded(table)
    for values in (bench.values, with_extremes):
        found = bench.evaluate(quantizer, values)
        if not np.isfinite(found).all():
            return failed(f"not finite: {shown(values, found, ~np.isfinite(found))}")
    counts = [distinct(row) for row in rows(output, bench.case.axis)]
    if min(counts) < 2:
        return failed(f"one level alone: {number(rows(output, bench.case.axis)[int(np.argmin(counts))][0])}")
    if bench.case.num_bits is None:
        return passed(f"{max(counts)} levels; the width is not known")
    allowed = 2**bench.case.num_bits
    text = f"{max(counts)} levels, {allowed} allowed"
    return failed(text) if max(counts) > allowed else passed(text)


@check("idempotence", "quantizing the output again gives the output, within 1e-6 of the largest")
def _idempotence(bench: Bench) -> Outcome:
    evaluate, note = bench.evaluator()
    once = evaluate(bench.values)
    largest = float(np.abs(once).max())
    # A level may lie on the edge of its cell, as it does when values are rounded down: then rounding decides.
    twice = [evaluate(once + nudge * largest) for nudge in (0.0, _NUDGE, -_NUDGE)]
    distance = np.min([np.abs(again - once) for again in twice], axis=0)
    wrong = ~(distance <= TOLERANCE * largest)
    if wrong.any():
        return failed(f"{shown(once, twice[0], wrong)}{note}")
    return passed(f"largest difference {distance.max():.3g}{note}")


@check("monotonicity", "x <= y gives q(x) <= q(y) in each channel, in evaluation")
def _monotonicity(bench: Bench) -> Outcome:
    evaluate, note = bench.evaluator()
    table = rows(evaluate(bench.values), bench.case.axis)
    steps, limit = np.diff(table), TOLERANCE * np.abs(table).max()
    falls = ~(steps >= -limit)
    if falls.any():
        channel, index = np.argwhere(falls)[0]
        x = rows(bench.values, bench.case.axis)[channel]
        pair = (f"q({number(x[at])}) = {number(table[channel][at])}" for at in (index, index + 1))
        return failed(f"{', but '.join(pair)}{note}")
    return passed(f"{steps.size} pairs{note}")


@check("zero", "q(0) == 0 exactly, in evaluation, of an all-zero tensor too")
def _zero(bench: Bench) -> Outcome:
    evaluate, note = bench.evaluator()
    for values in (bench.values, np.zeros_like(bench.values)):
        output = evaluate(values)
        wrong = (values == 0.0) & (output != 0.0)
        if wrong.any():
            return failed(f"{shown(values, output, wrong)}{note}")
    return passed(f"zero{note}")


@check("nan", "NaN stays NaN, or is refused with an error; never a number")
def _nan(bench: Bench) -> Outcome:
    texts = []
    for training in (False, True):
        if training and "training" in bench.broken:
            continue
        _, quantizer = bench.carried()
        values = bench.values.copy()
        values.reshape(-1)[:: max(1, values.size // 5)] = np.nan
        flag = training if takes_training(quantizer) else None
        try:
            output = bench.wing.call(quantizer, values, flag).values
        except (TypeError, ValueError) as error:
            texts.append(f"refused: {text_of_error(error)}")
            continue
        hidden = np.isnan(values) & ~np.isnan(output)
        if hidden.any():
            return failed(f"{shown(values, output, hidden)} {'in training' if training else 'in evaluation'}")
        texts.append("NaN")
    return passed("; ".join(dict.fromkeys(texts)))


@check("infinity", "infinity saturates: it gives the largest and the smallest level")
def _infinity(bench: Bench) -> Outcome:
    quantizer = bench.settled
    table = rows(bench.values, bench.case.axis).copy()
    table[:, 0], table[:, -1] = -np.inf, np.inf
    output = rows(bench.evaluate(quantizer, bench.folded(table)), bench.case.axis)
    limit = TOLERANCE * np.abs(output[np.isfinite(output)]).max(initial=0.0)
    for row in output:
        # Without what is NaN.
        low, high = np.fmin.reduce(row[1:-1]), np.fmax.reduce(row[1:-1])
        if not (np.isfinite(row[[0, -1]]).all() and row[0] <= low + limit and row[-1] >= high - limit):
            return failed(
                f"q(-inf) = {number(row[0])} and q(inf) = {number(row[-1])}, where finite input gives "
                f"{number(low)} to {number(high)}"
            )
    return passed(f"{output[0][0]:.6g} and {output[0][-1]:.6g}")


@check("half_precision", "the output has the dtype of the input, and the levels that float32 computes")
def _half_precision(bench: Bench) -> Outcome:
    flag = False if takes_training(bench.settled) else None
    plain = bench.wing.call(bench.settled, bench.values, flag).dtype
    if plain != "float32":
        return failed(f"float32 became {plain}")
    for dtype, precision in (("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        quantizer = bench.settled
        # Values that have the dtype already, the same for both.
        values = rounded(bench.values, dtype)
        half = bench.wing.call(quantizer, values, flag, dtype)
        if half.dtype != dtype:
            return failed(f"{dtype} became {half.dtype}")
        full = bench.wing.call(quantizer, values, flag).values
        # Half of the distance between two numbers of the dtype is what storing the result may cost.
        tiny = float(np.finfo(np.float16).tiny)
        wrong = ~(np.abs(half.values - full) <= 1.01 * precision * np.maximum(np.abs(full), tiny))
        if wrong.any():
            return failed(f"{dtype}: {example(values, full, half.values, mask=wrong)}")
        if "training" in bench.broken:
            continue
        trained = bench.wing.call(bench.moved()[1], values, None if flag is None else True, dtype)
        if trained.dtype != dtype:
            return failed(f"{dtype} became {trained.dtype} in training")
    return passed("float16, bfloat16")

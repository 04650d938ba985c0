# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance checks on which all others rely: the quantizer can be called, and gives what can be compared."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from mct_quantizers.common.quantizer_dispatch import takes_training
from model_compression_toolkit.trainable_infrastructure.common.conformance.bench import (
    Bench,
    Outcome,
    check,
    failed,
    passed,
)
from model_compression_toolkit.trainable_infrastructure.common.conformance.values import example, same, text_of_error


@check("training_flag", "can be called in training and in evaluation, as wrapper and holder do", needs=())
def _training_flag(bench: Bench) -> Outcome:
    carrier, quantizer = bench.carried()
    problems: list[str] = []
    flags: list[bool | None] = [False, True] if takes_training(quantizer) else []
    if not flags or _training_is_optional(quantizer):
        flags.append(None)
    for training in flags:
        problems += _problem(
            functools.partial(bench.wing.call, quantizer, bench.values, training),
            "without the flag" if training is None else f"with training={training}",
            bench,
            "evaluation" if training is False or len(flags) == 1 else "training" if training else "",
        )
    for training in (False, True):
        where = "training" if training else "evaluation"
        problems += _problem(
            functools.partial(bench.wing.run, carrier, bench.values, training),
            f"{where} in its {'wrapper' if bench.case.is_weight else 'holder'}",
            bench,
            where,
        )
    shown = ", ".join("no flag" if flag is None else f"training={flag}" for flag in flags)
    return failed("\n".join(dict.fromkeys(problems))) if problems else passed(f"called with {shown}")


@check("shape", "the output has the shape of the input", needs=("evaluation",))
def _shape(bench: Bench) -> Outcome:
    problems, shapes = [], [bench.values.shape]
    if not bench.case.is_weight:
        # The last batch is a short one, and activations have any rank.
        shapes += [(1, *bench.values.shape[1:]), (7,), (2, 3, 4, 5)]
    for training in (False, True):
        if training and "training" in bench.broken:
            continue
        for shape in shapes:
            carrier, _ = bench.carried()
            values = bench.values if shape == bench.values.shape else np.resize(bench.values, shape)
            got = bench.wing.run(carrier, values, training).shape
            if got != shape:
                problems.append(f"{shape} became {got} {'in training' if training else 'in evaluation'}")
    if problems:
        bench.broken["shape"] = "`shape` failed"
        return failed("; ".join(problems))
    return passed(f"shapes {', '.join(map(str, shapes))}")


@check("deterministic", "two calls in evaluation give the same, bit for bit", needs=("evaluation",))
def _deterministic(bench: Bench) -> Outcome:
    carrier, quantizer = bench.moved()
    first, second, third = (bench.wing.run(carrier, bench.values) for _ in range(3))
    direct = [bench.evaluate(quantizer, bench.values) for _ in range(2)]
    for one, other in ((first, second), (second, third), direct):
        if not same(one, other):
            bench.broken["deterministic"] = "`deterministic` failed"
            values = bench.values if one.shape == other.shape == bench.values.shape else None
            return failed(f"two calls differ: {example(values, one, other)}")
    return passed("equal")


def _problem(call: Callable[[], Any], how: str, bench: Bench, gate: str) -> list[str]:
    try:
        call()
    except Exception as error:  # the text goes into the report
        if gate:
            bench.broken.setdefault(gate, f"`training_flag` failed in {gate}")
        return [f"{how}: raised {text_of_error(error)}"]
    return []


def _training_is_optional(quantizer: Any) -> bool:
    for call in (type(quantizer).__call__, getattr(quantizer, "forward", None), getattr(quantizer, "call", None)):
        found = None if call is None else inspect.signature(call).parameters.get("training")
        if found is not None:
            return found.default is not found.empty
    return True

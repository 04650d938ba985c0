# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance checks: what wrappers, holders, training and export rely on in a quantizer class.

Each check is written once over the small protocol `Wing`. Most of them look at a quantizer whose state has moved: after
three calls in training, each followed by a small random change of every trainable variable, as an optimizer makes it.

Tolerances: where a check compares numbers that one engine computed twice, it wants them equal bit for bit; where two
formulas or engines may differ in rounding, it allows `TOLERANCE` of the largest output, far below any step of a grid.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quantizer_dispatch import takes_training
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import VAR, VariableGroup
from model_compression_toolkit.trainable_infrastructure.common.conformance_cases import (
    Array,
    Case,
    folded,
    inferable_cases,
    rows,
    trainable_cases,
)
from model_compression_toolkit.trainable_infrastructure.common.conformance_report import (
    CheckResult,
    CheckStatus,
    ConformanceReport,
)
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerConfig,
    TrainableQuantizerWeightsConfig,
)

__all__ = ["CheckResult", "CheckStatus", "ConformanceReport", "Output", "TrainingCall", "Wing", "run_checks"]

TOLERANCE = 1e-6
"""Of the largest output: what two ways to compute one number may differ by."""
GRADIENT_TOLERANCE = 1e-3
"""Of the largest gradient: sums over a tensor, in an order that compilers choose."""
_NUDGE = 2.0**-21
_MERGED = 2.0**-20
_MOVES = 3
_MOST_SHOWN = 3
_LONGEST_ERROR = 300
_ADVICE = "rounding needs a straight-through gradient"


class Output(NamedTuple):
    """What a quantizer gave: its values, float16 and bfloat16 as float32, and the name of its dtype."""

    values: Array
    dtype: str


class TrainingCall(NamedTuple):
    """A call in training and the gradients of its output, weighted; None where no gradient arrives."""

    output: Array
    to_input: Array | None
    to_variables: dict[str, Array | None]


class Wing(Protocol):
    """What a framework does for the checks. A carrier is the wrapper or holder around a quantizer."""

    name: str
    channels_first: bool
    compile_equals: str
    """What the compiled function is held against, for the report."""
    compiles_training: bool

    @property
    def inferable_base(self) -> type:
        """Base of the inferable quantizers."""

    def carry(self, quantizer: Any, values: Array, is_weight: bool) -> Any:
        """A carrier that is built: a holder, or the wrapper of a layer that gives its weight, which is `values`."""

    def call(self, quantizer: Any, values: Array, training: bool | None = None, dtype: str = "float32") -> Output:
        """Call the quantizer itself; with the flag unless `training` is None."""

    def input_after(self, quantizer: Any, values: Array, training: bool) -> Array:
        """What stands in the input tensor after a call."""

    def run(self, carrier: Any, values: Array, training: bool = False, compiled: bool = False) -> Array:
        """Call the carrier: a holder with `values`, a wrapper on the weight that it has."""

    def train(self, carrier: Any, values: Array, upstream: Array, compiled: bool = False) -> TrainingCall:
        """Call the carrier in training, with the gradients of its output times `upstream`."""

    def variables(self, carrier: Any) -> dict[str, Any]:
        """The trainable variables that the carrier knows of, without the float weight."""

    def change(self, variable: Any, update: Callable[[Array], Array]) -> None:
        """Put new values into a variable."""

    def is_trainable(self, variable: Any) -> bool:
        """Whether a variable of the framework gets a gradient."""

    def state(self, carrier: Any) -> dict[str, Array]:
        """Everything that is saved with the carrier, without the float weight."""

    def float_weight(self, carrier: Any) -> Array | None:
        """The float weight of a wrapper."""

    def frozen_weight(self, quantizer: Any, values: Array) -> Array:
        """The weight to which what the quantizer freezes to is applied."""

    def codes(self, quantizer: Any, values: Array) -> Array:
        """Integer codes that the quantizer's `quantize` gives."""

    def copies(self, carrier: Any, values: Array) -> Iterator[tuple[str, Any]]:
        """How the framework copies models, and the copy."""

    def reloaded(self, carrier: Any, fresh: Callable[[], Any], values: Array) -> Any:
        """The carrier saved, and loaded into a fresh one."""

    def converted(self, carrier: Any) -> tuple[Any, Any]:
        """The carrier with inferable quantizers, and its quantizer; the one that is given may change."""

    def seeded(self) -> AbstractContextManager[Any]:
        """Inside, random numbers are the same each time, where the framework has a seed that can be put back."""


class _Outcome(NamedTuple):
    status: CheckStatus
    text: str


def _passed(text: str) -> _Outcome:
    return _Outcome(CheckStatus.PASSED, text)


def _failed(text: str) -> _Outcome:
    return _Outcome(CheckStatus.FAILED, text)


def _skipped(text: str) -> _Outcome:
    return _Outcome(CheckStatus.SKIPPED, text)


class _Bench:
    """One case on one wing, with what the first checks found out about it."""

    def __init__(self, wing: Wing, case: Case, is_first: bool) -> None:
        self.wing, self.case, self.is_first = wing, case, is_first
        self.broken: dict[str, str] = {}

    @property
    def values(self) -> Array:
        return self.case.values

    @functools.cached_property
    def is_inferable(self) -> bool:
        return isinstance(self.case.make(), self.wing.inferable_base)

    @functools.cached_property
    def upstream(self) -> Array:
        shape = self.values.shape
        return np.random.default_rng(1).uniform(0.5, 1.5, shape).astype(np.float32)

    def carried(self, quantizer: Any = None) -> tuple[Any, Any]:
        """A carrier and its quantizer, new unless given."""
        quantizer = self.case.make() if quantizer is None else quantizer
        return self.wing.carry(quantizer, self.values, self.case.is_weight), quantizer

    def moved(self) -> tuple[Any, Any]:
        """A carrier and its quantizer, whose state is no longer that of the start."""
        carrier, quantizer = self.carried()
        with self.wing.seeded():
            self.move(carrier, quantizer)
        return carrier, quantizer

    def move(self, carrier: Any, quantizer: Any) -> None:
        """Three calls in training, each followed by a small change of every trainable variable."""
        generator = np.random.default_rng(2)
        for _ in range(_MOVES):
            if "training" not in self.broken:
                self.wing.run(carrier, self.values, training=True)
            for variable in _all_variables(self.wing, carrier, quantizer).values():
                self.wing.change(variable, functools.partial(_nudged, generator=generator))

    @functools.cached_property
    def settled(self) -> Any:
        """A quantizer that has moved, for calls in evaluation, which change nothing."""
        return self.moved()[1]

    def evaluator(self) -> tuple[Callable[[Array], Array], str]:
        """A function that quantizes in evaluation, and a note on which.

        A quantizer that changes the weight before it rounds is checked as what it freezes to: the change may be one
        that no rounding is.
        """
        quantizer = self.settled
        if self._changes_weight(quantizer):
            # Of its own: to convert a carrier changes it.
            _, quantizer = self.wing.converted(self.moved()[0])
            note = " (of what it freezes to, because its `frozen_weight` changes the weight)"
        else:
            note = ""
        return lambda values: self.evaluate(quantizer, values), note

    def evaluate(self, quantizer: Any, values: Array) -> Array:
        """Output of the quantizer itself in evaluation."""
        flag = False if takes_training(quantizer) else None
        return self.wing.call(quantizer, values.astype(np.float32), flag).values

    @functools.cached_property
    def repeats_training(self) -> bool:
        """Whether two quantizers that were trained alike give the same in training: none that draws at random."""
        if "training" in self.broken:
            return False
        first, second = (self.train_output(self.moved()[0]) for _ in range(2))
        return _same(first, second)

    def train_output(self, carrier: Any) -> Array:
        """Output of a carrier in training."""
        with self.wing.seeded():
            return self.wing.run(carrier, self.values, training=True)

    def trained(self, compiled: bool) -> TrainingCall:
        """A call in training of a quantizer that has moved."""
        carrier, _ = self.moved()
        with self.wing.seeded():
            return self.wing.train(carrier, self.values, self.upstream, compiled)

    def differences(self, what: str, carrier: Any, other: Any) -> str:
        """How two carriers that ought to be alike differ, bit for bit; an empty text if they do not."""
        ours, theirs = (self.wing.run(item, self.values) for item in (carrier, other))
        if not _same(ours, theirs):
            return f"{what} differs in evaluation: {_example(self.values, ours, theirs)}"
        if self.repeats_training:
            ours, theirs = self.train_output(carrier), self.train_output(other)
            if not _same(ours, theirs):
                return f"{what} differs in training: {_example(self.values, ours, theirs)}"
        return ""

    def _changes_weight(self, quantizer: Any) -> bool:
        if not self.case.is_weight or not callable(getattr(quantizer, "frozen_weight", None)):
            return False
        return not _same(self.wing.frozen_weight(quantizer, self.values), self.values)


class _Check(NamedTuple):
    name: str
    expected: str
    function: Callable[[_Bench], _Outcome]
    needs: frozenset[str]


_CHECKS: list[_Check] = []


def _check(
    name: str, expected: str, needs: Sequence[str] = ("evaluation", "shape", "deterministic")
) -> Callable[[Callable[[_Bench], _Outcome]], Callable[[_Bench], _Outcome]]:
    """Register a check. It is skipped for a case in which something of `needs` is broken."""

    def register(function: Callable[[_Bench], _Outcome]) -> Callable[[_Bench], _Outcome]:
        _CHECKS.append(_Check(name, expected, function, frozenset(needs)))
        return function

    return register


def run_checks(
    cls: type, wing: Wing, config: TrainableQuantizerConfig | None, arguments: Mapping[str, Any]
) -> ConformanceReport:
    """Check a quantizer class.

    Args:
        cls: the class.
        wing: its framework.
        config: the configuration of a trainable quantizer; None for some that are made from the marks.
        arguments: further constructor arguments.

    Raises:
        TypeError: `config` is no configuration, or is given for an inferable quantizer; an inferable quantizer needs an
            argument whose meaning is not known.
    """
    if issubclass(cls, wing.inferable_base):
        if config is not None:
            raise TypeError(
                f"`quantization_config` must be None for {cls.__name__}, which is inferable: give its constructor "
                f"arguments by keyword. Received: {config!r}"
            )
        cases = inferable_cases(cls, arguments, wing.channels_first)
    else:
        kinds = (TrainableQuantizerWeightsConfig, TrainableQuantizerActivationConfig)
        if config is not None and not isinstance(config, kinds):
            raise TypeError(
                "`quantization_config` must be a TrainableQuantizerWeightsConfig or a "
                f"TrainableQuantizerActivationConfig. Received: {config!r}"
            )
        cases = trainable_cases(cls, config, arguments, wing.channels_first)
    benches, construction = _construct(wing, cases)
    results = [construction, *(_result(check, benches) for check in _CHECKS)]
    return ConformanceReport(cls.__name__, wing.name, tuple(bench.case.name for bench in benches), tuple(results))


def _construct(wing: Wing, cases: Sequence[Case]) -> tuple[list[_Bench], CheckResult]:
    """The cases that the class takes. One that it refuses is left out, as long as it takes another of its group."""
    benches: list[_Bench] = []
    refused: dict[str, list[str]] = {}
    taken = set()
    for case in cases:
        try:
            bench = _Bench(wing, case, is_first=case.group not in taken)
            bench.carried()
        except Exception as error:  # whatever a constructor of the user's raises is what the report must say
            refused.setdefault(case.group, []).append(f"{case.name}: {_of_error(error)}")
            continue
        taken.add(case.group)
        benches.append(bench)
    fatal = [text for group, texts in refused.items() if group not in taken for text in texts]
    left_out = [f"left out, because it is refused: {text}" for texts in refused.values() for text in texts]
    status = CheckStatus.FAILED if fatal else CheckStatus.PASSED
    detail = "\n".join(_first(fatal) or [f"{len(benches)} cases", *left_out])
    expected = "a wrapper or holder takes a quantizer of each grid that the class is marked with"
    return benches, CheckResult("construction", status, expected, detail)


def _result(check: _Check, benches: Sequence[_Bench]) -> CheckResult:
    outcomes = [(bench.case.name, _outcome(check, bench)) for bench in benches]
    for status in (CheckStatus.FAILED, CheckStatus.PASSED, CheckStatus.SKIPPED):
        found = [(name, outcome.text) for name, outcome in outcomes if outcome.status is status]
        if found:
            break
    else:
        return CheckResult(check.name, CheckStatus.SKIPPED, check.expected, "nothing could be constructed")
    texts = dict.fromkeys(text for _, text in found)
    if len(texts) == 1 and (len(found) > 1 or len(benches) == 1):
        detail = next(iter(texts))
    elif status is CheckStatus.FAILED:
        detail = "\n".join(_first([f"{name}: {text}" for name, text in found]))
    else:
        detail = "; ".join(_first(list(texts)))
    return CheckResult(check.name, status, check.expected, detail)


def _outcome(check: _Check, bench: _Bench) -> _Outcome:
    missing = sorted(check.needs & set(bench.broken))
    if missing:
        return _skipped(bench.broken[missing[0]])
    try:
        return check.function(bench)
    except Exception as error:  # a quantizer of the user's may raise anything; the report says it
        return _failed(f"raised {_of_error(error)}")


# The checks on which others rely come first.


@_check("training_flag", "can be called in training and in evaluation, as wrapper and holder do", needs=())
def _training_flag(bench: _Bench) -> _Outcome:
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
    return _failed("\n".join(dict.fromkeys(problems))) if problems else _passed(f"called with {shown}")


@_check("shape", "the output has the shape of the input", needs=("evaluation",))
def _shape(bench: _Bench) -> _Outcome:
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
        return _failed("; ".join(problems))
    return _passed(f"shapes {', '.join(map(str, shapes))}")


@_check("deterministic", "two calls in evaluation give the same, bit for bit", needs=("evaluation",))
def _deterministic(bench: _Bench) -> _Outcome:
    carrier, quantizer = bench.moved()
    first, second, third = (bench.wing.run(carrier, bench.values) for _ in range(3))
    direct = [bench.evaluate(quantizer, bench.values) for _ in range(2)]
    for one, other in ((first, second), (second, third), direct):
        if not _same(one, other):
            bench.broken["deterministic"] = "`deterministic` failed"
            example = _example(bench.values, one, other) if one.shape == bench.values.shape == other.shape else ""
            return _failed(f"two calls differ: {example}")
    return _passed("equal")


@_check("levels", "at most 2**num_bits levels for each channel, at least two; finite for finite input")
def _levels(bench: _Bench) -> _Outcome:
    quantizer = bench.settled
    output = bench.evaluate(quantizer, bench.values)
    with_extremes = bench.values.copy()
    table = rows(with_extremes, bench.case.axis)
    largest = float(np.finfo(np.float32).max)
    extremes = np.array([-largest, -1e30, -1e4, -1e-45, 1e-45, 1e-38, 1e4, 1e30, largest], np.float32)
    table[:, : len(extremes)] = extremes
    with_extremes = _unfolded(table, bench)
    for values in (bench.values, with_extremes):
        found = bench.evaluate(quantizer, values)
        if not np.isfinite(found).all():
            return _failed(f"not finite: {_shown(values, found, ~np.isfinite(found))}")
    counts = [_distinct(row) for row in rows(output, bench.case.axis)]
    if min(counts) < 2:
        return _failed(f"one level alone: {_number(rows(output, bench.case.axis)[int(np.argmin(counts))][0])}")
    if bench.case.num_bits is None:
        return _passed(f"{max(counts)} levels; the width is not known")
    allowed = 2**bench.case.num_bits
    text = f"{max(counts)} levels, {allowed} allowed"
    return _failed(text) if max(counts) > allowed else _passed(text)


@_check("idempotence", "quantizing the output again gives the output, within 1e-6 of the largest")
def _idempotence(bench: _Bench) -> _Outcome:
    evaluate, note = bench.evaluator()
    once = evaluate(bench.values)
    largest = float(np.abs(once).max())
    # A level may lie on the edge of its cell, as it does when values are rounded down: then rounding decides.
    twice = [evaluate(once + nudge * largest) for nudge in (0.0, _NUDGE, -_NUDGE)]
    distance = np.min([np.abs(again - once) for again in twice], axis=0)
    wrong = ~(distance <= TOLERANCE * largest)
    if wrong.any():
        return _failed(f"{_shown(once, twice[0], wrong)}{note}")
    return _passed(f"largest difference {distance.max():.3g}{note}")


@_check("monotonicity", "x <= y gives q(x) <= q(y) in each channel, in evaluation")
def _monotonicity(bench: _Bench) -> _Outcome:
    evaluate, note = bench.evaluator()
    table = rows(evaluate(bench.values), bench.case.axis)
    steps, limit = np.diff(table), TOLERANCE * np.abs(table).max()
    falls = ~(steps >= -limit)
    if falls.any():
        channel, index = np.argwhere(falls)[0]
        x = rows(bench.values, bench.case.axis)[channel]
        pair = (f"q({_number(x[at])}) = {_number(table[channel][at])}" for at in (index, index + 1))
        return _failed(f"{', but '.join(pair)}{note}")
    return _passed(f"{steps.size} pairs{note}")


@_check("zero", "q(0) == 0 exactly, in evaluation, of an all-zero tensor too")
def _zero(bench: _Bench) -> _Outcome:
    evaluate, note = bench.evaluator()
    for values in (bench.values, np.zeros_like(bench.values)):
        output = evaluate(values)
        wrong = (values == 0.0) & (output != 0.0)
        if wrong.any():
            return _failed(f"{_shown(values, output, wrong)}{note}")
    return _passed(f"zero{note}")


@_check("nan", "NaN stays NaN, or is refused with an error; never a number")
def _nan(bench: _Bench) -> _Outcome:
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
            texts.append(f"refused: {_of_error(error)}")
            continue
        hidden = np.isnan(values) & ~np.isnan(output)
        if hidden.any():
            return _failed(f"{_shown(values, output, hidden)} {'in training' if training else 'in evaluation'}")
        texts.append("NaN")
    return _passed("; ".join(dict.fromkeys(texts)))


@_check("infinity", "infinity saturates: it gives the largest and the smallest level")
def _infinity(bench: _Bench) -> _Outcome:
    quantizer = bench.settled
    table = rows(bench.values, bench.case.axis).copy()
    table[:, 0], table[:, -1] = -np.inf, np.inf
    output = rows(bench.evaluate(quantizer, _unfolded(table, bench)), bench.case.axis)
    limit = TOLERANCE * np.abs(output[np.isfinite(output)]).max(initial=0.0)
    for row in output:
        if not np.isfinite(row[[0, -1]]).all() or row[-1] < np.nanmax(row) - limit or row[0] > np.nanmin(row) + limit:
            return _failed(
                f"q(-inf) = {_number(row[0])} and q(inf) = {_number(row[-1])}, where finite input gives "
                f"{_number(np.nanmin(row[1:-1]))} to {_number(np.nanmax(row[1:-1]))}"
            )
    return _passed(f"{output[0][0]:.6g} and {output[0][-1]:.6g}")


@_check("input_unchanged", "input and float weight are the same, bit for bit, after a call", needs=("evaluation",))
def _input_unchanged(bench: _Bench) -> _Outcome:
    for training in (False, True):
        if training and "training" in bench.broken:
            continue
        when = "in training" if training else "in evaluation"
        carrier, quantizer = bench.carried()
        after = bench.wing.input_after(quantizer, bench.values, training)
        if not _same(after, bench.values):
            return _failed(f"the input {when}: {_example(bench.values, bench.values, after)}")
        bench.wing.run(carrier, bench.values, training)
        weight = bench.wing.float_weight(carrier)
        if weight is not None and not _same(weight, bench.values):
            return _failed(f"the float weight {when}: {_example(bench.values, bench.values, weight)}")
    return _passed("equal")


@_check("eval_keeps_state", "a call in evaluation changes no state", needs=("evaluation", "shape"))
def _eval_keeps_state(bench: _Bench) -> _Outcome:
    carrier, _ = bench.moved()
    before = bench.wing.state(carrier)
    bench.wing.run(carrier, 2.0 * bench.values)
    after = bench.wing.state(carrier)
    changed = [name for name in before if name not in after or not _same(before[name], after[name])]
    changed += sorted(set(after) - set(before))
    return _failed(f"changed: {', '.join(changed)}") if changed else _passed(f"{len(before)} tensors")


@_check("fixed_shapes", "no state is 0-dim; names and shapes stay while it trains", needs=("evaluation",))
def _fixed_shapes(bench: _Bench) -> _Outcome:
    fresh, moved = bench.wing.state(bench.carried()[0]), bench.wing.state(bench.moved()[0])
    scalars = [name for name, array in {**fresh, **moved}.items() if array.ndim == 0]
    if scalars:
        return _failed(f"0-dim: {', '.join(scalars)}; shape (1,) is what can be sharded")
    shapes = [{name: array.shape for name, array in state.items()} for state in (fresh, moved)]
    if shapes[0] != shapes[1]:
        return _failed(f"{shapes[0]} at the start, {shapes[1]} after training")
    return _passed(", ".join(f"{name} {shape}" for name, shape in shapes[0].items()) or "no state")


@_check("finite_gradients", "gradients are finite, and that to the input is not all zero", needs=("training", "shape"))
def _finite_gradients(bench: _Bench) -> _Outcome:
    if bench.is_inferable:
        return _skipped("it is inferable: no gradient passes")
    carrier, _ = bench.moved()
    for values in (bench.values, np.zeros_like(bench.values)):
        # On the weight at hand first, then on a dead one.
        target = (
            carrier if values is bench.values else bench.wing.carry(bench.case.make(), values, bench.case.is_weight)
        )
        call = bench.wing.train(target, values, bench.upstream)
        if call.to_input is None:
            return _failed(f"no gradient reaches the input: {_ADVICE}")
        for name, gradient in {"the input": call.to_input, **call.to_variables}.items():
            if gradient is not None and not np.isfinite(gradient).all():
                bad = gradient[~np.isfinite(gradient)][0]
                which = "an all-zero tensor: " if values is not bench.values else ""
                return _failed(f"{which}the gradient to {name} has {_number(bad)}")
        if values is bench.values and not call.to_input.any():
            return _failed(f"the gradient to the input is zero everywhere: {_ADVICE}")
    return _passed(f"to the input and {len(call.to_variables)} variables")


@_check("gradient_flow", "every trainable variable is registered and gets a gradient", needs=("training", "shape"))
def _gradient_flow(bench: _Bench) -> _Outcome:
    if bench.is_inferable:
        return _skipped("it is inferable: no variable is trained")
    carrier, quantizer = bench.carried()
    groups = {group: quantizer.get_trainable_variables(group) for group in VariableGroup}
    registered = bench.wing.variables(carrier)
    outside = [
        name
        for name, variable in _own_variables(bench.wing, quantizer).items()
        if not any(variable is other for other in registered.values())
    ]
    if outside:
        return _failed(f"not among the variables that an optimizer gets: {', '.join(outside)}")
    call = bench.wing.train(carrier, bench.values, bench.upstream)
    missing = [name for name, gradient in call.to_variables.items() if gradient is None]
    if missing:
        return _failed(f"no gradient reaches {', '.join(missing)}")
    counts = ", ".join(f"{len(found)} in {group.name}" for group, found in groups.items() if found)
    return _passed(f"variables: {counts or 'none'}")


@_check("freeze_quant_params", "with freeze_quant_params=True no parameter of the quantization trains", needs=())
def _freeze_quant_params(bench: _Bench) -> _Outcome:
    name = "freeze_quant_params"
    if name not in inspect.signature(type(bench.case.make())).parameters:
        return _skipped("the constructor does not take it")
    carrier, quantizer = bench.carried(bench.case.make(**{name: True}))
    found = quantizer.get_trainable_variables(VariableGroup.QPARAMS)
    bench.wing.run(carrier, bench.values)
    return _failed(f"{len(found)} variables of QPARAMS train") if found else _passed("none")


@_check("config_round_trip", "constructed again from its configuration it gives the same, bit for bit")
def _config_round_trip(bench: _Bench) -> _Outcome:
    carrier, quantizer = bench.carried()
    cls = type(quantizer)
    if not callable(getattr(quantizer, "get_config", None)):
        different = bench.differences("a second quantizer", carrier, bench.carried()[0])
        return _failed(different) if different else _passed("constructed twice from one configuration")
    different = bench.differences("the quantizer of `from_config`", carrier, bench.carried(_again(quantizer))[0])
    if different:
        return _failed(different)
    lost = []
    names = []
    for name, value in _other_arguments(cls):
        try:
            other = bench.case.make(**{name: value})
            bench.carried(other)
        except Exception:  # not every value is one that the class takes, and which are is not known here
            continue
        names.append(name)
        if _plain(other.get_config()) == _plain(quantizer.get_config()):
            lost.append(f"`get_config` does not tell {name}={value!r} from the default")
        elif _plain(_again(other).get_config()) != _plain(other.get_config()):
            lost.append(f"`from_config` loses {name}={value!r}")
    if lost:
        return _failed("; ".join(lost))
    return _passed(f"get_config and from_config{', also with other ' if names else ''}{', '.join(names)}")


@_check("deepcopy", "copies of a trained quantizer give the same, bit for bit, and are of their own")
def _deepcopy(bench: _Bench) -> _Outcome:
    ways = []
    carrier, quantizer = bench.moved()
    for way, twin in bench.wing.copies(carrier, bench.values):
        ways.append(way)
        different = bench.differences(f"what {way} gives", carrier, twin)
        if different:
            return _failed(different)
        before = bench.wing.run(twin, bench.values)
        bench.move(carrier, quantizer)
        after = bench.wing.run(twin, bench.values)
        if not _same(before, after):
            return _failed(f"what {way} gives changes with the original: {_example(bench.values, before, after)}")
    return _passed(", ".join(ways))


@_check("state_dict", "saved and loaded into a fresh one, a trained quantizer gives the same, bit for bit")
def _state_dict(bench: _Bench) -> _Outcome:
    carrier, _ = bench.moved()
    loaded = bench.wing.reloaded(carrier, lambda: bench.carried()[0], bench.values)
    ours, theirs = bench.wing.state(carrier), bench.wing.state(loaded)
    for name, array in ours.items():
        if name not in theirs or not _same(array, theirs[name]):
            return _failed(f"{name} is {theirs.get(name)} after loading, {array} before")
    different = bench.differences("the loaded quantizer", carrier, loaded)
    return _failed(different) if different else _passed(f"{len(ours)} tensors")


@_check("compile", "the compiled function gives what the eager one gives")
def _compile(bench: _Bench) -> _Outcome:
    if not bench.is_first:
        return _skipped("compiled for the first case of each grid")
    wing, values = bench.wing, bench.values
    carrier = bench.moved()[0]
    eager, compiled = (wing.run(carrier, values, compiled=flag) for flag in (False, True))
    if not _close(eager, compiled, TOLERANCE):
        return _failed(f"in evaluation: {_example(values, eager, compiled, TOLERANCE)}")
    if bench.is_inferable or not wing.compiles_training or not bench.repeats_training:
        return _passed(f"{wing.compile_equals}, in evaluation")
    first, second = (bench.trained(compiled=flag) for flag in (False, True))
    if not _close(first.output, second.output, TOLERANCE):
        return _failed(f"in training: {_example(values, first.output, second.output, TOLERANCE)}")
    # The gradient to a variable is a sum over the tensor, whose terms may cancel.
    rounding = float(np.finfo(np.float32).eps) * values.size * float(np.abs(first.output).max())
    pairs = {"the input": (first.to_input, second.to_input, 0.0)}
    for name, gradient in first.to_variables.items():
        pairs[name] = (gradient, second.to_variables.get(name), rounding)
    for name, (*pair, floor) in pairs.items():
        ours, theirs = (np.zeros(1, np.float32) if array is None else array for array in pair)
        wrong = _distant(ours, theirs, GRADIENT_TOLERANCE, floor)
        if wrong.any():
            return _failed(f"the gradient to {name}: {_example(None, ours, theirs, mask=wrong)}")
    return _passed(f"{wing.compile_equals}, in evaluation and training")


@_check("half_precision", "the output has the dtype of the input, and the levels that float32 computes")
def _half_precision(bench: _Bench) -> _Outcome:
    flag = False if takes_training(bench.settled) else None
    plain = bench.wing.call(bench.settled, bench.values, flag).dtype
    if plain != "float32":
        return _failed(f"float32 became {plain}")
    for dtype, precision in (("float16", 2.0**-11), ("bfloat16", 2.0**-8)):
        quantizer = bench.settled
        # Values that have the dtype already, the same for both.
        values = _rounded(bench.values, dtype)
        half = bench.wing.call(quantizer, values, flag, dtype)
        if half.dtype != dtype:
            return _failed(f"{dtype} became {half.dtype}")
        full = bench.wing.call(quantizer, values, flag).values
        # Half of the distance between two numbers of the dtype is what storing the result may cost.
        tiny = float(np.finfo(np.float16).tiny)
        wrong = ~(np.abs(half.values - full) <= 1.01 * precision * np.maximum(np.abs(full), tiny))
        if wrong.any():
            return _failed(f"{dtype}: {_example(values, full, half.values, mask=wrong)}")
        if "training" in bench.broken:
            continue
        trained = bench.wing.call(bench.moved()[1], values, None if flag is None else True, dtype)
        if trained.dtype != dtype:
            return _failed(f"{dtype} became {trained.dtype} in training")
    return _passed("float16, bfloat16")


@_check("convert2inferable", "what a trained quantizer freezes to gives its output in evaluation, within 1e-6")
def _convert2inferable(bench: _Bench) -> _Outcome:
    if bench.is_inferable:
        return _skipped("it is inferable already")
    carrier, quantizer = bench.moved()
    before = bench.wing.run(carrier, bench.values)
    codes = bench.wing.codes(quantizer, bench.values) if callable(getattr(quantizer, "quantize", None)) else None
    converted, inferable = bench.wing.converted(carrier)
    name, text = type(inferable).__name__, ""
    own, target = (getattr(item, "quantization_target", None) for item in (quantizer, inferable))
    if inferable is quantizer:
        return _failed("`convert2inferable` gives the trainable quantizer itself")
    if isinstance(target, QuantizationTarget) and target is not own:
        return _failed(f"it trains for {own} and freezes to {name}, which is for {target}")
    after = bench.wing.run(converted, bench.values)
    if not _close(before, after, TOLERANCE):
        return _failed(f"{name}: {_example(bench.values, before, after, TOLERANCE)}")
    if codes is not None and callable(getattr(inferable, "quantize", None)):
        weight = bench.wing.float_weight(converted)
        frozen_codes = bench.wing.codes(inferable, bench.values if weight is None else weight)
        if not _same(codes, frozen_codes):
            return _failed(f"integer codes: {_example(bench.values, codes, frozen_codes)}")
        text = ", integer codes equal"
    return _passed(f"{name}, largest difference {np.abs(after - before).max():.3g}{text}")


def _problem(call: Callable[[], Any], how: str, bench: _Bench, gate: str) -> list[str]:
    try:
        call()
    except Exception as error:  # the text goes into the report
        if gate:
            bench.broken.setdefault(gate, f"`training_flag` failed in {gate}")
        return [f"{how}: raised {_of_error(error)}"]
    return []


def _training_is_optional(quantizer: Any) -> bool:
    for call in (type(quantizer).__call__, getattr(quantizer, "forward", None), getattr(quantizer, "call", None)):
        found = None if call is None else inspect.signature(call).parameters.get("training")
        if found is not None:
            return found.default is not found.empty
    return True


def _own_variables(wing: Wing, quantizer: Any) -> dict[str, Any]:
    """What the quantizer itself calls its trainable variables."""
    entries = getattr(quantizer, "quantizer_parameters", None) or {}
    found = {name: item[VAR] if isinstance(item, dict) and VAR in item else item for name, item in entries.items()}
    return {name: variable for name, variable in found.items() if wing.is_trainable(variable)}


def _all_variables(wing: Wing, carrier: Any, quantizer: Any) -> dict[str, Any]:
    """The trainable variables that are registered, and those that only the quantizer knows."""
    found = dict(wing.variables(carrier))
    for name, variable in _own_variables(wing, quantizer).items():
        if not any(variable is other for other in found.values()):
            found[f"quantizer_parameters[{name!r}]"] = variable
    return found


def _nudged(array: Array, generator: np.random.Generator) -> Array:
    """Each number by up to a twentieth of itself, so that it keeps its sign; zeros as far as the largest number."""
    sizes = np.where(array == 0.0, np.abs(array).max(initial=0.0) or 1.0, np.abs(array))
    moved: Array = array + 0.05 * sizes * generator.uniform(-1.0, 1.0, array.shape)
    return moved.astype(array.dtype)


def _again(quantizer: Any) -> Any:
    cls, config = type(quantizer), quantizer.get_config()
    return cls.from_config(config) if callable(getattr(cls, "from_config", None)) else cls(**config)


def _other_arguments(cls: type) -> Iterator[tuple[str, Any]]:
    """Constructor arguments that have a number as their default, each with another one."""
    for name, item in inspect.signature(cls).parameters.items():
        if isinstance(item.default, bool):
            yield name, not item.default
        elif isinstance(item.default, int):
            yield name, item.default + 1
        elif isinstance(item.default, float):
            yield name, 1.5 * item.default or 0.5


def _plain(value: Any) -> Any:
    """A configuration as values that can be compared."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _unfolded(table: Array, bench: _Bench) -> Array:
    return folded(table, bench.values.shape, bench.case.axis)


def _rounded(values: Array, dtype: str) -> Array:
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    # bfloat16 is the upper half of float32.
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _distinct(row: Array) -> int:
    """How many levels a row has; what differs by less than rounding is one."""
    ordered = np.sort(row)
    return 1 + int((np.diff(ordered) > _MERGED * np.abs(ordered).max()).sum())


def _same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _close(one: Array, other: Array, tolerance: float) -> bool:
    return one.shape == other.shape and not _distant(one, other, tolerance).any()


def _distant(one: Array, other: Array, tolerance: float, floor: float = 0.0) -> Array:
    """Where two arrays differ by more than a share of the largest number, and more than `floor`; NaN equals NaN."""
    largest = max(np.abs(array[np.isfinite(array)]).max(initial=0.0) for array in (one, other))
    equal = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        near = np.abs(one.astype(np.float64) - other) <= max(tolerance * largest, floor)
    result: Array = ~(equal | near)
    return result


def _number(value: Any) -> str:
    return f"{float(value):.9g}"


def _example(x: Array | None, one: Array, other: Array, tolerance: float = 0.0, mask: Array | None = None) -> str:
    """Where two outputs differ most."""
    if one.shape != other.shape:
        return f"shapes {one.shape} and {other.shape}"
    mask = _distant(one, other, tolerance) if mask is None else mask
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(one.astype(np.float64) - other), nan=np.inf)
    index = np.unravel_index(int(np.argmax(np.where(mask, distance, -1.0))), distance.shape)
    where = "" if x is None else f" for x = {_number(x[index])}"
    return f"{mask.sum()} of {mask.size} elements, such as {_number(one[index])} and {_number(other[index])}{where}"


def _shown(x: Array, output: Array, mask: Array) -> str:
    pairs = zip(x[mask][:_MOST_SHOWN], output[mask][:_MOST_SHOWN], strict=True)
    shown = ", ".join(f"q({_number(value)}) = {_number(result)}" for value, result in pairs)
    return f"{shown} ({mask.sum()} of {mask.size} elements)"


def _first(texts: list[str]) -> list[str]:
    more = len(texts) - _MOST_SHOWN
    return texts[:_MOST_SHOWN] + ([f"and {more} more"] if more > 0 else [])


def _of_error(error: BaseException) -> str:
    # Keras writes its errors in bold.
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}").split())
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What every conformance check has at hand: a case on a framework, and how a check is registered.

Most checks look at a quantizer whose state has moved: after three calls in training, each followed by a small random
change of every trainable variable, as an optimizer makes it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mct_quantizers.common.quantizer_dispatch import takes_training
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import VAR
from model_compression_toolkit.trainable_infrastructure.common.conformance.cases import Array, Case, folded
from model_compression_toolkit.trainable_infrastructure.common.conformance.report import CheckStatus
from model_compression_toolkit.trainable_infrastructure.common.conformance.values import example, same
from model_compression_toolkit.trainable_infrastructure.common.conformance.wing import TrainingCall, Wing

__all__ = ["CHECKS", "Bench", "Check", "Outcome", "check", "failed", "own_variables", "passed", "skipped"]

_MOVES = 3


class Outcome(NamedTuple):
    """How a check ended for one case, with the text for the report."""

    status: CheckStatus
    text: str


def passed(text: str) -> Outcome:
    """The promise holds."""
    return Outcome(CheckStatus.PASSED, text)


def failed(text: str) -> Outcome:
    """It does not."""
    return Outcome(CheckStatus.FAILED, text)


def skipped(text: str) -> Outcome:
    """It does not apply."""
    return Outcome(CheckStatus.SKIPPED, text)


class Bench:
    """One case on one wing, with what the first checks found out about it."""

    def __init__(self, wing: Wing, case: Case, is_first: bool) -> None:
        self.wing, self.case, self.is_first = wing, case, is_first
        self.broken: dict[str, str] = {}

    @property
    def values(self) -> Array:
        """The tensor to quantize."""
        return self.case.values

    @functools.cached_property
    def is_inferable(self) -> bool:
        """Whether the quantizer is for inference alone."""
        return isinstance(self.case.make(), self.wing.inferable_base)

    @functools.cached_property
    def upstream(self) -> Array:
        """The gradient that arrives at the output."""
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
            for variable in all_variables(self.wing, carrier, quantizer).values():
                self.wing.change(variable, functools.partial(_nudged, generator=generator))

    def folded(self, table: Array) -> Array:
        """The tensor of which `rows` makes `table`."""
        return folded(table, self.values.shape, self.case.axis)

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
        return same(first, second)

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
        if not same(ours, theirs):
            return f"{what} differs in evaluation: {example(self.values, ours, theirs)}"
        if self.repeats_training:
            ours, theirs = self.train_output(carrier), self.train_output(other)
            if not same(ours, theirs):
                return f"{what} differs in training: {example(self.values, ours, theirs)}"
        return ""

    def _changes_weight(self, quantizer: Any) -> bool:
        if not self.case.is_weight or not callable(getattr(quantizer, "frozen_weight", None)):
            return False
        return not same(self.wing.frozen_weight(quantizer, self.values), self.values)


class Check(NamedTuple):
    """A check that is registered."""

    name: str
    expected: str
    function: Callable[[Bench], Outcome]
    needs: frozenset[str]


CHECKS: list[Check] = []


def check(
    name: str, expected: str, needs: Sequence[str] = ("evaluation", "shape", "deterministic")
) -> Callable[[Callable[[Bench], Outcome]], Callable[[Bench], Outcome]]:
    """Register a check. It is skipped for a case in which something of `needs` is broken."""

    def register(function: Callable[[Bench], Outcome]) -> Callable[[Bench], Outcome]:
        CHECKS.append(Check(name, expected, function, frozenset(needs)))
        return function

    return register


def own_variables(wing: Wing, quantizer: Any) -> dict[str, Any]:
    """What the quantizer itself calls its trainable variables."""
    entries = getattr(quantizer, "quantizer_parameters", None) or {}
    found = {name: item[VAR] if isinstance(item, dict) and VAR in item else item for name, item in entries.items()}
    return {name: variable for name, variable in found.items() if wing.is_trainable(variable)}


def all_variables(wing: Wing, carrier: Any, quantizer: Any) -> dict[str, Any]:
    """The trainable variables that are registered, and those that only the quantizer knows."""
    found = dict(wing.variables(carrier))
    for name, variable in own_variables(wing, quantizer).items():
        if not any(variable is other for other in found.values()):
            found[f"quantizer_parameters[{name!r}]"] = variable
    return found


def _nudged(array: Array, generator: np.random.Generator) -> Array:
    """Each number by up to a twentieth of itself, so that it keeps its sign; zeros as far as the largest number."""
    sizes = np.where(array == 0.0, np.abs(array).max(initial=0.0) or 1.0, np.abs(array))
    moved: Array = array + 0.05 * sizes * generator.uniform(-1.0, 1.0, array.shape)
    return moved.astype(array.dtype)

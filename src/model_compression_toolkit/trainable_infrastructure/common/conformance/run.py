# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the conformance checks: what wrappers, holders, training and export rely on in a quantizer class."""

from collections.abc import Mapping, Sequence
from typing import Any

from model_compression_toolkit.trainable_infrastructure.common.conformance import calls, levels, training, twins
from model_compression_toolkit.trainable_infrastructure.common.conformance.bench import (
    CHECKS,
    Bench,
    Check,
    Outcome,
    failed,
    skipped,
)
from model_compression_toolkit.trainable_infrastructure.common.conformance.cases import (
    Case,
    inferable_cases,
    trainable_cases,
)
from model_compression_toolkit.trainable_infrastructure.common.conformance.report import (
    CheckResult,
    CheckStatus,
    ConformanceReport,
)
from model_compression_toolkit.trainable_infrastructure.common.conformance.values import first_of, text_of_error
from model_compression_toolkit.trainable_infrastructure.common.conformance.wing import Wing
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerConfig,
    TrainableQuantizerWeightsConfig,
)

__all__ = ["GROUPS", "run_checks"]

GROUPS = (calls, levels, training, twins)
"""The modules with the checks, in the order in which these run."""


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
    results = [construction, *(_result(check, benches) for check in CHECKS)]
    return ConformanceReport(cls.__name__, wing.name, tuple(bench.case.name for bench in benches), tuple(results))


def _construct(wing: Wing, cases: Sequence[Case]) -> tuple[list[Bench], CheckResult]:
    """The cases that the class takes. One that it refuses is left out, as long as it takes another of its group."""
    benches: list[Bench] = []
    refused: dict[str, list[str]] = {}
    taken = set()
    for case in cases:
        try:
            bench = Bench(wing, case, is_first=case.group not in taken)
            bench.carried()
        except Exception as error:  # whatever a constructor of the user's raises is what the report must say
            refused.setdefault(case.group, []).append(f"{case.name}: {text_of_error(error)}")
            continue
        taken.add(case.group)
        benches.append(bench)
    fatal = [text for group, texts in refused.items() if group not in taken for text in texts]
    left_out = first_of([f"left out, because it is refused: {text}" for texts in refused.values() for text in texts])
    status = CheckStatus.FAILED if fatal else CheckStatus.PASSED
    detail = "\n".join(first_of(fatal) or [f"{len(benches)} cases", *left_out])
    expected = "a wrapper or holder takes a quantizer of each grid that the class is marked with"
    return benches, CheckResult("construction", status, expected, detail)


def _result(check: Check, benches: Sequence[Bench]) -> CheckResult:
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
        detail = "\n".join(first_of([f"{name}: {text}" for name, text in found]))
    else:
        detail = "; ".join(first_of(list(texts)))
    return CheckResult(check.name, status, check.expected, detail)


def _outcome(check: Check, bench: Bench) -> Outcome:
    missing = sorted(check.needs & set(bench.broken))
    if missing:
        return skipped(bench.broken[missing[0]])
    try:
        return check.function(bench)
    except Exception as error:  # a quantizer of the user's may raise anything; the report says it
        return failed(f"raised {text_of_error(error)}")

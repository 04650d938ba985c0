# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance checks of what must compute the same: copies, files, the compiled function, the frozen quantizer."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.trainable_infrastructure.common.conformance.bench import (
    Bench,
    Outcome,
    check,
    failed,
    passed,
    skipped,
)
from model_compression_toolkit.trainable_infrastructure.common.conformance.values import (
    TOLERANCE,
    close,
    distant,
    example,
    same,
)

GRADIENT_TOLERANCE = 1e-3
"""Of the largest gradient: sums over a tensor, in an order that compilers choose."""


@check("config_round_trip", "constructed again from its configuration it gives the same, bit for bit")
def _config_round_trip(bench: Bench) -> Outcome:
    carrier, quantizer = bench.carried()
    cls = type(quantizer)
    if not callable(getattr(quantizer, "get_config", None)):
        different = bench.differences("a second quantizer", carrier, bench.carried()[0])
        return failed(different) if different else passed("constructed twice from one configuration")
    different = bench.differences("the quantizer of `from_config`", carrier, bench.carried(_again(quantizer))[0])
    if different:
        return failed(different)
    lost, names = [], []
    for name, value in _other_arguments(cls):
        # What is given has been through it already.
        if name in bench.case.arguments:
            continue
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
        return failed("; ".join(lost))
    return passed(f"get_config and from_config{', also with other ' if names else ''}{', '.join(names)}")


@check("deepcopy", "copies of a trained quantizer give the same, bit for bit, and are of their own")
def _deepcopy(bench: Bench) -> Outcome:
    ways = []
    carrier, quantizer = bench.moved()
    for way, twin in bench.wing.copies(carrier, bench.values):
        ways.append(way)
        different = bench.differences(f"what {way} gives", carrier, twin)
        if different:
            return failed(different)
        before = bench.wing.run(twin, bench.values)
        bench.move(carrier, quantizer)
        after = bench.wing.run(twin, bench.values)
        if not same(before, after):
            return failed(f"what {way} gives changes with the original: {example(bench.values, before, after)}")
    return passed(", ".join(ways))


@check("state_dict", "saved and loaded into a fresh one, a trained quantizer gives the same, bit for bit")
def _state_dict(bench: Bench) -> Outcome:
    carrier, _ = bench.moved()
    loaded = bench.wing.reloaded(carrier, lambda: bench.carried()[0], bench.values)
    ours, theirs = bench.wing.state(carrier), bench.wing.state(loaded)
    for name, array in ours.items():
        if name not in theirs or not same(array, theirs[name]):
            return failed(f"{name} is {theirs.get(name)} after loading, {array} before")
    different = bench.differences("the loaded quantizer", carrier, loaded)
    return failed(different) if different else passed(f"{len(ours)} tensors")


@check("compile", "the compiled function gives what the eager one gives")
def _compile(bench: Bench) -> Outcome:
    if not bench.is_first:
        return skipped("compiled for the first case of each grid")
    wing, values = bench.wing, bench.values
    carrier = bench.moved()[0]
    eager, compiled = (wing.run(carrier, values, compiled=flag) for flag in (False, True))
    if not close(eager, compiled, TOLERANCE):
        return failed(f"in evaluation: {example(values, eager, compiled, TOLERANCE)}")
    if bench.is_inferable or not wing.compiles_training or not bench.repeats_training:
        return passed(f"{wing.compile_equals}, in evaluation")
    first, second = (bench.trained(compiled=flag) for flag in (False, True))
    if not close(first.output, second.output, TOLERANCE):
        return failed(f"in training: {example(values, first.output, second.output, TOLERANCE)}")
    # The gradient to a variable is a sum over the tensor, whose terms may cancel.
    rounding = float(np.finfo(np.float32).eps) * values.size * float(np.abs(first.output).max())
    pairs = {"the input": (first.to_input, second.to_input, 0.0)}
    for name, gradient in first.to_variables.items():
        pairs[name] = (gradient, second.to_variables.get(name), rounding)
    for name, (*pair, floor) in pairs.items():
        ours, theirs = (np.zeros(1, np.float32) if array is None else array for array in pair)
        wrong = distant(ours, theirs, GRADIENT_TOLERANCE, floor)
        if wrong.any():
            return failed(f"the gradient to {name}: {example(None, ours, theirs, mask=wrong)}")
    return passed(f"{wing.compile_equals}, in evaluation and training")


@check("convert2inferable", "what a trained quantizer freezes to gives its output in evaluation, within 1e-6")
def _convert2inferable(bench: Bench) -> Outcome:
    if bench.is_inferable:
        return skipped("it is inferable already")
    carrier, quantizer = bench.moved()
    before = bench.wing.run(carrier, bench.values)
    codes = bench.wing.codes(quantizer, bench.values) if callable(getattr(quantizer, "quantize", None)) else None
    converted, inferable = bench.wing.converted(carrier)
    name, text = type(inferable).__name__, ""
    own, target = (getattr(item, "quantization_target", None) for item in (quantizer, inferable))
    if inferable is quantizer:
        return failed("`convert2inferable` gives the trainable quantizer itself")
    if isinstance(target, QuantizationTarget) and target is not own:
        return failed(f"it trains for {own} and freezes to {name}, which is for {target}")
    after = bench.wing.run(converted, bench.values)
    if not close(before, after, TOLERANCE):
        return failed(f"{name}: {example(bench.values, before, after, TOLERANCE)}")
    if codes is not None and callable(getattr(inferable, "quantize", None)):
        weight = bench.wing.float_weight(converted)
        frozen_codes = bench.wing.codes(inferable, bench.values if weight is None else weight)
        if not same(codes, frozen_codes):
            return failed(f"integer codes: {example(bench.values, codes, frozen_codes)}")
        text = ", integer codes equal"
    return passed(f"{name}, largest difference {np.abs(after - before).max():.3g}{text}")


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

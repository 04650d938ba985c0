# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance checks of what training relies on: state and gradients."""

import inspect

import numpy as np

from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import VariableGroup
from model_compression_toolkit.trainable_infrastructure.common.conformance.bench import (
    Bench,
    Outcome,
    check,
    failed,
    own_variables,
    passed,
    skipped,
)
from model_compression_toolkit.trainable_infrastructure.common.conformance.values import example, number, same

_ADVICE = "rounding needs a straight-through gradient"


@check("input_unchanged", "input and float weight are the same, bit for bit, after a call", needs=("evaluation",))
def _input_unchanged(bench: Bench) -> Outcome:
    for training in (False, True):
        if training and "training" in bench.broken:
            continue
        when = "in training" if training else "in evaluation"
        carrier, quantizer = bench.carried()
        after = bench.wing.input_after(quantizer, bench.values, training)
        if not same(after, bench.values):
            return failed(f"the input {when}: {example(bench.values, bench.values, after)}")
        bench.wing.run(carrier, bench.values, training)
        weight = bench.wing.float_weight(carrier)
        if weight is not None and not same(weight, bench.values):
            return failed(f"the float weight {when}: {example(bench.values, bench.values, weight)}")
    return passed("equal")


@check("eval_keeps_state", "a call in evaluation changes no state", needs=("evaluation", "shape"))
def _eval_keeps_state(bench: Bench) -> Outcome:
    carrier, _ = bench.moved()
    before = bench.wing.state(carrier)
    bench.wing.run(carrier, 2.0 * bench.values)
    after = bench.wing.state(carrier)
    changed = [name for name in before if name not in after or not same(before[name], after[name])]
    changed += sorted(set(after) - set(before))
    return failed(f"changed: {', '.join(changed)}") if changed else passed(f"{len(before)} tensors")


@check("fixed_shapes", "no state is 0-dim; names and shapes stay while it trains", needs=("evaluation",))
def _fixed_shapes(bench: Bench) -> Outcome:
    fresh, moved = bench.wing.state(bench.carried()[0]), bench.wing.state(bench.moved()[0])
    scalars = [name for name, array in {**fresh, **moved}.items() if array.ndim == 0]
    if scalars:
        return failed(f"0-dim: {', '.join(scalars)}; shape (1,) is what can be sharded")
    shapes = [{name: array.shape for name, array in state.items()} for state in (fresh, moved)]
    if shapes[0] != shapes[1]:
        return failed(f"{shapes[0]} at the start, {shapes[1]} after training")
    return passed(", ".join(f"{name} {shape}" for name, shape in shapes[0].items()) or "no state")


@check("finite_gradients", "gradients are finite, and that to the input is not all zero", needs=("training", "shape"))
def _finite_gradients(bench: Bench) -> Outcome:
    if bench.is_inferable:
        return skipped("it is inferable: no gradient passes")
    carrier, _ = bench.moved()
    for values in (bench.values, np.zeros_like(bench.values)):
        # On the weight at hand first, then on a dead one.
        target = (
            carrier if values is bench.values else bench.wing.carry(bench.case.make(), values, bench.case.is_weight)
        )
        call = bench.wing.train(target, values, bench.upstream)
        if call.to_input is None:
            return failed(f"no gradient reaches the input: {_ADVICE}")
        for name, gradient in {"the input": call.to_input, **call.to_variables}.items():
            if gradient is not None and not np.isfinite(gradient).all():
                bad = gradient[~np.isfinite(gradient)][0]
                which = "an all-zero tensor: " if values is not bench.values else ""
                return failed(f"{which}the gradient to {name} has {number(bad)}")
        if values is bench.values and not call.to_input.any():
            return failed(f"the gradient to the input is zero everywhere: {_ADVICE}")
    return passed(f"to the input and {len(call.to_variables)} variables")


@check("gradient_flow", "every trainable variable is registered and gets a gradient", needs=("training", "shape"))
def _gradient_flow(bench: Bench) -> Outcome:
    if bench.is_inferable:
        return skipped("it is inferable: no variable is trained")
    carrier, quantizer = bench.carried()
    groups = {group: quantizer.get_trainable_variables(group) for group in VariableGroup}
    registered = bench.wing.variables(carrier)
    outside = [
        name
        for name, variable in own_variables(bench.wing, quantizer).items()
        if not any(variable is other for other in registered.values())
    ]
    if outside:
        return failed(f"not among the variables that an optimizer gets: {', '.join(outside)}")
    call = bench.wing.train(carrier, bench.values, bench.upstream)
    missing = [name for name, gradient in call.to_variables.items() if gradient is None]
    if missing:
        return failed(f"no gradient reaches {', '.join(missing)}")
    counts = ", ".join(f"{len(found)} in {group.name}" for group, found in groups.items() if found)
    return passed(f"variables: {counts or 'none'}")


@check("freeze_quant_params", "with freeze_quant_params=True no parameter of the quantization trains", needs=())
def _freeze_quant_params(bench: Bench) -> Outcome:
    name = "freeze_quant_params"
    if name not in inspect.signature(type(bench.case.make())).parameters:
        return skipped("the constructor does not take it")
    carrier, quantizer = bench.carried(bench.case.make(**{name: True}))
    found = quantizer.get_trainable_variables(VariableGroup.QPARAMS)
    bench.wing.run(carrier, bench.values)
    return failed(f"{len(found)} variables of QPARAMS train") if found else passed("none")

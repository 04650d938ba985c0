# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the configuration says of each tensor. Rules that select nothing are refused, those without effect are told."""

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig, Rule
from model_compression_toolkit.core.common.tensor_plan import TensorPlan, TensorSite

__all__ = ["choose"]

_WIDTHS = {"weight_bits": QuantizationTarget.Weights, "activation_bits": QuantizationTarget.Activation}
_MOST_NAMES = 8
_NEAR = 0.5


def choose(sites: Sequence[TensorSite], config: QuantizationConfig) -> tuple[tuple[TensorPlan, ...], tuple[str, ...]]:
    """For each tensor whether and how it is quantized; the parameters come later, from calibration.

    Returns:
        The tensors, and what of the configuration changes nothing, and why.

    Raises:
        TypeError: the filter returns something else than True or False.
        ValueError: a rule selects no tensor, or only tensors of which it says nothing.
    """
    problems = [problem for rule in config.rules for problem in _problems(rule, sites)]
    if problems:
        types = sorted({site.type for site in sites})
        raise ValueError(
            f"Every rule must select tensors of the model. {' '.join(problems)} Types in the model: {', '.join(types)}."
        )
    keeps = [_keeps(site, config) for site in sites]
    tensors = tuple(_decide(site, config, keep) for site, keep in zip(sites, keeps, strict=True))
    notes = [note for rule in config.rules for note in _without_effect(rule, sites)]
    if config.filter is not None and all(keeps):
        notes.append("the filter of the configuration leaves nothing in float: it returned True for every layer")
    return tensors, tuple(notes)


def _decide(site: TensorSite, config: QuantizationConfig, keep: bool) -> TensorPlan:
    is_weight = site.target is QuantizationTarget.Weights
    tensor_config = config.weights if is_weight else config.activations
    reason = site.reason
    if site.first_or_last and config.first_last_bits is not None:
        tensor_config = dataclasses.replace(tensor_config, num_bits=config.first_last_bits)
    for rule in config.rules:
        if not rule.matches(site.layer, site.type):
            continue
        if not rule.quantize:
            reason = reason or "left in float by a rule of the configuration"
        bits = rule.weight_bits if is_weight else rule.activation_bits
        if bits is not None:
            tensor_config = dataclasses.replace(tensor_config, num_bits=bits)
    if not keep:
        reason = reason or "left in float by the filter of the configuration"
    return TensorPlan(site, reason=reason) if reason else TensorPlan(site, tensor_config)


def _keeps(site: TensorSite, config: QuantizationConfig) -> bool:
    if config.filter is None:
        return True
    keeps = config.filter(site.layer, site.type)
    if not isinstance(keeps, (bool, np.bool_)):
        raise TypeError(
            "`filter` must return True, or False to leave a layer in float. "
            f"Received: {keeps!r} for the layer {site.layer!r} of type {site.type!r}"
        )
    return bool(keeps)


def _problems(rule: Rule, sites: Sequence[TensorSite]) -> Iterator[str]:
    selected = [site for site in sites if rule.matches(site.layer, site.type)]
    if any(not rule.quantize or _width_of(rule, site) is not None for site in selected):
        return
    if selected:
        yield (f"{_text(rule)} says nothing of what it selects: {_listed(f'{s.layer}.{s.tensor}' for s in selected)}.")
        return
    types = {site.layer: site.type for site in sites}
    named = [layer for layer in types if rule.name is not None and rule.matches_name(layer)]
    if named:
        yield f"{_text(rule)} selects none: {_listed(f'{name} is {types[name]}' for name in named)}."
        return
    near = [*_near(rule.name, types), *_near(rule.type, types.values())]
    advice = f"Near names: {_listed(near)}. " if near else ""
    yield f"{_text(rule)} selects none. {advice}Layers: {_listed(types)}."


def _near(word: str | None, known: Iterable[str]) -> list[str]:
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches((word or "").lower(), by_lower, _MOST_NAMES, _NEAR)
    return [repr(by_lower[name]) for name in near]


def _without_effect(rule: Rule, sites: Sequence[TensorSite]) -> Iterator[str]:
    for field, target in _WIDTHS.items():
        if getattr(rule, field) is None or not rule.quantize:
            continue
        selected = [site for site in sites if site.target is target and rule.matches(site.layer, site.type)]
        if all(site.reason for site in selected):
            kind = "weight" if target is QuantizationTarget.Weights else "activation"
            reasons = sorted({site.reason for site in selected}) or [f"it selects no {kind}"]
            yield f"`{field}` of {_text(rule)} changes nothing: {'; '.join(reasons)}"


def _width_of(rule: Rule, site: TensorSite) -> int | None:
    return rule.weight_bits if site.target is QuantizationTarget.Weights else rule.activation_bits


def _listed(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _text(rule: Rule) -> str:
    given = {item.name: getattr(rule, item.name) for item in dataclasses.fields(rule)}
    defaults = {item.name: item.default for item in dataclasses.fields(rule)}
    return f"Rule({', '.join(f'{name}={value!r}' for name, value in given.items() if value != defaults[name])})"

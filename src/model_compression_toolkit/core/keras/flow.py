# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The steps that every flow takes before calibration: capture, batch norms, plan."""

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import keras

from model_compression_toolkit.core.common.batch_norm_policy import stays_live
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, build_plan
from model_compression_toolkit.core.keras.batch_norm import (
    fold_batch_norm,
    foldable_batch_norms,
    has_scale_per_output,
    live_batch_norm,
    make_factors_positive,
    problem_of_training,
    with_bias,
)
from model_compression_toolkit.core.keras.capture import Captured, capture, check_model
from model_compression_toolkit.core.keras.data import Batch, batches_of
from model_compression_toolkit.core.keras.graph import Value
from model_compression_toolkit.core.keras.graph_sites import GraphSites
from model_compression_toolkit.core.keras.module_capture import CapturedModules, module_sites
from model_compression_toolkit.core.keras.running import run_model


def capture_and_plan(
    model: keras.Model, data: Any, config: QuantizationConfig, train: bool
) -> tuple[Captured | CapturedModules, QuantizationPlan, Batch, Iterator[Batch]]:
    """Copy the model, treat its batch norms, and decide what is quantized.

    Args:
        model: the user's model; it is not changed.
        data: the calibration data.
        config: what the user asks for.
        train: whether batch norms may stay live.

    Returns:
        The captured copy, its plan without parameters, the first batch of `data`, and all of them.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: empty data, data that the model does not take, a model that is not built, is quantized already or
            has nothing to quantize.
    """
    if not isinstance(config, QuantizationConfig):
        raise TypeError(f"`config` must be a QuantizationConfig. Received: {type(config).__name__}")
    check_model(model)
    batches = batches_of(data)
    sample = next(batches)
    captured = capture(model, config.capture, sample)
    pairs: dict[str, str] = {}
    live: set[str] = set()
    if isinstance(captured, Captured):
        pairs = foldable_batch_norms(captured.graph)
        layers = captured.graph.layers()
        live = {n for n, layer in pairs.items() if train and stays_live(config, has_scale_per_output(layers[layer]))}
        if train:
            pairs, notes = _foldable_in_training(pairs, live, layers)
            captured.notes += notes
        _treat_batch_norms(captured, pairs, live & pairs.keys(), train)
        sites = list(GraphSites(captured.graph, _shapes(captured, sample)).sites(config))
    else:
        sites = list(module_sites(captured, sample))
    plan = build_plan(sites, config, captured.mode, captured.notes)
    if not plan.quantized():
        reasons = sorted({f"{tensor.name}: {tensor.reason}" for tensor in plan.skipped()})
        raise ValueError(f"`model` has nothing to quantize. {'; '.join(reasons) or 'It has no layer with a rule.'}")
    plan = dataclasses.replace(plan, batch_norms=pairs, live_batch_norms=tuple(n for n in pairs if n in live))
    return captured, plan, sample, chain([sample], batches)


def _foldable_in_training(
    pairs: dict[str, str], live: set[str], layers: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """The batch norms that can be folded when weights are trained, and notes on the others."""
    problems = {n: problem_of_training(layers[layer], layers[n], n in live) for n, layer in pairs.items()}
    notes = [f"{n} stays an operation of its own: {problem}" for n, problem in problems.items() if problem]
    return {n: layer for n, layer in pairs.items() if not problems[n]}, notes


def _treat_batch_norms(captured: Captured, pairs: dict[str, str], live: set[str], train: bool) -> None:
    for norm, layer in pairs.items():
        if norm in live:
            make_factors_positive(captured.copies[layer], captured.copies[norm])
        else:
            captured.copies[layer] = with_bias(captured.copies[layer])
            fold_batch_norm(captured.copies[layer], captured.copies[norm])
            captured.graph.bypass(norm)
    if train:
        for call in captured.graph.calls:
            former = captured.copies[call.path]
            if type(former) is keras.layers.BatchNormalization:
                captured.copies[call.path] = live_batch_norm(former, folds=call.path in live)


def _shapes(captured: Captured, sample: Batch) -> dict[Value, tuple[int, ...]]:
    """Shape of each floating-point tensor for a batch."""
    values = [value for _, value in captured.graph.values() if keras.backend.is_float_dtype(value.dtype)]
    if not values:
        return {}
    outputs = run_model(captured.float_model(values), sample)
    return {value: tuple(output.shape) for value, output in zip(values, outputs, strict=True)}

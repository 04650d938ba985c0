# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The steps that every flow takes before calibration: capture, batch norms, plan."""

import dataclasses
from collections.abc import Iterator
from itertools import chain
from typing import Any

import keras
import numpy as np

from model_compression_toolkit.core.common.batch_norm_policy import stays_live
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, build_plan
from model_compression_toolkit.core.keras.batch_norm import (
    fold_batch_norm,
    foldable_batch_norms,
    has_scale_per_output,
    live_batch_norm,
    make_factors_positive,
)
from model_compression_toolkit.core.keras.capture import Captured, capture, check_model, run_model
from model_compression_toolkit.core.keras.data import Batch, batches_of
from model_compression_toolkit.core.keras.graph import Value, graph_of, is_functional
from model_compression_toolkit.core.keras.graph_sites import GraphSites


def capture_and_plan(
    model: keras.Model, data: Any, config: QuantizationConfig, train: bool
) -> tuple[Captured, QuantizationPlan, Iterator[Batch]]:
    """Copy the model, treat its batch norms, and decide what is quantized.

    Args:
        model: the user's model; it is not changed.
        data: the calibration data.
        config: what the user asks for.
        train: whether batch norms may stay live.

    Returns:
        The captured copy, its plan without parameters, and the batches of `data`.

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
    expected = run_model(model, sample)
    graph = graph_of(model) if is_functional(model) else None
    pairs = {} if graph is None else foldable_batch_norms(graph)
    layers = {} if graph is None else graph.layers()
    live = {norm for norm, layer in pairs.items() if train and stays_live(config, has_scale_per_output(layers[layer]))}
    folded = {layer for norm, layer in pairs.items() if norm not in live}
    captured = capture(model, config.capture, {layer: {"use_bias": True} for layer in folded})
    _check_same(expected, run_model(captured.float_model(), sample))
    for norm, layer in pairs.items():
        if norm in live:
            make_factors_positive(captured.copies[layer], captured.copies[norm])
        else:
            fold_batch_norm(captured.copies[layer], captured.copies[norm])
            captured.graph.bypass(norm)
    if train:
        for call in captured.graph.calls:
            former = captured.copies[call.path]
            if type(former) is keras.layers.BatchNormalization:
                captured.copies[call.path] = live_batch_norm(former, folds=call.path in live)
    sites = GraphSites(captured.graph, _shapes(captured, sample)).sites(config.quantize_output)
    plan = build_plan(sites, config, captured.mode, captured.notes)
    if not plan.quantized():
        reasons = sorted({f"{tensor.name}: {tensor.reason}" for tensor in plan.skipped()})
        raise ValueError(f"`model` has nothing to quantize. {'; '.join(reasons) or 'It has no layer with a rule.'}")
    plan = dataclasses.replace(plan, batch_norms=pairs, live_batch_norms=tuple(n for n in pairs if n in live))
    return captured, plan, chain([sample], batches)


def _shapes(captured: Captured, sample: Batch) -> dict[Value, tuple[int, ...]]:
    """Shape of each floating-point tensor for a batch."""
    values = [value for _, value in captured.graph.values() if keras.backend.is_float_dtype(value.dtype)]
    if not values:
        return {}
    outputs = run_model(captured.float_model(values), sample)
    return {value: tuple(output.shape) for value, output in zip(values, outputs, strict=True)}


def _check_same(expected: list[Any], received: list[Any]) -> None:
    for index, (a, b) in enumerate(zip(expected, received, strict=True)):
        # As two runs of one model may differ, whose layers a compiler fuses in different ways.
        largest = np.abs(a[np.isfinite(a)]).max(initial=1.0)
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-4, atol=1e-5 * largest, equal_nan=True):
            raise ValueError(
                f"A copy of the model, made from the configurations of its layers, computes something else (output "
                f"{index}): a layer's `get_config` leaves out what its `call` depends on."
            )

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The steps that every flow takes before calibration: capture, batch norms, plan."""

import dataclasses
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn

from model_compression_toolkit.core.common.batch_norm_policy import stays_live
from model_compression_toolkit.core.common.quantization_config import CaptureMode, QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, build_plan
from model_compression_toolkit.core.pytorch.argument_forms import to_json
from model_compression_toolkit.core.pytorch.capture import Captured, capture
from model_compression_toolkit.core.pytorch.data import Batch, batches_of
from model_compression_toolkit.core.pytorch.fast_paths import call_all_layers
from model_compression_toolkit.core.pytorch.graph_sites import GraphSites
from model_compression_toolkit.core.pytorch.module_sites import module_sites
from model_compression_toolkit.core.pytorch.operators import weight_axis
from model_compression_toolkit.core.pytorch.surgery import fold_batch_norms, make_batch_norms_freezable
from model_compression_toolkit.core.pytorch.tied_weights import mark_tied_weights
from model_compression_toolkit.core.pytorch.unquantized import assembled_check


def capture_and_plan(
    model: nn.Module, data: Any, config: QuantizationConfig, train: bool
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
        ValueError: empty data, data that the model does not take, a model that is quantized already or has nothing to
            quantize.
    """
    if not isinstance(config, QuantizationConfig):
        raise TypeError(f"`config` must be a QuantizationConfig. Received: {type(config).__name__}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module. Received: {type(model).__name__}")
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    batches = batches_of(data, device)
    sample = next(batches)
    captured = capture(model, config.capture, sample, train)
    captured.check = assembled_check(model, sample)
    call_all_layers(captured.model)
    if captured.mode is CaptureMode.GRAPH:
        pairs = GraphSites(captured, sample).foldable_batch_norms()
        live = {
            norm
            for norm, layer in pairs.items()
            if train and stays_live(config, _has_scale_per_output(captured.model.get_submodule(layer)))
        }
        fold_batch_norms(captured, pairs, live)
    else:
        pairs, live = {}, set()
    if train:
        make_batch_norms_freezable(captured.model)
    if captured.mode is CaptureMode.GRAPH:
        sites = list(GraphSites(captured, sample).sites(config))
    else:
        sites = list(module_sites(captured, sample))
    sites = mark_tied_weights(sites, captured.model)
    plan = build_plan(sites, config, captured.mode, captured.notes)
    if not plan.quantized():
        reasons = sorted({f"{tensor.name}: {tensor.reason}" for tensor in plan.skipped()})
        raise ValueError(f"`model` has nothing to quantize. {'; '.join(reasons) or 'It has no layer with a rule.'}")
    arguments = {name: to_json(structure) for name, structure in captured.arguments.items()}
    live_norms = tuple(norm for norm in pairs if norm in live)
    plan = dataclasses.replace(plan, arguments=arguments, batch_norms=pairs, live_batch_norms=live_norms)
    return captured, plan, chain([sample], batches)


def _has_scale_per_output(layer: nn.Module) -> bool:
    # The groups of a transposed convolution share the scales of their output channels.
    return not (weight_axis(layer) == 1 and getattr(layer, "groups", 1) > 1)

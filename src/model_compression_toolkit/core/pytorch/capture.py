# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How a PyTorch model is seen: as a graph of operations when it can be traced, else module by module."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.pytorch.arguments import (
    check_names,
    given_arguments,
    positions_note,
    required_arguments,
)
from model_compression_toolkit.core.pytorch.data import Batch, call_model, described, first_line
from model_compression_toolkit.core.pytorch.model_kinds import check_kind, uncompiled
from model_compression_toolkit.core.pytorch.model_state import kept_on_itself, restore_buffers, scratch_copy
from model_compression_toolkit.core.pytorch.operators import weight_axis
from model_compression_toolkit.core.pytorch.tracing import Traced, lost_before_tracing, trace
from model_compression_toolkit.core.pytorch.training_comparison import (
    repeatable,
    same_values,
    training_difference,
    trains,
)
from model_compression_toolkit.logger import LOGGER_NAME

_LOGGER = logging.getLogger(LOGGER_NAME)


@dataclass
class Captured:
    """A copy of the user's model, ready to be changed.

    Attributes:
        model: the copy, in evaluation mode; an `fx.GraphModule` in graph mode.
        mode: graph or modules.
        notes: what the report should say about the capture.
        arguments: what each argument of forward was given as, by name, where not all it needs are tensors and nothing
            else is given.
        identities: paths of modules of the user's that do nothing in evaluation.
        node_names: node of each layer or operation in graph mode, by the name that plans use.
        check: raises where what was assembled of the copy, its quantizers off, is not the user's model.
    """

    model: nn.Module
    mode: CaptureMode
    notes: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    identities: frozenset[str] = frozenset()
    node_names: dict[str, str] = field(default_factory=dict)
    check: Callable[[nn.Module], None] | None = None

    @property
    def graph(self) -> fx.Graph:
        """The graph, in graph mode."""
        if not isinstance(self.model, fx.GraphModule):
            raise TypeError("Expected a model that was captured as a graph. Received: one captured module by module")
        return self.model.graph

    def node(self, layer: str) -> fx.Node:
        """The node that plans call `layer`.

        Raises:
            ValueError: the graph has none: the plan belongs to another model.
        """
        name = self.node_names.get(layer)
        found: fx.Node | None = next((node for node in self.graph.nodes if node.name == name), None)
        if found is None:
            raise ValueError(f"The model has no layer or operation {layer!r}. It has {sorted(self.node_names)}")
        return found


def capture(
    model: nn.Module,
    mode: CaptureMode = CaptureMode.AUTO,
    sample: Batch | None = None,
    train: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Captured:
    """Copy a model and see it as a graph, or module by module.

    Args:
        model: the user's model; it is not changed.
        mode: how to see it.
        sample: inputs, to check that the graph computes what the model does.
        train: whether the result will be trained: what the graph would lose in training only counts too.
        arguments: what the arguments were given as, where there is no sample; see `Captured`.

    Raises:
        TypeError: `model` is no `nn.Module`, or of a kind whose layers cannot be seen.
        ValueError: `model` is quantized already or has no values; the sample does not fit the model; `mode` is `GRAPH`
            and a graph would not do what the model does.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module. Received: {type(model).__name__}")
    check_kind(model)
    if is_quantized(model):
        raise ValueError("`model` is quantized already: it holds wrappers or holders. Give the float model.")
    copied = uncompiled(model)
    copied.eval()
    if weight_axis(copied) is not None:
        # A model that is one layer has no place of its own where a wrapper could stand.
        copied = nn.Sequential(OrderedDict(layer=copied))
    notes: list[str] = []
    if sample is not None:
        check_names(copied, sample)
        notes = positions_note(copied, sample)
    with repeatable():
        captured = _capture(copied, mode, sample, train, arguments)
    captured.notes += notes
    return captured


def _capture(
    copied: nn.Module, mode: CaptureMode, sample: Batch | None, train: bool, arguments: Mapping[str, Any] | None
) -> Captured:
    """See a copy of the user's model as a graph, or module by module; see `capture`."""
    # Runs change what a model keeps on itself.
    scratch = scratch_copy(copied)
    with repeatable():
        expected = None if sample is None else run_model(scratch, sample)
    if mode is CaptureMode.MODULES:
        return Captured(copied, mode, ["captured module by module, as configured"])
    traced = _traced(copied, scratch, sample, arguments, train)
    reason = traced if isinstance(traced, str) else ""
    if isinstance(traced, Traced) and sample is not None:
        reason = _difference(traced, copied, sample, expected, mode, train)
    if isinstance(traced, Traced) and not reason:
        restore_buffers(traced.model, copied)
        return _as_graph(traced)
    if mode is CaptureMode.GRAPH:
        raise ValueError(f"`capture` is 'graph', but {reason}. Use 'auto' or 'modules'.")
    note = f"captured module by module, because {reason}: functional operations stay in float and are not listed"
    _LOGGER.warning(note)
    return Captured(copied, CaptureMode.MODULES, [note])


def _traced(
    model: nn.Module, scratch: nn.Module, sample: Batch | None, arguments: Mapping[str, Any] | None, train: bool
) -> Traced | str:
    """The graph of `scratch`, or the reason why there is none."""
    if sample is not None:
        lost = lost_before_tracing(model)
        if lost:
            return lost
    again = scratch_copy(scratch) if train else scratch
    try:
        given = given_arguments(model, sample) if sample is not None else arguments or required_arguments(model)
        traced = trace(scratch, given)
        if train and traced.other_in_training:
            # Such as stochastic depth: called as a layer, it follows the training flag by itself.
            with_layers = trace(again, given, traced.other_in_training)
            with_layers.identities = traced.identities
            traced = traced if with_layers.notes else with_layers
    except Exception as error:  # tracing runs the user's code, which may raise anything
        return f"the model cannot be traced ({first_line(error)})"
    return traced


def _difference(traced: Traced, model: nn.Module, sample: Batch, expected: Any, mode: CaptureMode, train: bool) -> str:
    """What a graph does otherwise than its model; empty when nothing is found."""
    lost = next(iter(traced.losses), "") or kept_on_itself(model, sample, traced.changed)
    if lost:
        return lost
    try:
        with repeatable(), torch.no_grad():
            received = call_model(scratch_copy(traced.model), sample)
    except Exception as error:  # the graph of the user's model may raise anything
        return f"the traced graph fails where the model does not ({first_line(error)})"
    if not same_values(expected, received):
        return "the traced graph computes something else than the model: its control flow depends on the data"
    return _training_difference(traced, model, sample, mode) if train else ""


def _training_difference(traced: Traced, model: nn.Module, sample: Batch, mode: CaptureMode) -> str:
    """What a graph does otherwise than its model in training; empty when nothing is found."""
    kept = kept_on_itself(model, sample, traced.changed_in_training, training=True)
    lost = next(iter(traced.training_losses), "") or kept
    if lost or not traced.notes:
        return lost or training_difference(model, traced.model, sample)
    # Who asks for a graph gets one, with the note.
    needs_more = mode is CaptureMode.AUTO and trains(model, sample)
    return f"training needs more than a graph ({traced.notes[0]})" if needs_more else ""


def _as_graph(traced: Traced) -> Captured:
    given = traced.given
    arguments = {} if given == required_arguments(traced.model) else dict(given)
    captured = Captured(traced.model, CaptureMode.GRAPH, [*traced.notes], arguments)
    captured.identities = frozenset(traced.identities)
    captured.node_names = _name_nodes(traced.model)
    return captured


def is_quantized(model: nn.Module) -> bool:
    """Whether a model holds quantization wrappers or holders."""
    kinds = (PytorchQuantizationWrapper, PytorchActivationQuantizationHolder)
    return any(isinstance(module, kinds) for module in model.modules())


@torch.no_grad()
def run_model(model: nn.Module, batch: Batch) -> Any:
    """The model's outputs for a batch.

    Raises:
        ValueError: the model fails on the batch; the text gives its shapes and dtypes.
    """
    try:
        return call_model(model, batch)
    except Exception as error:  # the user's model may raise anything
        raise ValueError(
            "`data` must yield the inputs of the model and nothing else (no labels). "
            f"The model failed on a batch of {described(batch)}: {first_line(error)}"
        ) from error


def _name_nodes(model: fx.GraphModule) -> dict[str, str]:
    """A module's first call is named by its path, a further one path:2, path:3, …; other operations by their node.

    Modules come first: an operation whose node is named like a module gets a number too.
    """
    names: dict[str, str] = {}
    for node in sorted(model.graph.nodes, key=lambda node: node.op != "call_module"):
        base = str(node.target) if node.op == "call_module" else node.name
        name, count = base, 1
        while name in names:
            count += 1
            name = f"{base}:{count}"
        names[name] = node.name
    return names

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Traces a PyTorch model to a graph, and tells what the graph would lose."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from model_compression_toolkit.core.pytorch.data import first_line
from model_compression_toolkit.core.pytorch.graph_arguments import ArgumentPlaceholders
from model_compression_toolkit.core.pytorch.hooks import has_hooks
from model_compression_toolkit.core.pytorch.known_layers import LayerTracer
from model_compression_toolkit.core.pytorch.model_state import KeptState, scratch_copy
from model_compression_toolkit.core.pytorch.positional_calls import pass_by_position
from model_compression_toolkit.core.pytorch.training_flag import align_modes

_NO_GRAD = "torch.no_grad(), or in a torch.autograd.Function"
_GRADIENT_MODES = frozenset({_NO_GRAD, "torch.inference_mode()"})
_SHOWN = 3


class CapturedGraph(fx.GraphModule):
    """A graph, which says of what is asked for in vain that the class of the model had it."""

    def __getattr__(self, name: str) -> Any:
        """An attribute of the graph.

        Raises:
            AttributeError: the graph has no such attribute.
        """
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise AttributeError(
                f"{error}. Its layers are those of the model, captured as a graph; other attributes and methods of its "
                "class are kept with QuantizationConfig(capture='modules')."
            ) from error


@dataclass
class Traced:
    """A traced model.

    Attributes:
        model: the graph.
        given: the arguments that have placeholders.
        losses: what the graph loses of the model, in any mode.
        training_losses: what it loses in training only.
        notes: what else depends on the training flag and is fixed as in evaluation.
        changed: attributes and buffers that the code of the model changes.
        changed_in_training: those that it changes in training.
        other_in_training: paths of modules without parameters that do other things in training.
        identities: paths of the modules of the user's that the graph calls and that do nothing in evaluation.
    """

    model: fx.GraphModule
    given: Mapping[str, Any]
    losses: list[str] = field(default_factory=list)
    training_losses: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    changed_in_training: list[str] = field(default_factory=list)
    other_in_training: set[str] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)


class _Tracer(LayerTracer):
    """Traces with placeholders for the given arguments only, and watches the modes of autograd."""

    def __init__(self, given: Mapping[str, Any], leaves: Collection[str] = ()) -> None:
        super().__init__()
        self._given, self._leaves = given, leaves
        self._start = _ambient()
        self._path: list[str] = []
        self.modes: set[str] = set()
        self.calls: dict[str, list[Any]] = {}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The function to trace and its arguments; see `fx.Tracer`."""
        root: Any = self.root
        bound = ArgumentPlaceholders(self, root, self._given).make()
        return (lambda: root.forward(*bound.args, **bound.kwargs)), []

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """A node; one that is made in another mode of autograd is remembered."""
        if kind.startswith("call"):
            now = _ambient()
            self.modes |= {name for name, value in now.items() if value != self._start[name]}
            for path in self._path:
                self.calls[path].append((kind, args[0]))
        return super().create_node(kind, *args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called as it is, instead of what it does."""
        return module_qualified_name in self._leaves or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """A call of a module, whose operations are remembered."""
        path = self.path_of_module(m)
        self.calls.setdefault(path, [])
        self._path.append(path)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._path.pop()


def lost_before_tracing(model: nn.Module) -> str:
    """What a graph cannot hold of a model, seen without tracing it; empty when there is nothing."""
    tracer = LayerTracer()
    for path, module in model.named_modules():
        if path and tracer.is_leaf_module(module, path):
            continue
        name = repr(path) if path else "the model"
        if has_hooks(module):
            return f"{name} has hooks, which a graph does not call"
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            return f"{name} has extra state (get_extra_state), which a graph does not hold"
    return ""


def trace(model: nn.Module, given: Mapping[str, Any], leaves: Collection[str] = ()) -> Traced:
    """The graph of a model in evaluation mode; numbers that depend on the training flag follow it.

    Args:
        model: the model, whose layers and parameters the graph takes; what its code changes on it is changed.
        given: the arguments that have placeholders; see `ArgumentPlaceholders`.
        leaves: paths of modules of the user's that are called as they are.
    """
    twin = scratch_copy(model)
    model.eval()
    seen = _Watched(model, given, leaves)
    traced = Traced(CapturedGraph(model, seen.graph, type(model).__name__), given, seen.losses, seen.gradient_losses)
    traced.changed = seen.changed
    # A module's own `train` may return nothing.
    twin.train()
    _compare_flags(traced, twin)
    _follow_training_flag(traced, twin, seen, leaves)
    pass_by_position(traced.model)
    traced.model.eval()
    traced.model.recompile()
    return traced


class _Watched:
    """A trace of a model in its present mode.

    Args:
        model: the model.
        given: the arguments that have placeholders.
        leaves: paths of modules of the user's that are called as they are.

    Attributes:
        graph: the graph.
        losses: what it loses.
        gradient_losses: what it loses of gradients.
        calls: the operations of each module that was called, by its path.
        changed: attributes and buffers that the code of the model has changed.
    """

    def __init__(self, model: nn.Module, given: Mapping[str, Any], leaves: Collection[str]) -> None:
        before, numbers = KeptState(model), _random_states()
        with torch.enable_grad():
            tracer = _Tracer(given, leaves)
            traced = tracer.trace(model)
        # Without the tracer, which files of pickled models would name.
        self.graph = fx.Graph()
        self.graph.output(self.graph.graph_copy(traced, {}))
        self.given, self.calls = given, tracer.calls
        self.losses = []
        self.changed = before.changed(model)
        if _random_states() != numbers:
            self.losses.append("the model draws random numbers that a graph would fix")
        modes, text = tracer.modes, "the model runs a part of itself under {}"
        self.losses += [text.format(mode) for mode in sorted(modes - _GRADIENT_MODES)]
        self.gradient_losses = [text.format(mode) for mode in sorted(modes & _GRADIENT_MODES)]


def _compare_flags(traced: Traced, in_training: nn.Module) -> None:
    """Whether a `train` of the model's own leaves some of its modules in evaluation."""
    kept = [path or "the model" for path, module in in_training.named_modules() if not module.training]
    frozen = dict(traced.model.named_parameters())
    differing = [
        n for n, p in in_training.named_parameters() if n in frozen and p.requires_grad != frozen[n].requires_grad
    ]
    if kept or differing:
        names = ", ".join([*kept, *differing][:_SHOWN])
        traced.training_losses.append(f"a train() of the model's own treats {names} apart")


def _follow_training_flag(traced: Traced, twin_model: nn.Module, seen: _Watched, leaves: Collection[str]) -> None:
    """Let functional dropout and numbers follow the training flag, and tell what else depends on it."""
    try:
        other = _Watched(twin_model, seen.given, leaves)
    except Exception as error:  # tracing runs the user's code, which may raise anything
        traced.notes.append(f"traced in evaluation only: tracing in training fails ({first_line(error)})")
        return
    losses = other.losses + other.gradient_losses
    traced.changed_in_training = other.changed
    traced.training_losses += [text for text in losses if text not in traced.training_losses]
    if not align_modes(traced.model, other.graph):
        traced.notes.append("what depends on the training flag, dropout apart, is fixed as in evaluation")
        traced.other_in_training = {
            path
            for path, calls in seen.calls.items()
            if calls != other.calls.get(path) and not any(True for _ in twin_model.get_submodule(path).parameters())
        }
        traced.identities = {path for path in traced.other_in_training if not seen.calls[path]}


def _ambient() -> dict[str, Any]:
    """The modes that decide what an operation does beside its arguments."""
    return {
        _NO_GRAD: not torch.is_grad_enabled(),
        "torch.inference_mode()": torch.is_inference_mode_enabled(),
        "torch.autocast()": [
            (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")
        ],
    }


def _random_states() -> list[Any]:
    return [random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()]

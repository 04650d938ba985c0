# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How a PyTorch model is seen: as a graph of operations when it can be traced, else module by module."""

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.pytorch.data import Batch, clone_batch
from model_compression_toolkit.core.pytorch.known_layers import LayerTracer
from model_compression_toolkit.core.pytorch.operators import weight_axis
from model_compression_toolkit.logger import LOGGER_NAME

_LOGGER = logging.getLogger(LOGGER_NAME)

_DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
}


@dataclass
class Captured:
    """A copy of the user's model, ready to be changed.

    Attributes:
        model: the copy, in evaluation mode; an `fx.GraphModule` in graph mode.
        mode: graph or modules.
        notes: what the report should say about the capture.
        node_names: node of each layer or operation in graph mode, by the name that plans use.
        check: raises where what was assembled of the copy, its quantizers off, is not the user's model.
    """

    model: nn.Module
    mode: CaptureMode
    notes: list[str] = field(default_factory=list)
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


def capture(model: nn.Module, mode: CaptureMode = CaptureMode.AUTO, sample: Batch | None = None) -> Captured:
    """Copy a model and see it as a graph, or module by module.

    Args:
        model: the user's model; it is not changed.
        mode: how to see it.
        sample: inputs, to check that the graph computes what the model does.

    Raises:
        TypeError: `model` is no `nn.Module`.
        ValueError: `model` is quantized already; the sample does not fit the model; `mode` is `GRAPH` and the model
            cannot be traced.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module. Received: {type(model).__name__}")
    if is_quantized(model):
        raise ValueError("`model` is quantized already: it holds wrappers or holders. Give the float model.")
    copied = copy.deepcopy(model).eval()
    if weight_axis(copied) is not None:
        # A model that is one layer has no place of its own where a wrapper could stand.
        copied = nn.Sequential(OrderedDict(layer=copied))
    expected = None if sample is None else run_model(copied, sample)
    if mode is CaptureMode.MODULES:
        return Captured(copied, mode, ["captured module by module, as configured"])
    try:
        traced, notes = _trace(copied)
    except Exception as error:  # tracing runs the user's code, which may raise anything
        reason = f"the model cannot be traced ({_first_line(error)})"
    else:
        if sample is None or _same(expected, run_model(traced, sample)):
            captured = Captured(traced, CaptureMode.GRAPH, notes)
            captured.node_names = _name_nodes(traced)
            return captured
        reason = "the traced graph computes something else than the model: its control flow depends on the data"
    if mode is CaptureMode.GRAPH:
        raise ValueError(f"`capture` is 'graph', but {reason}. Use 'auto' or 'modules'.")
    note = f"captured module by module, because {reason}: functional operations stay in float and are not listed"
    _LOGGER.warning(note)
    return Captured(copied, CaptureMode.MODULES, [note])


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
        return model(*clone_batch(batch))
    except Exception as error:  # the user's model may raise anything
        shapes = [f"{tuple(item.shape)} {item.dtype}" for item in batch]
        raise ValueError(
            "`data` must yield the inputs of the model and nothing else (no labels). "
            f"The model failed on a batch of {', '.join(shapes)}: {_first_line(error)}"
        ) from error


def _trace(model: nn.Module) -> tuple[fx.GraphModule, list[str]]:
    """The graph of a model in evaluation mode, with functional dropout as modules, and notes on it."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    changed: list[str] = []
    try:
        traced = fx.GraphModule(model, LayerTracer().trace(model), type(model).__name__)
        notes = _follow_training_flag(traced, model)
    finally:
        model.eval()
        for name, buffer in model.named_buffers():
            if not _same_leaf(buffer, buffers[name]):
                # Tracing has run the change itself.
                buffer.copy_(buffers[name])
                changed.append(name)
    text = "the buffer {}, which the model changes itself, keeps its value: a graph does not see it"
    return traced, notes + [text.format(name) for name in changed]


def _follow_training_flag(traced: fx.GraphModule, model: nn.Module) -> list[str]:
    """Let functional dropout follow the training flag, and note what else depends on it."""
    try:
        in_training = list(LayerTracer().trace(model.train()).nodes)
    except Exception as error:  # tracing runs the user's code, which may raise anything
        return [f"traced in evaluation only: tracing in training fails ({_first_line(error)})"]
    twins = {node.name: node for node in in_training}
    nodes = list(traced.graph.nodes)
    same = [_signature(node) for node in nodes] == [_signature(node) for node in in_training]
    for node in nodes:
        twin = twins.get(node.name)
        if node.target in _DROPOUTS and twin is not None and twin.kwargs.get("training"):
            _dropout_to_module(traced, node)
    traced.recompile()
    return [] if same else ["what depends on the training flag, dropout apart, is fixed as in evaluation"]


def _signature(node: fx.Node) -> tuple[Any, ...]:
    """What a node does; of a dropout without its training flag, which is treated apart."""
    keywords = {key: value for key, value in node.kwargs.items() if node.target not in _DROPOUTS or key != "training"}
    return node.op, node.target, str(node.args), str(keywords)


def _dropout_to_module(model: fx.GraphModule, node: fx.Node) -> None:
    """A functional dropout is traced with the training flag of that moment; a module follows the flag."""
    name = f"{node.name}_module"
    model.add_module(name, _DROPOUTS[node.target](node.kwargs["p"]).eval())
    with model.graph.inserting_after(node):
        replacement = model.graph.call_module(name, (node.args[0],))
    node.replace_all_uses_with(replacement)
    model.graph.erase_node(node)


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


def _same(expected: Any, received: Any) -> bool:
    left, right = pytree.tree_leaves(expected), pytree.tree_leaves(received)
    return len(left) == len(right) and all(_same_leaf(a, b) for a, b in zip(left, right, strict=True))


def _same_leaf(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    return bool(a == b)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no text'}"

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the inputs, outputs and open axes of an exported file are called, and which axes are open."""

import inspect
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from model_compression_toolkit.core.pytorch.data import Batch

__all__ = ["axis_names", "input_names", "name_outputs", "open_axes", "output_names"]


def input_names(model: nn.Module, count: int) -> list[str]:
    """Names of the first `count` inputs: those of the arguments of `forward`."""
    if isinstance(model, fx.GraphModule):
        return [str(node.target) for node in model.graph.nodes if node.op == "placeholder"][:count]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in inspect.signature(model.forward).parameters.items() if p.kind in positional][:count]
    return names if len(names) == count else [f"input_{index}" for index in range(count)]


def open_axes(batches: Sequence[Batch]) -> list[set[int]]:
    """For each input the axes of any size: the first, where it counts samples, and those whose sizes differ.

    Args:
        batches: inputs of the model; the first is the example.
    """
    example = batches[0]
    size = next((item.shape[0] for item in example if item.dim()), None)
    axes = [{0} if item.dim() and item.shape[0] == size else set() for item in example]
    for batch in batches[1:]:
        for found, item, other in zip(axes, example, batch, strict=False):
            if item.dim() == other.dim():
                found.update(axis for axis in range(item.dim()) if item.shape[axis] != other.shape[axis])
    return axes


def axis_names(inputs: Sequence[ir.Value], axes: Sequence[set[int]]) -> dict[Any, str]:
    """A name for each size that torch has found to be of its own: `batch`, `keys_batch`, `words_axis_1`, …."""
    names: dict[Any, str] = {}
    for value, of_input in zip(inputs, axes, strict=True):
        for axis in sorted(of_input):
            size = value.shape[axis] if value.shape is not None else None
            if size is None or isinstance(size, int):
                continue
            first = "batch" if "batch" not in names.values() else f"{value.name}_batch"
            names.setdefault(size, f"{value.name}_axis_{axis}" if axis else first)
    return names


def output_names(outputs: Any) -> list[str] | None:
    """The keys or fields of outputs that have some; None where they are counted only.

    Args:
        outputs: what the model returns: tensors, and containers of them.
    """
    leaves = [(path, leaf) for path, leaf in pytree.tree_flatten_with_path(outputs)[0] if torch.is_tensor(leaf)]
    if not leaves or not all(path and not isinstance(path[0], pytree.SequenceKey) for path, _ in leaves):
        return None
    names = ["_".join(_word(key) for key in path) for path, _ in leaves]
    return names if len(set(names)) == len(names) else None


def name_outputs(graph: ir.Graph, names: list[str] | None) -> None:
    """`output`, or `output_0`, `output_1`, …, or the given names; an output that is an input keeps its name."""
    if names is None or len(names) != len(graph.outputs):
        count = len(graph.outputs)
        names = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    outputs = {id(value) for value in graph.outputs}
    for node in graph:
        for value in node.outputs:
            if value.name in names and id(value) not in outputs:
                # Torch has called something inside so.
                value.name = f"{value.name}/inner"
    for value, name in zip(graph.outputs, names, strict=True):
        if not value.is_graph_input() and name not in taken:
            value.name = name


def _word(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)

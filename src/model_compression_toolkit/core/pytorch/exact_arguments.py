# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which arguments of a PyTorch operation have to keep their values, and what matters of it for masks and divisors."""

from typing import Any

import torch
from torch import fx, nn

from model_compression_toolkit.core.common.argument_readings import neutral_name, readings_of, traits_of
from model_compression_toolkit.core.common.operation import Reading, Trait
from model_compression_toolkit.core.pytorch.operators import type_of_node

_CASTS = ("to", "type")


def readings_of_node(node: fx.Node, root: nn.Module) -> dict[fx.Node, Reading]:
    """How an operation of a graph reads those of its arguments that have to keep their values."""
    name = _name(node, root)
    found = readings_of(name, node.args, node.kwargs)
    if name in _CASTS and any(_is_whole(item) for item in (*node.args, *node.kwargs.values())):
        found.append((node.args[0], Reading.INTEGER))
    return {item: reading for item, reading in reversed(found) if isinstance(item, fx.Node)}


def traits_of_node(node: fx.Node, root: nn.Module) -> Trait:
    """What else matters of an operation of a graph."""
    return traits_of(_name(node, root), node.args, node.kwargs)


def _name(node: fx.Node, root: nn.Module) -> str:
    """The neutral name of an operation of torch; empty for the user's own."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        own = type(module).__module__
    elif node.op == "call_function":
        own = getattr(node.target, "__module__", None) or "torch"
    else:
        own = "torch" if node.op == "call_method" else ""
    # Functions of Python's operators stand in `_operator`.
    is_torch = own == "_operator" or own.partition(".")[0] == "torch"
    return neutral_name(type_of_node(node, root)) if is_torch else ""


def _is_whole(dtype: Any) -> bool:
    return isinstance(dtype, torch.dtype) and not dtype.is_floating_point and not dtype.is_complex

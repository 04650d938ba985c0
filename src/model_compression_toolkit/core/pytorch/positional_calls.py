# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that are called by keyword, as in `layer(input=x)`."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import fx, nn


def first_argument(layer: nn.Module) -> str:
    """Name of the first argument of a layer; empty where it has none or it cannot be told."""
    try:
        return next(iter(inspect.signature(layer.forward).parameters), "")
    except ValueError:  # a forward without a signature
        return ""


def first_value(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The first argument of a call of a layer, however it is passed; None where there is none."""
    return args[0] if args else kwargs.get(first_argument(layer))


def pass_by_position(model: fx.GraphModule) -> None:
    """Let the calls of layers in a graph pass their first argument by position."""
    for node in model.graph.find_nodes(op="call_module"):
        name = first_argument(model.get_submodule(str(node.target)))
        if not node.args and name in node.kwargs:
            keywords = dict(node.kwargs)
            node.args = (keywords.pop(name),)
            node.kwargs = keywords

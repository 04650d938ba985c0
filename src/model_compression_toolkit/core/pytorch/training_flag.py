# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What of a graph depends on the training flag, and how the graph follows it."""

from typing import Any

from torch import fx, nn
from torch.nn import functional

from model_compression_toolkit.core.pytorch.argument_forms import SIMPLE
from model_compression_toolkit.core.pytorch.data import map_nested
from model_compression_toolkit.core.pytorch.graph_arguments import free_name

_DROPOUTS: dict[Any, type[nn.Module]] = {
    functional.dropout: nn.Dropout,
    functional.dropout1d: nn.Dropout1d,
    functional.dropout2d: nn.Dropout2d,
    functional.dropout3d: nn.Dropout3d,
    functional.alpha_dropout: nn.AlphaDropout,
}


class FollowsTraining(nn.Module):
    """A number that depends on the training flag.

    Args:
        in_training: its value in training.
        in_evaluation: its value in evaluation.
    """

    def __init__(self, in_training: Any, in_evaluation: Any) -> None:
        super().__init__()
        self.in_training, self.in_evaluation = in_training, in_evaluation

    def forward(self) -> Any:
        """The value of the present mode."""
        return self.in_training if self.training else self.in_evaluation


def align_modes(model: fx.GraphModule, in_training: fx.Graph) -> bool:
    """Let functional dropout and numbers in a graph of evaluation follow the training flag.

    Args:
        model: the graph in evaluation; it is changed.
        in_training: the graph of the same model in training.

    Returns:
        Whether the two do the same apart from that.
    """
    nodes, twins = list(model.graph.nodes), list(in_training.nodes)
    same = len(nodes) == len(twins) and all(_is_alike(a, b) for a, b in zip(nodes, twins, strict=True))
    by_name = {node.name: node for node in twins}
    for node in nodes:
        twin = by_name.get(node.name)
        if node.target in _DROPOUTS and twin is not None and twin.kwargs["training"] and not node.kwargs["training"]:
            _dropout_to_module(model, node)
        elif same and twin is not None:
            _numbers_to_modules(model, node, twin)
    return same


def _is_alike(node: fx.Node, twin: fx.Node) -> bool:
    """Whether two nodes do the same, numbers apart."""
    if (node.op, node.name, node.target) != (twin.op, twin.name, twin.target):
        return False
    leaves, twins = _leaves(node), _leaves(twin)
    return len(leaves) == len(twins) and all(
        str(a) == str(b) or (isinstance(a, SIMPLE) and isinstance(b, SIMPLE))
        for a, b in zip(leaves, twins, strict=True)
    )


def _leaves(node: fx.Node) -> list[Any]:
    """The arguments of a node, and the nodes, numbers and the like inside them."""
    found: list[Any] = []

    def keep(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    map_nested(keep, (node.args, dict(node.kwargs)))
    return found


def _numbers_to_modules(model: fx.GraphModule, node: fx.Node, twin: fx.Node) -> None:
    """Numbers among the arguments of a node that differ in training become modules that follow the flag."""
    in_training = iter(_leaves(twin))

    def follow(leaf: Any) -> Any:
        other = next(in_training)
        if not isinstance(leaf, SIMPLE) or (type(leaf) is type(other) and leaf == other):
            return leaf
        name = free_name(model, f"{node.name}_training")
        model.add_module(name, FollowsTraining(other, leaf))
        with model.graph.inserting_before(node):
            return model.graph.call_module(name)

    node.args, node.kwargs = map_nested(follow, (node.args, dict(node.kwargs)))


def _dropout_to_module(model: fx.GraphModule, node: fx.Node) -> None:
    """A functional dropout is traced with the training flag of that moment; a module follows the flag."""
    name = free_name(model, f"{node.name}_module")
    layer = _DROPOUTS[node.target](node.kwargs["p"], inplace=node.kwargs.get("inplace", False))
    model.add_module(name, layer)
    with model.graph.inserting_after(node):
        replacement = model.graph.call_module(name, (node.args[0],))
    node.replace_all_uses_with(replacement)
    model.graph.erase_node(node)

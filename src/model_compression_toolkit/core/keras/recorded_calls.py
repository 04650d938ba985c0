# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Other layers in the calls that Keras recorded for a model of the user's own class."""

from collections.abc import Mapping
from typing import Any

import keras

_NODES, _KEYS, _OPERATIONS, _BY_DEPTH = "_nodes_by_depth", "_nodes", "_operations", "_operations_by_depth"


def replace_operations(function: Any, instead: Mapping[int, Any]) -> None:
    """Let the recorded calls of a functional model run other layers. The model is changed.

    A model of the user's class has attributes and code that a clone of its graph would lose, so that its own calls are
    changed.

    Args:
        function: a functional model.
        instead: a layer, not called yet, by the identity of the layer for which it stands.

    Raises:
        NotImplementedError: this version of Keras keeps recorded calls in another way.
    """
    fields = vars(function)
    if missing := [name for name in (_NODES, _KEYS, _OPERATIONS, _BY_DEPTH) if name not in fields]:
        raise NotImplementedError(
            f"The layers of {type(function).__name__}, a functional model of a class of its own, cannot be replaced: "
            f"Keras {keras.__version__} has no {missing}. Give the model as a plain functional one: "
            "`keras.Model(model.inputs, model.outputs)`."
        )

    def other(operation: Any) -> Any:
        return instead.get(id(operation), operation)

    for nodes in fields[_NODES].values():
        for node in nodes:
            former, node.operation = node.operation, other(node.operation)
            if former is node.operation:
                continue
            node.operation._inbound_nodes.append(node)
            for index, tensor in enumerate(node.outputs):
                history = tensor._keras_history
                tensor._keras_history = type(history)(node.operation, len(node.operation._inbound_nodes) - 1, index)
    operations = [other(operation) for operation in fields[_OPERATIONS]]
    by_depth = {depth: [other(operation) for operation in listed] for depth, listed in fields[_BY_DEPTH].items()}
    for name, value in ((_OPERATIONS, operations), (_BY_DEPTH, by_depth)):
        # Not changed in place: TensorFlow does not save lists in which something was replaced.
        delattr(function, name)
        setattr(function, name, value)
    # By these Keras knows which calls of a layer are the model's.
    fields[_KEYS].clear()
    fields[_KEYS].update(
        f"{id(node.operation)}_ib-{node.operation._inbound_nodes.index(node)}"
        for nodes in fields[_NODES].values()
        for node in nodes
    )
    for operation in operations:
        if isinstance(operation, keras.layers.Layer) and operation not in function._layers:
            function._layers.append(operation)

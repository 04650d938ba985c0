# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Copies of models, also of those that keep results of a forward pass on themselves."""

import copy
import types
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["copy_of"]

Module = TypeVar("Module", bound=nn.Module)

_NO_CONTENT = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, str, bytes, nn.Module)


def copy_of(model: Module, memo: dict[int, Any] | None = None) -> Module:
    """A deep copy. Results of a forward pass in training that a module keeps are copied without their history.

    `copy.deepcopy` refuses such tensors: an attention map or an auxiliary loss on `self`, the weight that
    `torch.nn.utils.weight_norm` computes.

    Args:
        model: any module; it is not changed.
        memo: what to take instead of a copy, by the `id` of the original; see `copy.deepcopy`.
    """
    results = {id(tensor): tensor.detach().clone() for tensor in _results(model)}
    return copy.deepcopy(model, {**results, **(memo or {})})


def _results(model: nn.Module) -> Iterator[Tensor]:
    """The tensors with a history that stand on modules, also inside of containers and plain objects."""
    seen: set[int] = set()
    # A stack, because what is nested may be deeper than Python calls go.
    stack: list[Any] = [value for module in model.modules() for value in vars(module).values()]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if not value.is_leaf:
                yield value
        elif not isinstance(value, _NO_CONTENT):
            stack.extend(_content(value))


def _content(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [*value]
    attributes = getattr(value, "__dict__", None)
    return [*attributes.values()] if isinstance(attributes, dict) else ()

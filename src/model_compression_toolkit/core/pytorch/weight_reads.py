# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Who reads the weight of a layer without calling it: what is computed with that weight is not the layer's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

__all__ = ["direct_reads"]

_ATTRIBUTES = frozenset(
    {"shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_leaf", "requires_grad", "grad_fn"}
)
"""Attributes of a tensor that tell nothing of its values; models ask for the dtype of a weight."""
_CALLS = frozenset({"size", "dim", "numel", "stride", "is_floating_point", "is_complex", "data_ptr"})
"""Methods of a tensor, likewise."""


@contextmanager
def direct_reads(layers: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """While it is entered, the names of the layers whose weight other operations read are collected.

    A weight that several layers share is read where something else than these layers computes with it; then all of them
    are named. Torch's fused transformer layers call the layers inside them meanwhile.

    Args:
        layers: the layers by their names.
    """
    owners: dict[int, dict[nn.Module, str]] = {}
    for name, layer in layers.items():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor):
            owners.setdefault(id(weight), {})[layer] = name
    running: list[nn.Module] = []
    handles = []

    def end(layer: nn.Module, *_: Any) -> None:
        if layer in running:
            running.remove(layer)

    try:
        for layer in layers.values():
            handles.append(layer.register_forward_pre_hook(lambda module, _: running.append(module)))
            handles.append(layer.register_forward_hook(end, always_call=True))
        with _Watch(owners, running) as watch:
            yield watch.read
    finally:
        for handle in handles:
            handle.remove()


class _Watch(TorchFunctionMode):
    """Looks at the arguments of every operation."""

    def __init__(self, owners: Mapping[int, Mapping[nn.Module, str]], running: Sequence[nn.Module]) -> None:
        super().__init__()
        self.read: set[str] = set()
        self._owners, self._running = owners, running

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`, and note whose weights it reads."""
        del types
        kwargs = kwargs or {}
        if not _tells_no_values(func):
            for leaf in pytree.tree_leaves((args, kwargs)):
                layers = self._owners.get(id(leaf), {})
                if layers and not any(layer in layers for layer in self._running):
                    self.read.update(layers.values())
        return func(*args, **kwargs)


def _tells_no_values(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _ATTRIBUTES
    return name in _CALLS

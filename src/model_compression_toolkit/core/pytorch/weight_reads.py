# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Who reads the weight of a layer without calling it: what is computed with that weight is not the layer's."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

# They read weights to choose a kernel; where something is quantized, they call their layers after all.
_CHOOSES_KERNELS = nn.TransformerEncoderLayer.__module__


@contextmanager
def direct_reads(layers: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """While it is entered, the names of the layers whose weight others read are collected.

    Args:
        layers: the layers by their names.
    """
    read: set[str] = set()
    classes = {name: type(layer) for name, layer in layers.items()}
    handles = []
    try:
        for name, layer in layers.items():
            running: list[bool] = []
            handles.append(layer.register_forward_pre_hook(lambda *_, running=running: running.append(True)))
            handles.append(layer.register_forward_hook(lambda *_, running=running: running.clear(), always_call=True))
            layer.__class__ = _watched(classes[name], name, read, running)
        yield read
    finally:
        for name, layer in layers.items():
            layer.__class__ = classes[name]
        for handle in handles:
            handle.remove()


def _watched(cls: type[Any], name: str, read: set[str], running: list[bool]) -> type[Any]:
    """A class that notes who reads its weight while it does not run."""

    def get(self: nn.Module, attribute: str) -> Any:
        if attribute == "weight" and not running:
            caller = sys._getframe(1).f_globals.get("__name__")
            if caller != _CHOOSES_KERNELS:
                read.add(name)
        return cls.__getattr__(self, attribute)

    return type(cls.__name__, (cls,), {"__getattr__": get, "__module__": cls.__module__})

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a model keeps on itself from one call to the next, apart from its parameters."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mct_quantizers.pytorch.copying import copy_of
from model_compression_toolkit.core.pytorch.data import Batch, call_model

Model = TypeVar("Model", bound=nn.Module)

_INTERNAL = frozenset(vars(nn.Module()))
_SHOWN = 3
_TRACER_CONSTANT = "_tensor_constant"


def scratch_copy(model: Model) -> Model:
    """A copy on which to try things: it shares the parameters, and what its forward keeps on it is its own."""
    return copy_of(model, {id(parameter): parameter for parameter in model.parameters()})


class KeptState:
    """The attributes and buffers of a model at one moment, to see whether its code changes them.

    Args:
        model: the model, of which nothing is changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = {
            path: {name: _frozen(value) for name, value in _kept(module).items()}
            for path, module in model.named_modules()
        }

    def changed(self, model: nn.Module) -> list[str]:
        """Names of the attributes and buffers that differ now, with their module's path."""
        found = []
        for path, before in self._before.items():
            now = _kept(model.get_submodule(path))
            names = before.keys() | now.keys()
            differing = (n for n in names if n not in now or n not in before or not _is(before[n], now[n]))
            found += [f"{path}.{name}".lstrip(".") for name in differing]
        return sorted(found)


def kept_on_itself(model: nn.Module, batch: Batch, names: Collection[str], training: bool = False) -> str:
    """Which of some attributes and buffers a model changes at each call, for a text; empty when it changes none.

    What only the first call sets, such as a cache, is the same for all later ones.

    Args:
        model: the model; it is not changed.
        batch: one batch.
        names: attributes and buffers, with their module's path.
        training: the mode in which the model runs.
    """
    if not names:
        return ""
    copied = scratch_copy(model)
    copied.train(training)
    try:
        with torch.no_grad():
            call_model(copied, batch)
            before = KeptState(copied)
            call_model(copied, batch)
        changed = [name for name in before.changed(copied) if name in names]
    except Exception:  # the user's model may raise anything; it may run on other batches
        changed = list(names)
    changed = [name for name in changed if not _is_count(copied, name)]
    shown = ", ".join(changed[:_SHOWN])
    return f"the model keeps state on itself ({shown})" if changed else ""


def restore_buffers(model: nn.Module, original: nn.Module) -> None:
    """Give a model the values of the buffers of the model that it was copied from."""
    values = dict(original.named_buffers())
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in values and isinstance(buffer, Tensor):
                buffer.copy_(values[name])


def _is_count(model: nn.Module, name: str) -> bool:
    """Whether something is the count of batches of a batch norm that does not use it."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    is_norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
    return is_norm and attribute == "num_batches_tracked" and module.momentum is not None


def _kept(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, torch.jit.ScriptModule):
        return {}
    # Buffers by their own dictionary: code can bind a buffer to something that is no tensor.
    values = vars(module) | vars(module)["_buffers"]
    return {n: v for n, v in values.items() if n not in _INTERNAL and not n.startswith(_TRACER_CONSTANT)}


class _Frozen(tuple[Any, Any]):
    """A tensor and a copy of its values."""

    __slots__ = ()


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Frozen((value, value.detach().clone()))
    if type(value) in (list, tuple, set):
        return type(value)(value) if type(value) is set else type(value)(_frozen(item) for item in value)
    return {key: _frozen(item) for key, item in value.items()} if isinstance(value, dict) else value


def _is(before: Any, now: Any) -> bool:
    if isinstance(before, _Frozen):
        if not isinstance(now, Tensor) or now.shape != before[1].shape or now.dtype != before[1].dtype:
            return False
        return now.is_meta or torch.equal(torch.nan_to_num(now), torch.nan_to_num(before[1]))
    if isinstance(before, dict):
        return (
            isinstance(now, Mapping)
            and before.keys() == now.keys()
            and all(_is(item, now[key]) for key, item in before.items())
        )
    if type(before) in (list, tuple):
        return (
            type(now) is type(before)
            and len(now) == len(before)
            and all(_is(a, b) for a, b in zip(before, now, strict=True))
        )
    if before is now:
        return True
    return isinstance(before, (int, float, str, set)) and type(before) is type(now) and before == now

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Models that are no plain PyTorch modules: compiled, scripted, spread over devices, or without values."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import nn

from mct_quantizers.pytorch.copying import copy_of

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "_orig_mod"
"""Where `torch.compile` keeps the module; a part of the names in its `state_dict`."""


def check_kind(model: nn.Module) -> None:
    """Refuse a model whose layers cannot be seen or replaced.

    Raises:
        TypeError: it is scripted, or spread over devices; the text says what to give.
        ValueError: a parameter or buffer has no values.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "`model` must be a torch.nn.Module whose layers can be replaced. Received: one of torch.jit "
            f"({type(model).__name__}). Give the module that was scripted or traced."
        )
    if isinstance(model, _PARALLEL):
        raise TypeError(f"`model` must be the module inside. Received: {type(model).__name__}. Give `model.module`.")
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"`model` must have values. Received: {name} on the meta device. Load its weights first, as with "
                "`model.to_empty(device='cpu')` and `load_state_dict`."
            )


def uncompiled(model: nn.Module, copied_by: Callable[[nn.Module], nn.Module] = copy_of) -> nn.Module:
    """A copy of a model with the modules themselves in place of what `torch.compile` made of them.

    Args:
        model: the model; it is not changed.
        copied_by: makes the copy.
    """
    copied = copied_by(model)
    compiled = [path for path, module in copied.named_modules(remove_duplicate=False) if _inside(module) is not module]
    # The innermost first: paths of the others stay valid.
    for path in sorted(compiled, key=len, reverse=True):
        if path:
            copied.set_submodule(path, _inside(copied.get_submodule(path)))
    return _inside(copied)


def _inside(module: nn.Module) -> nn.Module:
    inside = module._modules.get(_COMPILED) if type(module).__name__ == "OptimizedModule" else None
    return module if inside is None else inside

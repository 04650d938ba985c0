# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The private parts of torch that this wing asks, each behind a check that it is there.

Without one, what it would tell counts as the case that needs more care: operators of torch in the place of native code,
stored tensors in the place of recomputed ones. A release of torch that drops one makes this wing slower, never wrong.
"""

from typing import Any

import torch
from torch import nn

__all__ = ["has_global_backward_hooks", "may_hook_saved_tensors", "transforms_are_active"]


def transforms_are_active() -> bool:
    """Whether a transformation of `torch.func` is running; True where torch does not tell."""
    ask = getattr(torch._C, "_are_functorch_transforms_active", None)
    return True if ask is None else bool(ask())


def may_hook_saved_tensors() -> bool:
    """Whether nobody else decides what autograd stores: no hooks of the user, no checkpointing, no transformation.

    False where torch does not tell.
    """
    autograd: Any = getattr(torch._C, "_autograd", None)
    top = getattr(autograd, "_top_saved_tensors_default_hooks", None)
    disabled = getattr(autograd, "_saved_tensors_hooks_get_disabled_error_message", None)
    return top is not None and disabled is not None and disabled() is None and top(True) is None


def has_global_backward_hooks() -> bool:
    """Whether hooks for the backward pass of all modules are registered; True where torch does not tell."""
    names = ("_global_backward_hooks", "_global_backward_pre_hooks")
    hooks = [getattr(nn.modules.module, name, None) for name in names]
    return any(hook is None or len(hook) > 0 for hook in hooks)

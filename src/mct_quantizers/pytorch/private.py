# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The private parts of torch that this wing asks, each behind a check that it is there.

Without one, what it would tell counts as the case that needs more care: operators of torch in the place of native code,
stored tensors in the place of recomputed ones. A release of torch that drops one makes this wing slower, never wrong.
"""

from typing import Any

import torch

__all__ = ["has_global_backward_hooks", "is_in_backward", "may_hook_saved_tensors", "part", "transforms_are_active"]


def part(path: str) -> Any:
    """What stands at a path in torch; None where nothing does."""
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


# Found once: these are asked at every call of a quantizer.
_transforms_are_active = part("_C._are_functorch_transforms_active")
_top_hooks = part("_C._autograd._top_saved_tensors_default_hooks")
_why_hooks_are_disabled = part("_C._autograd._saved_tensors_hooks_get_disabled_error_message")
_backward_pass = part("_C._current_graph_task_id")
_backward_hooks = part("nn.modules.module._global_backward_hooks")
_backward_pre_hooks = part("nn.modules.module._global_backward_pre_hooks")


def transforms_are_active() -> bool:
    """Whether a transformation of `torch.func` is running; True where torch does not tell."""
    return _transforms_are_active is None or bool(_transforms_are_active())


def may_hook_saved_tensors() -> bool:
    """Whether nobody else decides what autograd stores: no hooks of the user, no checkpointing, no transformation.

    False where torch does not tell.
    """
    if _top_hooks is None or _why_hooks_are_disabled is None:
        return False
    return _why_hooks_are_disabled() is None and _top_hooks(True) is None


def is_in_backward() -> bool:
    """Whether autograd's backward pass is running, as when checkpointing computes a layer anew.

    False where torch does not tell: then a layer that a step uses several times, each of them checkpointed, may see a
    schedule move before its last recomputation.
    """
    return _backward_pass is not None and _backward_pass() != -1


def has_global_backward_hooks() -> bool:
    """Whether hooks for the backward pass of all modules are registered; True where torch does not tell."""
    if _backward_hooks is None or _backward_pre_hooks is None:
        return True
    return bool(_backward_hooks or _backward_pre_hooks)

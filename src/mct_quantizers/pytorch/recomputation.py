# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a layer keeps of its quantized inputs for the backward pass is computed anew there, not stored.

The float tensor is kept anyway, for the gradient of the scale; the quantized one costs one fast pass over it. On the
CPU in eager mode; a compiler decides for itself what it stores.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mct_quantizers.pytorch.native.memory import is_in_jit_trace, version_of
from mct_quantizers.pytorch.private import may_hook_saved_tensors


class _Recipe(NamedTuple):
    """How a tensor was computed: by a function of tensors that still hold the same values."""

    compute: Callable[..., Tensor]
    tensors: tuple[Tensor | None, ...]
    versions: tuple[int, ...]

    def run(self) -> Tensor:
        if _versions(self.tensors) != self.versions:
            raise RuntimeError(
                "A tensor or scale that a gradient needs was changed in place after it was quantized. Change it after "
                "`backward()`, or work on a copy."
            )
        with torch.no_grad():
            return self.compute(*self.tensors)


class _View(NamedTuple):
    """A tensor to be computed anew, seen with other sizes."""

    recipe: _Recipe
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def recomputing() -> contextlib.AbstractContextManager[Any]:
    """While it is entered, operators keep how quantized tensors were computed in the place of the tensors."""
    if not _is_usable():
        # The user's own hooks, or checkpointing, decide what is stored; transformations of functions have no hooks.
        return contextlib.nullcontext()
    return saved_tensors_hooks(_pack, _unpack)


def _is_usable() -> bool:
    return (
        not torch.compiler.is_compiling()
        # A trace names values by the variables that hold them, and hooks have others: its check, without gradients,
        # would find another graph.
        and not is_in_jit_trace()
        and torch.is_grad_enabled()
        and may_hook_saved_tensors()
    )


def _pack(tensor: Tensor) -> Any:
    recipe = _recipe_of(tensor if tensor._base is None else tensor._base)
    if recipe is None:
        # Detached: an output that is kept would keep its own graph.
        return tensor.detach(), version_of(tensor)
    return _View(recipe, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))


def _recipe_of(result: Tensor) -> _Recipe | None:
    """How `result` was computed, where the autograd.Function that returned it tells, in `recipe` and `version`."""
    node: Any = result.grad_fn
    recipe = getattr(getattr(node, "_forward_cls", None), "recipe", None)
    # What was changed since is another tensor.
    if recipe is None or not result.is_cpu or node.version != version_of(result):
        return None
    try:
        compute, tensors = recipe(node)
    except RuntimeError:
        # An input was changed since. What gradient this leaves, the function itself will say.
        return None
    # Detached: a recipe must not keep a graph.
    inputs = tuple(None if tensor is None else tensor.detach() for tensor in tensors)
    return _Recipe(compute, inputs, _versions(inputs))


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, _View):
        return kept.recipe.run().as_strided(kept.size, kept.stride, kept.offset)
    tensor, version = kept
    if version_of(tensor) != version:
        raise RuntimeError(
            "A tensor that a gradient needs was changed in place. Change it after `backward()`, or work on a copy. "
            f"Received: a tensor of shape {tuple(tensor.shape)}"
        )
    result: Tensor = tensor
    return result


def _versions(tensors: tuple[Tensor | None, ...]) -> tuple[int, ...]:
    return tuple(-1 if tensor is None else version_of(tensor) for tensor in tensors)

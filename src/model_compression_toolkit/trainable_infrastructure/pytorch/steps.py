# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""When a step of training is over: a gradient has come back to a quantizer, and it is called outside the backward pass.

A schedule that counted calls would run ahead where a layer is used several times in a step, or computed anew by
checkpointing; and a layer computed anew must see what it saw before, or its gradients are those of another function.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mct_quantizers.pytorch import private


class _Telling(Function):
    """The tensor; once a gradient comes back, `flag` is 1."""

    @staticmethod
    def forward(x: Tensor, flag: Tensor) -> Tensor:
        del flag
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        del output
        ctx.flag = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        with torch.no_grad():
            ctx.flag.fill_(1.0)
        return gradients[0], None


# In a compiled program as operators whose inside a compiler does not see: they ask when they run, not when traced.


@torch.library.custom_op("model_compression_toolkit::step_begins", mutates_args=())
def _step_begins(flag: Tensor) -> Tensor:
    """Whether `flag` is set, outside of a backward pass: bool."""
    return torch.zeros_like(flag, dtype=torch.bool) if private.is_in_backward() else flag > 0


@_step_begins.register_fake
def _(flag: Tensor) -> Tensor:
    return torch.empty_like(flag, dtype=torch.bool)


@torch.library.custom_op("model_compression_toolkit::set_flag", mutates_args=("flag",))
def _set_flag(flag: Tensor) -> None:
    flag.fill_(1.0)


@torch.library.custom_op("model_compression_toolkit::telling", mutates_args=())
def _telling(x: Tensor, flag: Tensor) -> Tensor:
    return x.clone()


@_telling.register_fake
def _(x: Tensor, flag: Tensor) -> Tensor:
    return torch.empty_like(x)


def _telling_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    _set_flag(ctx.flag)
    return gradient, None


def _telling_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    del output
    ctx.flag = inputs[1]


_telling.register_autograd(_telling_backward, setup_context=_telling_context)


def begins(flag: Tensor) -> Tensor:
    """Whether a call in training begins a step: a gradient came, and this is no recomputation. Bool, shape of `flag`.

    Args:
        flag: 1 where a gradient came since the last step began, else 0.
    """
    if torch.compiler.is_compiling():
        result: Tensor = _step_begins(flag)
        return result
    return torch.zeros_like(flag, dtype=torch.bool) if private.is_in_backward() else flag > 0


def telling(x: Tensor, flag: Tensor) -> Tensor:
    """`x`; when a gradient comes back through it, `flag` becomes 1."""
    if torch.compiler.is_compiling():
        compiled: Tensor = _telling(x, flag)
        return compiled
    apply: Any = _Telling.apply
    result: Tensor = apply(x, flag)
    return result

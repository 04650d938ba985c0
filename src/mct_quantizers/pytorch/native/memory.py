# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors native code can read, and how they lie in memory."""

import functools
import math

import torch
from torch import Tensor


def is_traced() -> bool:
    """Whether operators are recorded, by a compiler or a tracer: what is to be seen must be operators of torch."""
    # torch has no types here.
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_plain(x: Tensor) -> bool:
    """Whether memory of float32 numbers on the CPU stands behind a tensor."""
    if (
        x.dtype is not torch.float32
        or not x.is_cpu
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.layout is not torch.strided
        or x.numel() == 0
    ):
        return False
    try:
        # Inside of `torch.func.vmap` there is none.
        return x.data_ptr() != 0
    except RuntimeError:
        return False


def is_dense(x: Tensor) -> bool:
    """Whether the elements lie in memory without gaps, in any order of the axes."""
    return x.is_contiguous() or _order(x.shape, x.stride()) is not None


def sizes_around_channels(x: Tensor, scale: Tensor) -> tuple[int, int, int] | None:
    """Outer, channels, inner: how `x` lies in memory around the axis along which `scale` has several elements.

    None for a tensor with gaps, or scales over several axes.
    """
    if scale.numel() == 1:
        return (1, 1, x.numel()) if is_dense(x) else None
    return _sizes(x.shape, x.stride(), scale.shape)


# Shapes and strides come again at every step of a training.
@functools.lru_cache(maxsize=4096)
def _sizes(shape: torch.Size, strides: tuple[int, ...], scale_shape: torch.Size) -> tuple[int, int, int] | None:
    order, missing = _order(shape, strides), len(shape) - len(scale_shape)
    axes = [axis for axis in range(len(shape)) if axis >= missing and scale_shape[axis - missing] > 1]
    channels = scale_shape.numel()
    if order is None or missing < 0 or len(axes) != 1 or channels != shape[axes[0]]:
        return None
    place = order.index(axes[0])
    outer, inner = (math.prod(shape[axis] for axis in part) for part in (order[:place], order[place + 1 :]))
    return outer, channels, inner


@functools.lru_cache(maxsize=4096)
def _order(shape: torch.Size, strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes from the outermost to the innermost, but those of length 1, which lie anywhere; None with gaps."""
    order = sorted((axis for axis in range(len(shape)) if shape[axis] > 1), key=strides.__getitem__, reverse=True)
    expected = 1
    for axis in reversed(order):
        if strides[axis] != expected:
            return None
        expected *= shape[axis]
    return tuple(order)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which tensors native code can read, and how they lie in memory."""

import functools
import math

import torch
from torch import Tensor

from mct_quantizers.pytorch.private import transforms_are_active


def is_traced() -> bool:
    """Whether operators are recorded or transformed: what a compiler, tracer or `torch.func` must see is theirs."""
    return torch.compiler.is_compiling() or is_in_jit_trace() or transforms_are_active()


def is_in_jit_trace() -> bool:
    """Whether `torch.jit` records operators, as the older exporter to ONNX lets it."""
    # torch has no types here.
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def is_plain(x: Tensor) -> bool:
    """Whether memory of float32 numbers on the CPU stands behind a tensor."""
    return (
        x.dtype is torch.float32
        and x.is_cpu
        and type(x) in (Tensor, torch.nn.Parameter)
        and x.layout is torch.strided
        and x.numel() > 0
    )


def version_of(x: Tensor) -> int:
    """How often a tensor was changed in place; -1 for tensors of `torch.inference_mode`, which do not count it.

    No gradient goes through these, so that nothing of them has to be computed anew.
    """
    return -1 if x.is_inference() else x._version


def is_dense(x: Tensor) -> bool:
    """Whether the elements lie in memory without gaps, in any order of the axes."""
    return x.is_contiguous() or _order(x.shape, x.stride()) is not None


def laid_out_as(x: Tensor, other: Tensor) -> Tensor:
    """`other`, in the order of memory of `x`, which has the same shape."""
    return other if other.stride() == x.stride() else torch.empty_like(x).copy_(other)


def sizes_around_channels(x: Tensor, scale: Tensor) -> tuple[int, int, int] | None:
    """Outer, channels, inner: how `x` lies in memory around the axis along which `scale` has several elements.

    None for a tensor with gaps, or scales over several axes.
    """
    if scale.numel() == 1:
        return (1, 1, x.numel()) if is_dense(x) else None
    return _sizes(x.shape, x.stride(), scale.shape)


# Shapes and strides come again at every step of a training.
@functools.lru_cache(maxsize=4096)
def sizes_around_axis(shape: torch.Size, strides: tuple[int, ...], axis: int) -> tuple[int, int, int] | None:
    """Outer, length of the axis, inner: how a tensor lies in memory around one of its axes; None with gaps."""
    order = _order(shape, strides)
    if order is None:
        return None
    if axis not in order:
        return 1, 1, math.prod(shape)
    place = order.index(axis)
    outer, inner = (math.prod(shape[other] for other in part) for part in (order[:place], order[place + 1 :]))
    return outer, shape[axis], inner


@functools.lru_cache(maxsize=4096)
def _sizes(shape: torch.Size, strides: tuple[int, ...], scale_shape: torch.Size) -> tuple[int, int, int] | None:
    missing = len(shape) - len(scale_shape)
    axes = [axis for axis in range(len(shape)) if axis >= missing and scale_shape[axis - missing] > 1]
    if missing < 0 or len(axes) != 1 or scale_shape.numel() != shape[axes[0]]:
        return None
    return sizes_around_axis(shape, strides, axes[0])


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

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of `keras.ops` that pick, repeat and pad elements, in operators of ONNX."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from model_compression_toolkit.core.keras.graph import Value
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator, as_array

__all__ = ["SELECTIONS", "padded", "picked"]

Array = npt.NDArray[Any]

_LAST = int(np.iinfo(np.int64).max)
_PAD_MODES = ("constant", "reflect", "edge", "wrap")
Cut = tuple[int, int, int, int]
"""Axis, start, stop and step."""


def _get_item(site: Site) -> str:
    key = site.call.args[1]
    key = list(key) if isinstance(key, tuple) else [key]
    if not all(item is None or item is Ellipsis or isinstance(item, (int, slice)) for item in key):
        site.refuse(f"the index {key}", "Use integers, slices, `...` and None, or `keras.ops.take`.")
    taken = sum(item is not None and item is not Ellipsis for item in key)
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    key[at : at + 1] = [slice(None)] * (site.rank - taken)
    x, axis = site.x, 0
    removed: list[int] = []
    added: list[int] = []
    cuts: list[Cut] = []
    for item in key:
        if item is None:
            added.append(axis - len(removed) + len(added))
            continue
        if isinstance(item, int):
            cuts.append((axis, item, item + 1 if item != -1 else _LAST, 1))
            removed.append(axis)
        elif item != slice(None):
            cuts.append(_cut(site, axis, item))
        axis += 1
    if cuts:
        x = site.builder.moved(x, lambda source, axis_of: _sliced(site, source, cuts, axis_of))
    if removed:
        x = site.add("Squeeze", x, site.int_constant(removed, "removed"))
    return site.add("Unsqueeze", x, site.int_constant(added, "added")) if added else x


def _cut(site: Site, axis: int, item: slice) -> Cut:
    numbers = (item.start, item.stop, item.step)
    if not all(number is None or isinstance(number, int) for number in numbers):
        site.refuse(f"the slice {item}", "Use integers.")
    step = 1 if item.step is None else item.step
    first, last = (0, _LAST) if step > 0 else (_LAST, -_LAST)
    return axis, first if item.start is None else item.start, last if item.stop is None else item.stop, step


def _sliced(site: Site, x: str, cuts: Sequence[Cut], axis_of: Callable[[int], int]) -> str:
    axes, starts, stops, steps = zip(*cuts, strict=True)
    parts = {"starts": starts, "stops": stops, "axes": [axis_of(axis) for axis in axes], "steps": steps}
    return site.add("Slice", x, *(site.int_constant(numbers, part) for part, numbers in parts.items()))


def _slice(site: Site) -> str:
    starts, sizes = site.call.args[1], site.operation.shape
    if any(isinstance(item, Value) for item in starts) or any(not isinstance(size, int) for size in sizes):
        site.refuse("starts or sizes that are computed", "Use integers.")
    starts = [int(start) for start in as_array(starts)]
    whole = [size for size in site.first.shape]
    cuts = [
        (axis, start, _LAST if whole[axis] is None and start == 0 else start + size, 1)
        for axis, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    return site.builder.moved(site.x, lambda source, axis_of: _sliced(site, source, cuts, axis_of))


def _flip(site: Site) -> str:
    axes = range(site.rank) if site.operation.axis is None else _axes(site.operation.axis, site.rank)
    cuts = [(axis, _LAST, -_LAST, -1) for axis in axes]
    return site.builder.moved(site.x, lambda source, axis_of: _sliced(site, source, cuts, axis_of))


def _roll(site: Site) -> str:
    shift, axis = site.operation.shift, site.operation.axis
    if axis is None:
        site.refuse("axis=None", "Name the axis.")
    axes = _axes(axis, site.rank)
    shifts = [int(item) for item in np.broadcast_to(shift, len(axes))]
    x = site.x
    for along, by in zip(axes, shifts, strict=True):
        x = site.builder.moved(x, functools.partial(_rolled, site, along, by))
    return x


def _rolled(site: Site, axis: int, shift: int, x: str, axis_of: Callable[[int], int]) -> str:
    if shift == 0:
        return x
    parts = [_sliced(site, x, [cut], axis_of) for cut in ((axis, -shift, _LAST, 1), (axis, 0, -shift, 1))]
    return site.add("Concat", *parts, axis=axis_of(axis))


def picked(site: Site, x: str, axis: int, rows: Array) -> str:
    """The elements of `x` at some places along an axis."""
    places = site.int_constant(rows, "rows")
    return site.builder.moved(x, lambda source, axis_of: site.add("Gather", source, places, axis=axis_of(axis)))


def _take(site: Site) -> str:
    indices, axis, x = site.call.args[1], site.operation.axis, site.operand(site.call.args[0], site.result.dtype)
    if isinstance(indices, Value):
        name = site.operand(indices, "int32") if indices.dtype not in ("int32", "int64") else site.operand(indices)
    else:
        name = site.constant(as_array(indices).astype(np.int64), "indices")
    if axis is None:
        x, axis = site.reshape(x, [-1]), 0
    return site.add("Gather", x, name, axis=axis)


def _take_along_axis(site: Site) -> str:
    x, indices = site.call.args[:2]
    if site.operation.axis is None:
        site.refuse("axis=None", "Name the axis.")
    name = site.operand(indices, "int64")
    axis, rank = site.operation.axis % site.rank, site.rank
    shapes = [as_array(item).shape if not isinstance(item, Value) else tuple(item.shape) for item in (x, indices)]
    if any(a != b for at, (a, b) in enumerate(zip(*shapes, strict=True)) if at != axis):
        site.refuse(f"shapes {shapes[0]} and {shapes[1]}", f"Give them the same sizes, but for axis {axis} of {rank}.")
    return site.add("GatherElements", site.operand(x, site.result.dtype), name, axis=axis)


def _repeat(site: Site) -> str:
    count, axis, x = site.operation.repeats, site.operation.axis, site.x
    if np.ndim(count) and len(count) > 1:
        shape = site.first.shape
        if axis is None or shape[axis] is None:
            site.refuse(f"repeats={count}", "Name the axis, of a fixed size.")
        return picked(site, x, axis % site.rank, np.repeat(np.arange(len(count)), count))
    times = int(np.ravel(count)[0])
    if axis is None:
        x, axis, rank = site.reshape(x, [-1]), 0, 1
    else:
        axis, rank = axis % site.rank, site.rank
    # Each element beside itself, then the new axis joins the one before it.
    apart = site.add("Unsqueeze", x, site.int_constant([axis + 1], "axes"))
    tiled = site.add(
        "Tile", apart, site.int_constant([times if at == axis + 1 else 1 for at in range(rank + 1)], "repeats")
    )
    size = site.result.shape[axis]
    sizes = [0] * axis + [-1] + [(-2 if s is None else s) for s in site.result.shape[axis + 1 :]]
    if -2 in sizes:
        if size is None:
            site.refuse("several axes without a size", "Give the input a fixed size.")
        sizes = [0] * axis + [size] + [-1 if s == -2 else s for s in sizes[axis + 1 :]]
    return site.reshape(tiled, sizes)


def _tile(site: Site) -> str:
    repeats = site.operation.repeats
    repeats = [repeats] if isinstance(repeats, int) else list(repeats)
    x = site.x
    if len(repeats) > site.rank:
        x = site.add("Unsqueeze", x, site.int_constant(range(len(repeats) - site.rank), "axes"))
    return site.add("Tile", x, site.int_constant([1] * (site.rank - len(repeats)) + repeats, "repeats"))


def _pad(site: Site) -> str:
    pairs, mode = [tuple(pair) for pair in as_array(site.operation.pad_width).tolist()], site.operation.mode
    mode = "edge" if mode == "replicate" else "wrap" if mode == "circular" else mode
    value = site.call.kwargs.get("constant_values", site.call.args[1] if len(site.call.args) > 1 else None)
    if isinstance(value, Value) or np.ndim(value if value is not None else 0):
        site.refuse(f"constant_values={value}", "Use one number.")
    pairs = pairs * site.rank if len(pairs) == 1 else pairs
    if mode == "symmetric":
        return _padded_symmetrically(site, pairs)
    if mode not in _PAD_MODES:
        site.refuse(f"mode={mode!r}", f"Supported: {', '.join((*_PAD_MODES, 'symmetric'))}.")
    return padded(site, site.x, pairs, mode, None if value is None else float(value))


def padded(site: Site, x: str, pairs: Sequence[tuple[int, int]], mode: str, value: float | None = None) -> str:
    """`x` with elements added at both ends of each axis."""
    filled = [] if not value else [site.constant(np.array(value, site.result.dtype), "filling")]

    def emit(source: str, axis_of: Callable[[int], int]) -> str:
        ends = [(0, 0)] * len(pairs)
        for axis, pair in enumerate(pairs):
            ends[axis_of(axis)] = pair
        pads = [before for before, _ in ends] + [after for _, after in ends]
        return site.add("Pad", source, site.int_constant(pads, "pads"), *filled, mode=mode)

    return site.builder.moved(x, emit)


def _padded_symmetrically(site: Site, pairs: Sequence[tuple[int, int]]) -> str:
    """The mirror stands behind the edge: ONNX has it before only."""
    x = site.x
    for axis, (before, after) in enumerate(pairs):
        size = site.first.shape[axis]
        if before == after == 0:
            continue
        if size is None:
            site.refuse("mode='symmetric' over an axis without a size", "Give the input a fixed size.")
        x = picked(site, x, axis, np.pad(np.arange(size), (before, after), "symmetric"))
    return x


def _triangle(is_upper: bool) -> Translator:
    def translate(site: Site) -> str:
        diagonal = site.constant(np.int64(site.operation.k), "diagonal")
        return site.add("Trilu", site.x, diagonal, upper=int(is_upper))

    return translate


def _filled(value: float | None) -> Translator:
    """A tensor of one number in the shape of another one; None is the second argument."""

    def translate(site: Site) -> str:
        given = site.call.args[1] if value is None else value
        if isinstance(given, Value):
            number = site.operand(given, site.result.dtype)
            return site.add("Expand", number, site.add("Shape", site.x))
        filling = onnx.numpy_helper.from_array(np.array([given], site.result.dtype))
        return site.add("ConstantOfShape", site.add("Shape", site.x), value=filling)

    return translate


def _axes(axis: Any, rank: int) -> list[int]:
    return [item % rank for item in ([axis] if isinstance(axis, int) else axis)]


# By the name of their class.
SELECTIONS: dict[str, Translator] = {
    "GetItem": _get_item,
    "Slice": _slice,
    "Flip": _flip,
    "Roll": _roll,
    "Take": _take,
    "TakeAlongAxis": _take_along_axis,
    "Repeat": _repeat,
    "Tile": _tile,
    "Pad": _pad,
    "Tril": _triangle(is_upper=False),
    "Triu": _triangle(is_upper=True),
    "ZerosLike": _filled(0.0),
    "OnesLike": _filled(1.0),
    "FullLike": _filled(None),
}

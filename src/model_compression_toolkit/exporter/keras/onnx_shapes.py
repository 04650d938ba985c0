# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of `keras.ops` that give tensors another shape, join them and take them apart, in operators of ONNX."""

from typing import Any

import numpy as np

from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["SHAPES", "concatenated"]


def _broadcast_to(site: Site) -> str:
    sizes = list(site.operation.shape)
    if not all(isinstance(size, int) or size is None for size in sizes):
        site.refuse(f"the shape {sizes}", "Use integers.")
    # An axis of 1 keeps the size that is there.
    return site.add("Expand", site.x, site.int_constant([1 if size in (None, -1) else size for size in sizes], "shape"))


def _depth_to_space(is_depth: bool) -> Translator:
    def translate(site: Site) -> str:
        size, is_first = site.operation.block_size, site.operation.data_format == "channels_first"
        if is_first or None in site.first.shape[1:]:
            site.refuse(
                f"data_format={site.operation.data_format!r} and an input of shape {site.first.shape}",
                "Use channels last and a fixed size.",
            )
        _, height, width, channels = site.first.shape
        if is_depth:
            apart, perm = [0, height, width, size, size, channels // size**2], (0, 1, 3, 2, 4, 5)
        else:
            apart, perm = [0, height // size, size, width // size, size, channels], (0, 1, 3, 2, 4, 5)
        moved = site.builder.transpose(site.reshape(site.x, apart), perm, f"{site.name}/moved")
        return site.reshape(moved, [0, *(-1 if size is None else size for size in site.result.shape[1:])])

    return translate


def _reshape(site: Site) -> str:
    sizes = site.operation.newshape
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    if -1 not in sizes:
        # A batch size that is open is None here.
        sizes = [-1 if size is None else size for size in sizes]
    if not all(isinstance(size, int) for size in sizes) or sizes.count(-1) > 1:
        site.refuse(f"the new shape {site.operation.newshape}", "Use integers and -1 once.")
    return site.reshape(site.x, sizes)


def _ravel(site: Site) -> str:
    return site.reshape(site.x, [-1])


def _transpose(site: Site) -> str:
    axes = site.operation.axes
    perm = range(site.rank)[::-1] if axes is None else [axis % site.rank for axis in axes]
    return site.builder.transpose(site.x, tuple(perm), f"{site.name}/transposed")


def _swap_axes(site: Site) -> str:
    perm = list(range(site.rank))
    first, second = site.operation.axis1 % site.rank, site.operation.axis2 % site.rank
    perm[first], perm[second] = second, first
    return site.builder.transpose(site.x, perm, f"{site.name}/transposed")


def _move_axis(site: Site) -> str:
    sources, targets = (_axes(value, site.rank) for value in (site.operation.source, site.operation.destination))
    perm = [axis for axis in range(site.rank) if axis not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        perm.insert(target, source)
    return site.builder.transpose(site.x, perm, f"{site.name}/transposed")


def _split(site: Site) -> list[str]:
    axis, parts = site.operation.axis % site.rank, [value.shape for value in site.call.outputs]
    sizes = [shape[axis] for shape in parts]
    if None in sizes:
        site.refuse(f"an axis without a size, axis={axis}", "Give the input a fixed size.")
    lengths = site.int_constant([size for size in sizes if size is not None], "sizes")
    return site.builder.add_many("Split", [site.x, lengths], f"{site.name}/split", len(sizes), axis=axis)


def _glu(site: Site) -> str:
    axis = site.operation.axis % site.rank
    size = site.first.shape[axis]
    if size is None:
        site.refuse(f"an axis without a size, axis={axis}", "Give the input a fixed size.")
    lengths = site.int_constant([size // 2] * 2, "sizes")
    linear, gate = site.builder.add_many("Split", [site.x, lengths], f"{site.name}/split", 2, axis=axis)
    return site.apply("Mul", linear, site.apply("Sigmoid", gate))


def _unstack(site: Site) -> list[str]:
    axis = site.operation.axis % site.rank
    return [
        site.add("Gather", site.x, site.constant(np.int64(index), "index"), axis=axis)
        for index in range(len(site.call.outputs))
    ]


def _expand_dims(site: Site) -> str:
    return site.add("Unsqueeze", site.x, site.int_constant(_axes(site.operation.axis, len(site.result.shape)), "axes"))


def _squeeze(site: Site) -> str:
    axes = site.operation.axis
    found = [a for a, size in enumerate(site.first.shape) if size == 1] if axes is None else _axes(axes, site.rank)
    return site.add("Squeeze", site.x, site.int_constant(found, "axes"))


def _concatenate(site: Site) -> str:
    operands = [site.operand(value, site.result.dtype) for value in site.call.args[0]]
    return concatenated(site, operands, site.operation.axis % len(site.result.shape))


def concatenated(site: Site, operands: list[str], axis: int) -> str:
    """One tensor behind the other; before the transposition where all operands have the same."""
    views = [site.builder.view(x) for x in operands]
    perm = views[0][1]
    if perm is None or any(other != perm for _, other in views):
        return site.add("Concat", *operands, axis=axis)
    return site.builder.transpose(site.add("Concat", *(source for source, _ in views), axis=perm[axis]), perm)


def _stack(site: Site) -> str:
    axis = site.operation.axis % len(site.result.shape)
    axes = site.int_constant([axis], "axes")
    operands = [site.add("Unsqueeze", site.operand(value, site.result.dtype), axes) for value in site.call.args[0]]
    return site.add("Concat", *operands, axis=axis)


def _axes(axis: Any, rank: int) -> list[int]:
    return [item % rank for item in ([axis] if isinstance(axis, int) else axis)]


# By the name of their class.
SHAPES: dict[str, Translator] = {
    "BroadcastTo": _broadcast_to,
    "DepthToSpace": _depth_to_space(is_depth=True),
    "SpaceToDepth": _depth_to_space(is_depth=False),
    "Reshape": _reshape,
    "Ravel": _ravel,
    "Transpose": _transpose,
    "Swapaxes": _swap_axes,
    "Moveaxis": _move_axis,
    "Concatenate": _concatenate,
    "Stack": _stack,
    "Split": _split,
    "Glu": _glu,
    "Unstack": _unstack,
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
}

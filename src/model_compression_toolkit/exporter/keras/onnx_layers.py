# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The layers of Keras in operators of ONNX, besides convolutions and pooling."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import layers

from model_compression_toolkit.exporter.keras.onnx_activations import ACTIVATION_LAYERS, activated, axes_of
from model_compression_toolkit.exporter.keras.onnx_convolutions import CONVOLUTIONS, product
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator, as_array

__all__ = ["LAYERS", "concatenated"]


def _identity(site: Site) -> str:
    return site.x


def _dense(site: Site) -> str:
    layer = site.operation
    kernel = site.weight("kernel")
    bias = None if layer.bias is None else site.weight("bias")
    if site.rank == 2:
        y = product(site, "Gemm", [site.x, kernel], bias)
    else:
        y = site.add("MatMul", site.x, kernel)
        if bias is not None:
            y = site.add("Add", bias, y)
    return activated(site, y, site.rank)


def _einsum_dense(site: Site) -> str:
    layer, rank = site.operation, len(site.result.shape)
    left, right = layer.equation.replace(" ", "").split("->")
    terms = left.split(",")
    # A product over the last axis, which integer engines know; of Einsum they do not.
    is_matmul = len(terms[1]) == 2 and terms[0][-1] == terms[1][0] and right == terms[0][:-1] + terms[1][1] != terms[0]
    kernel = site.weight("kernel")
    y = (
        site.add("MatMul", site.x, kernel)
        if is_matmul
        else site.add("Einsum", site.x, kernel, equation=f"{left}->{right}")
    )
    if layer.bias is not None:
        y = site.add("Add", site.weight("bias"), y)
    return activated(site, y, rank)


def _embedding(site: Site) -> str:
    if site.operation.mask_zero:
        site.refuse("mask_zero=True", "Masks are not exported: make the layer with mask_zero=False.")
    indices = site.x if site.first.dtype in ("int32", "int64") else site.cast(site.x, "int32")
    return site.add("Gather", site.weight("embeddings"), indices, axis=0)


def _batch_norm(site: Site) -> str:
    layer = site.operation
    axis, mean = layer.axis % site.rank, as_array(layer.moving_mean)
    gamma = np.ones_like(mean) if layer.gamma is None else as_array(layer.gamma)
    beta = np.zeros_like(mean) if layer.beta is None else as_array(layer.beta)
    arrays = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": as_array(layer.moving_variance)}
    constants = [site.constant(array, part) for part, array in arrays.items()]
    perm = (0, axis, *(other for other in range(1, site.rank) if other != axis))
    x = site.builder.transpose(site.x, perm)
    y = site.add("BatchNormalization", x, *constants, epsilon=float(layer.epsilon))
    return site.builder.transpose(y, np.argsort(perm).tolist())


def _layer_norm(site: Site) -> str:
    layer, rank = site.operation, site.rank
    axes = sorted(axis % rank for axis in axes_of(layer.axis))
    if axes != list(range(axes[0], rank)):
        site.refuse(f"axis={layer.axis}", "Normalize over the last axes.")
    if getattr(layer, "rms_scaling", False):
        site.refuse("rms_scaling=True", "Write it with functions of `keras.ops`.")
    shape = [site.first.shape[axis] for axis in axes]
    gamma = site.constant(np.ones(shape, np.float32), "gamma") if layer.gamma is None else site.weight("gamma")
    scale = [gamma] if layer.beta is None else [gamma, site.weight("beta")]
    return site.add("LayerNormalization", site.x, *scale, axis=axes[0], epsilon=float(layer.epsilon))


def _padding(site: Site) -> str:
    ends = [(0, 0)] * site.rank
    for axis, pair in zip(_spatial_axes(site), _pairs(site.operation.padding), strict=True):
        ends[axis] = pair

    def emit(x: str, axis_of: Callable[[int], int]) -> str:
        moved = [(0, 0)] * site.rank
        for axis, pair in enumerate(ends):
            moved[axis_of(axis)] = pair
        pads = [before for before, _ in moved] + [after for _, after in moved]
        return site.add("Pad", x, site.int_constant(pads, "pads"))

    return site.builder.moved(site.x, emit)


def _cropping(site: Site) -> str:
    axes, pairs = _spatial_axes(site), _pairs(site.operation.cropping)
    starts = site.int_constant([before for before, _ in pairs], "starts")
    stops = site.int_constant([-after if after else np.iinfo(np.int64).max for _, after in pairs], "stops")

    def emit(x: str, axis_of: Callable[[int], int]) -> str:
        return site.add("Slice", x, starts, stops, site.int_constant([axis_of(axis) for axis in axes], "axes"))

    return site.builder.moved(site.x, emit)


def _reshape(site: Site) -> str:
    sizes = site.result.shape[1:]
    if sum(size is None for size in sizes) > 1:
        site.refuse(f"the result's shape {site.result.shape}", "Give the input a fixed size.")
    return site.reshape(site.x, [0, *(-1 if size is None else size for size in sizes)])


def _permute(site: Site) -> str:
    return site.builder.transpose(site.x, (0, *site.operation.dims), f"{site.name}/permuted")


def _repeat_vector(site: Site) -> str:
    count = site.int_constant([1, site.operation.n, 1], "repeats")
    return site.add("Tile", site.reshape(site.x, [0, 1, -1]), count)


def _merge(op_type: str) -> Translator:
    return lambda site: _folded(site, op_type, _operands(site))


def _folded(site: Site, op_type: str, operands: Sequence[str]) -> str:
    first, *others = operands
    for other in others:
        first = site.apply(op_type, first, other)
    return first


def _average(site: Site) -> str:
    operands = _operands(site)
    return site.apply("Div", _folded(site, "Add", operands), site.constant(np.float32(len(operands)), "count"))


def _concatenate(site: Site) -> str:
    operands = _operands(site)
    return concatenated(site, operands, site.operation.axis % site.rank)


def concatenated(site: Site, operands: Sequence[str], axis: int) -> str:
    """One tensor behind the other; before the transposition where all operands have the same."""
    views = [site.builder.view(x) for x in operands]
    perm = views[0][1]
    if perm is None or any(other != perm for _, other in views):
        return site.add("Concat", *operands, axis=axis)
    return site.builder.transpose(site.add("Concat", *(source for source, _ in views), axis=perm[axis]), perm)


def _operands(site: Site) -> list[str]:
    values = site.call.args[0]
    if len({len(value.shape) for value in values}) > 1:
        shapes = [value.shape for value in values]
        site.refuse(f"inputs of shapes {shapes}", "Reshape them, so that all have the same number of axes.")
    return [site.operand(value, site.result.dtype) for value in values]


def _rescaling(site: Site) -> str:
    layer = site.operation
    scale, offset = (np.asarray(as_array(value), np.float32) for value in (layer.scale, layer.offset))
    x = site.operand(site.first, site.result.dtype)
    scaled = site.apply("Mul", x, site.constant(scale, "scale"))
    return site.apply("Add", scaled, site.constant(offset, "offset"))


def _normalization(site: Site) -> str:
    layer = site.operation
    x = site.operand(site.first, site.result.dtype)
    if layer.invert:
        site.refuse("invert=True", "Write it with functions of `keras.ops`.")
    mean, variance = as_array(layer.mean), as_array(layer.variance)
    # The smallest divisor that Keras allows.
    deviation = np.maximum(np.sqrt(variance), np.float32(1e-7)).astype(np.float32)
    centered = site.apply("Sub", x, site.constant(mean.astype(np.float32), "mean"))
    return site.apply("Div", centered, site.constant(deviation, "deviation"))


def _spatial_axes(site: Site) -> list[int]:
    is_first = getattr(site.operation, "data_format", "channels_last") == "channels_first"
    return list(range(2, site.rank)) if is_first else list(range(1, site.rank - 1))


def _pairs(value: Any) -> list[tuple[int, int]]:
    """The sizes at both ends of each axis; one-dimensional layers have one pair."""
    items = list(value)
    return [(int(items[0]), int(items[1]))] if isinstance(items[0], int) else [(int(a), int(b)) for a, b in items]


def _flatten(site: Site) -> str:
    if getattr(site.operation, "data_format", "channels_last") == "channels_first" and site.rank > 2:
        site.refuse("data_format='channels_first'", "Permute the tensor and flatten it with channels last.")
    sizes = site.first.shape[1:]
    return site.reshape(site.x, [0, -1 if None in sizes else math.prod(size for size in sizes if size is not None)])


LAYERS: dict[type, Translator] = {
    **CONVOLUTIONS,
    **dict.fromkeys(
        (
            layers.Identity, layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
            layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.ActivityRegularization,
        ),
        _identity,
    ),
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.Embedding: _embedding,
    layers.BatchNormalization: _batch_norm,
    layers.LayerNormalization: _layer_norm,
    **dict.fromkeys((layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D), _padding),
    **dict.fromkeys((layers.Cropping1D, layers.Cropping2D, layers.Cropping3D), _cropping),
    layers.Flatten: _flatten,
    layers.Reshape: _reshape,
    layers.Permute: _permute,
    layers.RepeatVector: _repeat_vector,
    layers.Add: _merge("Add"),
    layers.Subtract: _merge("Sub"),
    layers.Multiply: _merge("Mul"),
    layers.Maximum: _merge("Max"),
    layers.Minimum: _merge("Min"),
    layers.Average: _average,
    layers.Concatenate: _concatenate,
    **ACTIVATION_LAYERS,
    layers.Rescaling: _rescaling,
    layers.Normalization: _normalization,
}  # fmt: skip

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The layers of Keras in operators of ONNX, besides convolutions and pooling."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import layers

from model_compression_toolkit.exporter.keras.onnx_activations import ACTIVATION_LAYERS, activated
from model_compression_toolkit.exporter.keras.onnx_convolutions import CONVOLUTIONS, product
from model_compression_toolkit.exporter.keras.onnx_images import IMAGE_LAYERS
from model_compression_toolkit.exporter.keras.onnx_normalizations import NORMALIZING_LAYERS
from model_compression_toolkit.exporter.keras.onnx_selection import padded
from model_compression_toolkit.exporter.keras.onnx_shapes import concatenated
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator, as_array

__all__ = ["LAYERS"]


def _identity(site: Site) -> str:
    return site.operand(site.first, site.result.dtype)


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


def _padding(site: Site) -> str:
    ends = [(0, 0)] * site.rank
    for axis, pair in zip(_spatial_axes(site), _pairs(site.operation.padding), strict=True):
        ends[axis] = pair
    return padded(site, site.x, ends, "constant")


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
    **NORMALIZING_LAYERS,
    **IMAGE_LAYERS,
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
}  # fmt: skip

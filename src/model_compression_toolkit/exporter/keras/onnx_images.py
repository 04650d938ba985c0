# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Layers and functions that resize, crop and color images, in operators of ONNX."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from model_compression_toolkit.exporter.keras.onnx_selection import padded, picked
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator, as_array

__all__ = ["IMAGES", "IMAGE_LAYERS"]

_NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}

# Layers that change images in training only.
_AUGMENTATIONS = (
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
    "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale",
    "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation",
    "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom",
)  # fmt: skip


def _upsampling(site: Site) -> str:
    layer = site.operation
    interpolation = getattr(layer, "interpolation", "nearest")
    if interpolation not in ("nearest", "bilinear"):
        site.refuse(f"interpolation={interpolation!r}", "Supported: 'nearest' and 'bilinear'.")
    factors = [layer.size] * (site.rank - 2) if isinstance(layer.size, int) else list(layer.size)
    mode = _BILINEAR if interpolation == "bilinear" else _NEAREST
    x = site.builder.transpose(site.x, _channels_first(site))
    scales = site.constant(np.array([1, 1, *factors], np.float32), "scales")
    return site.builder.transpose(site.add("Resize", x, "", scales, **mode), _channels_back(site))


def _resizing(site: Site) -> str:
    layer = site.operation
    return _resized(site, (layer.height, layer.width))


def _resize(site: Site) -> str:
    return _resized(site, tuple(site.operation.size))


def _resized(site: Site, size: tuple[int, int]) -> str:
    operation = site.operation
    for option in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"):
        if getattr(operation, option, False):
            site.refuse(f"{option}=True", "Crop, pad or smooth with functions of `keras.ops`, and leave it out.")
    axes = [axis for axis in range(1, site.rank) if axis != _channel_axis(site)]
    if site.rank != 4:
        site.refuse(f"an input of {site.rank} axes", "Give it images with a batch axis.")
    if operation.interpolation == "nearest":
        return _nearest(site, axes, size)
    if operation.interpolation != "bilinear":
        site.refuse(f"interpolation={operation.interpolation!r}", "Supported: 'nearest' and 'bilinear'.")
    x = site.builder.transpose(site.operand(site.first, "float32"), _channels_first(site))
    ends = [site.add("Shape", x, start=0, end=2), site.int_constant(size, "size")]
    y = site.add("Resize", x, "", "", site.add("Concat", *ends, axis=0), **_BILINEAR)
    y = site.builder.transpose(y, _channels_back(site))
    if site.result.dtype == "float32":
        return y
    return site.cast(site.apply("Round", y), site.result.dtype)


def _nearest(site: Site, axes: Sequence[int], size: Sequence[int]) -> str:
    """Rows and columns that are picked: those that Keras picks, at any ratio."""
    x = site.operand(site.first, site.result.dtype)
    for axis, target in zip(axes, size, strict=True):
        source = site.first.shape[axis]
        if source is None:
            site.refuse("interpolation='nearest' over an axis without a size", "Give the input a fixed size.")
        if source != target:
            numbers = np.arange(source, dtype=np.float32).reshape(1, -1, 1, 1)
            rows = keras.ops.image.resize(numbers, (target, 1), "nearest", data_format="channels_last")
            x = picked(site, x, axis, as_array(rows).ravel().astype(int))
    return x


def _center_crop(site: Site) -> str:
    layer, axes = site.operation, [axis for axis in range(1, site.rank) if axis != _channel_axis(site)]
    sizes, targets = [site.first.shape[axis] for axis in axes], (layer.height, layer.width)
    starts = [0 if size is None else (size - target) // 2 for size, target in zip(sizes, targets, strict=False)]
    if site.rank != 4 or None in sizes or min(starts) < 0:
        site.refuse(f"an input of shape {site.first.shape}", "Give it images that are larger, of a fixed size.")
    return _cropped(site, axes, starts, [start + target for start, target in zip(starts, targets, strict=True)])


def _cropped(site: Site, axes: Sequence[int], starts: Sequence[int], stops: Sequence[int]) -> str:
    ends = site.int_constant(starts, "starts"), site.int_constant(stops, "stops")
    x = site.operand(site.first, site.result.dtype)
    return site.builder.moved(
        x, lambda item, axis_of: site.add("Slice", item, *ends, site.int_constant([axis_of(a) for a in axes], "axes"))
    )


def _crop_images(site: Site) -> str:
    operation, axes = site.operation, [axis - 4 + site.rank for axis in _spatial_axes(site)]
    starts, stops = [], []
    for axis, before, after, target in zip(
        axes,
        (operation.top_cropping, operation.left_cropping),
        (operation.bottom_cropping, operation.right_cropping),
        (operation.target_height, operation.target_width),
        strict=True,
    ):
        size = site.first.shape[axis]
        if size is None:
            site.refuse("an axis without a size", "Give the input a fixed size.")
        start = size - after - target if before is None else before
        starts.append(start)
        stops.append(start + target if after is None else size - after)
    return _cropped(site, axes, starts, stops)


def _pad_images(site: Site) -> str:
    operation = site.operation
    pairs = [(0, 0)] * site.rank
    for axis, before, after, target in zip(
        [axis - 4 + site.rank for axis in _spatial_axes(site)],
        (operation.top_padding, operation.left_padding),
        (operation.bottom_padding, operation.right_padding),
        (operation.target_height, operation.target_width),
        strict=True,
    ):
        size = site.first.shape[axis]
        if size is None:
            site.refuse("an axis without a size", "Give the input a fixed size.")
        start = target - size - after if before is None else before
        pairs[axis] = (start, target - size - start if after is None else after)
    return padded(site, site.x, pairs, "constant")


def _gray(site: Site) -> str:
    axis = site.rank - 1 if site.operation.data_format == "channels_last" else site.rank - 3
    shape = [3 if at == axis else 1 for at in range(site.rank)]
    shares = site.constant(np.array([0.2989, 0.5870, 0.1140], np.float32).reshape(shape), "shares")
    return site.reduce("ReduceSum", site.apply("Mul", site.operand(site.first, "float32"), shares), [axis], True)


def _identity(site: Site) -> str:
    return site.operand(site.first, site.result.dtype)


def _channel_axis(site: Site) -> int:
    return 1 if getattr(site.operation, "data_format", "channels_last") == "channels_first" else site.rank - 1


def _spatial_axes(site: Site) -> tuple[int, int]:
    """Of images with a batch axis."""
    return (2, 3) if site.operation.data_format == "channels_first" else (1, 2)


def _channels_first(site: Site) -> tuple[int, ...]:
    axis = _channel_axis(site)
    return (0, axis, *(other for other in range(1, site.rank) if other != axis))


def _channels_back(site: Site) -> tuple[int, ...]:
    return tuple(np.argsort(_channels_first(site)).tolist())


def _augmentations() -> list[Any]:
    """Releases of Keras differ in which there are."""
    return [getattr(layers, name) for name in _AUGMENTATIONS if hasattr(layers, name)]


IMAGE_LAYERS: dict[type, Translator] = {
    **dict.fromkeys(_augmentations(), _identity),
    layers.UpSampling1D: _upsampling,
    layers.UpSampling2D: _upsampling,
    layers.UpSampling3D: _upsampling,
    layers.Resizing: _resizing,
    layers.CenterCrop: _center_crop,
}

# By the name of their class.
IMAGES: dict[str, Translator] = {
    "Resize": _resize,
    "CropImages": _crop_images,
    "PadImages": _pad_images,
    "RGBToGrayscale": _gray,
}

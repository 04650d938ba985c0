# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Layers and functions that normalize, in operators of ONNX."""

from typing import Any

import numpy as np
from keras import layers

from model_compression_toolkit.exporter.keras.onnx_reductions import axes_of, moments_of, normalized
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator, as_array

__all__ = ["NORMALIZATIONS", "NORMALIZING_LAYERS"]

_SMALLEST = 1e-7
"""What Keras takes for `epsilon=None`."""


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
    layer = site.operation
    axes, is_rms = sorted(axes_of(site, layer.axis)), bool(getattr(layer, "rms_scaling", False))
    gamma = None if layer.gamma is None else site.weight("gamma")
    beta = None if layer.beta is None or is_rms else site.weight("beta")
    return _normalized_layer(site, axes, layer.epsilon, is_rms, gamma, beta)


def _layer_norm_function(site: Site) -> str:
    operation, arguments = site.operation, {**dict(zip(("gamma", "beta"), site.call.args[1:], strict=False))}
    arguments.update(site.call.kwargs)
    axes, is_rms = sorted(axes_of(site, operation.axis)), bool(operation.rms_scaling)
    parts = {key: site.operand(value, "float32") for key, value in arguments.items() if value is not None}
    epsilon = _SMALLEST if operation.epsilon is None else operation.epsilon
    return _normalized_layer(site, axes, epsilon, is_rms, parts.get("gamma"), None if is_rms else parts.get("beta"))


def _normalized_layer(
    site: Site, axes: list[int], epsilon: float, is_rms: bool, gamma: str | None, beta: str | None
) -> str:
    """The operator over the last axes, and elsewhere what it is made of."""
    rank, shape = site.rank, [site.first.shape[axis] for axis in axes]
    if not is_rms and axes == list(range(axes[0], rank)):
        scale = site.constant(np.ones(shape, np.float32), "gamma") if gamma is None else gamma
        parts = [scale] if beta is None else [scale, beta]
        return site.add("LayerNormalization", site.x, *parts, axis=axes[0], epsilon=float(epsilon))
    mean, variance = moments_of(site, axes, keeps=True)
    # Of RMS scaling Keras leaves the mean where it is.
    x = site.x if is_rms else site.apply("Sub", site.x, mean)
    y = site.apply("Mul", x, _inverse_root(site, variance, epsilon))
    sizes = [site.first.shape[axis] if axis in axes else 1 for axis in range(rank)]
    for op_type, part in (("Mul", gamma), ("Add", beta)):
        if part is not None:
            y = site.apply(op_type, y, _aligned(site, part, sizes))
    return y


def _inverse_root(site: Site, x: str, epsilon: float) -> str:
    raised = site.apply("Add", x, site.constant(np.float32(epsilon), "epsilon"))
    return site.apply("Reciprocal", site.apply("Sqrt", raised))


def _aligned(site: Site, part: str, sizes: list[int | None]) -> str:
    """A constant or a tensor in a shape that broadcasts."""
    array = site.builder.constants.get(part)
    shape = [-1 if size is None else size for size in sizes]
    return (
        site.reshape(part, shape) if array is None else site.builder.constant(array.reshape(shape), f"{part}/aligned")
    )


def _rms_norm(site: Site) -> str:
    layer = site.operation
    return _over_root_mean_square(site, layer.axis, layer.epsilon, layer.scale)


def _rms_norm_function(site: Site) -> str:
    operation = site.operation
    scale = site.call.kwargs.get("scale", site.call.args[1] if len(site.call.args) > 1 else None)
    return _over_root_mean_square(site, operation.axis, operation.epsilon, scale)


def _over_root_mean_square(site: Site, axis: Any, epsilon: float | None, scale: Any) -> str:
    x, axes = site.operand(site.first, "float32"), axes_of(site, axis)
    squares = site.reduce("ReduceMean", site.apply("Mul", x, x), axes, True)
    y = site.apply("Mul", x, _inverse_root(site, squares, _SMALLEST if epsilon is None else epsilon))
    return y if scale is None else site.apply("Mul", y, site.operand(scale, "float32"))


def _group_norm(site: Site) -> str:
    layer, axis = site.operation, site.operation.axis % site.rank
    count = site.first.shape[axis]
    gamma, beta = (
        site.constant(np.full(count, value, np.float32), part) if getattr(layer, part) is None else site.weight(part)
        for part, value in (("gamma", 1.0), ("beta", 0.0))
    )
    perm = (0, axis, *(other for other in range(1, site.rank) if other != axis))
    x = site.builder.transpose(site.x, perm)
    y = site.add("GroupNormalization", x, gamma, beta, num_groups=int(layer.groups), epsilon=float(layer.epsilon))
    return site.builder.transpose(y, np.argsort(perm).tolist())


def _unit_norm(site: Site) -> str:
    # The epsilon that the layer has.
    return normalized(site, axes_of(site, site.operation.axis), 2, 1e-12)


def _normalization(site: Site) -> str:
    layer = site.operation
    x = site.operand(site.first, site.result.dtype)
    mean, variance = as_array(layer.mean), as_array(layer.variance)
    # The smallest divisor that Keras allows.
    spread = site.constant(np.maximum(np.sqrt(variance), np.float32(1e-7)).astype(np.float32), "deviation")
    center = site.constant(mean.astype(np.float32), "mean")
    if layer.invert:
        return site.apply("Add", center, site.apply("Mul", x, spread))
    return site.apply("Div", site.apply("Sub", x, center), spread)


NORMALIZING_LAYERS: dict[type, Translator] = {
    layers.BatchNormalization: _batch_norm,
    layers.LayerNormalization: _layer_norm,
    layers.GroupNormalization: _group_norm,
    layers.RMSNormalization: _rms_norm,
    layers.UnitNormalization: _unit_norm,
    layers.Normalization: _normalization,
}

# By the name of their class.
NORMALIZATIONS: dict[str, Translator] = {"LayerNorm": _layer_norm_function, "RMSNorm": _rms_norm_function}

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Convolutions and pooling: what ONNX computes with channels first, padded as Keras pads."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from model_compression_toolkit.exporter.keras.onnx_activations import activated
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["CONVOLUTIONS", "product"]

Array = npt.NDArray[Any]


def product(site: Site, op_type: str, inputs: list[str], bias: str | None, **attributes: Any) -> str:
    """A layer's product with its bias, which `separate_biases` takes apart where it must be.

    Args:
        site: the call.
        op_type: Conv, ConvTranspose or Gemm.
        inputs: input and weight.
        bias: the bias, a constant with one number for each channel.
        attributes: attributes of the operator.
    """
    return site.add(op_type, *inputs, *([] if bias is None else [bias]), **attributes)


def _convolution(site: Site) -> str:
    layer, spatial = site.operation, site.rank - 2
    strides, dilations = _each(layer.strides, spatial), _each(layer.dilation_rate, spatial)
    x = _channels_first(site)
    pads = _pads(site, layer.padding, _each(layer.kernel_size, spatial), strides, dilations)
    kernel = site.weight("kernel", _conv_kernel)
    bias = None if layer.bias is None else site.weight("bias")
    y = product(
        site, "Conv", [x, kernel], bias,
        strides=strides, dilations=dilations, group=layer.groups, **pads,
    )  # fmt: skip
    return activated(site, _channels_back(site, y), site.rank)


def _depthwise(site: Site) -> str:
    layer, spatial = site.operation, site.rank - 2
    y = _depthwise_product(site, "kernel", None if layer.bias is None else site.weight("bias"), spatial)
    return activated(site, _channels_back(site, y), site.rank)


def _separable(site: Site) -> str:
    layer, spatial = site.operation, site.rank - 2
    y = _depthwise_product(site, "depthwise_kernel", None, spatial)
    kernel = site.weight("pointwise_kernel", _conv_kernel)
    bias = None if layer.bias is None else site.weight("bias")
    y = product(site, "Conv", [y, kernel], bias)
    return activated(site, _channels_back(site, y), site.rank)


def _depthwise_product(site: Site, key: str, bias: str | None, spatial: int) -> str:
    layer = site.operation
    strides, dilations = _each(layer.strides, spatial), _each(layer.dilation_rate, spatial)
    channels = site.first.shape[_channel_axis(site)]
    pads = _pads(site, layer.padding, _each(layer.kernel_size, spatial), strides, dilations)
    inputs = [_channels_first(site), site.weight(key, _depthwise_kernel)]
    return product(site, "Conv", inputs, bias, strides=strides, dilations=dilations, group=channels, **pads)


def _transposed_convolution(site: Site) -> str:
    layer, spatial = site.operation, site.rank - 2
    strides, dilations = _each(layer.strides, spatial), _each(layer.dilation_rate, spatial)
    given = [None] * spatial if layer.output_padding is None else _each(layer.output_padding, spatial)
    before, after, longer = [], [], []
    for size, stride, dilation, more in zip(_each(layer.kernel_size, spatial), strides, dilations, given, strict=True):
        reach = (size - 1) * dilation + 1
        if more is not None:
            cut = (reach - reach % 2 if layer.padding == "same" else 0) - more
        elif layer.padding == "same":
            # The result is as many times longer as the stride says.
            cut = reach - stride
        else:
            # Nothing that is computed is cut.
            cut = min(reach - stride, 0)
        before.append(max(cut, 0) // 2)
        after.append(max(cut, 0) - max(cut, 0) // 2)
        longer.append(max(-cut, 0))
    x = _channels_first(site)
    kernel = site.weight("kernel", _conv_kernel)
    bias = None if layer.bias is None else site.weight("bias")
    y = product(
        site, "ConvTranspose", [x, kernel], bias,
        strides=strides, dilations=dilations, pads=before + after, output_padding=longer,
    )  # fmt: skip
    return activated(site, _channels_back(site, y), site.rank)


def _pooling(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        layer, spatial = site.operation, site.rank - 2
        size, strides = _each(layer.pool_size, spatial), _each(layer.strides, spatial)
        pads = _pads(site, layer.padding, size, strides, [1] * spatial)
        x = _channels_first(site)
        if op_type == "AveragePool":
            x, pads = _edges_repeated(site, x, pads)
        return _channels_back(site, site.add(op_type, x, kernel_shape=size, strides=strides, **pads))

    return translate


def _edges_repeated(site: Site, x: str, pads: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What Keras averages on torch: where the two ends need not be padded alike, the values at the edge count again.

    Elsewhere, and where they are, what is padded does not count.
    """
    if keras.config.backend() != "torch" or not pads:
        return x, pads
    if "pads" not in pads:
        site.refuse("padding='same' and strides over an axis without a size, on torch", "Give the input a fixed size.")
    half = len(pads["pads"]) // 2
    before, after = pads["pads"][:half], pads["pads"][half:]
    if before == after:
        return x, pads
    ends = site.int_constant([0, 0, *before, 0, 0, *after], "pads")
    return site.add("Pad", x, ends, mode="edge"), {}


def _global_pooling(op_type: str) -> Translator:
    def translate(site: Site) -> str:
        y = site.add(op_type, _channels_first(site))
        if site.operation.keepdims:
            return _channels_back(site, y)
        return site.add("Flatten", y, axis=1)

    return translate


def _channel_axis(site: Site) -> int:
    return 1 if getattr(site.operation, "data_format", "channels_last") == "channels_first" else site.rank - 1


def _channels_first(site: Site) -> str:
    axis = _channel_axis(site)
    return site.builder.transpose(site.x, (0, axis, *(a for a in range(1, site.rank) if a != axis)))


def _channels_back(site: Site, y: str) -> str:
    if _channel_axis(site) == 1:
        return y
    return site.builder.transpose(y, (0, *range(2, site.rank), 1))


def _pads(
    site: Site, padding: str, size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> dict[str, Any]:
    """The attributes that pad as Keras does: of `same` the smaller half in front."""
    if padding == "valid":
        return {}
    axes = [axis for axis in range(1, site.rank) if axis != _channel_axis(site)]
    before, after = [], []
    for axis, kernel, stride, dilation in zip(axes, size, strides, dilations, strict=True):
        length, reach = site.first.shape[axis], (kernel - 1) * dilation + 1
        if padding == "causal":
            before.append(reach - 1)
            after.append(0)
            continue
        if length is None and stride > 1:
            if dilation > 1:
                site.refuse("both strides and dilation over an axis without a size", "Give the input a fixed size.")
            return {"auto_pad": "SAME_UPPER"}
        total = reach - 1 if length is None else max((-(-length // stride) - 1) * stride + reach - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return {"pads": before + after}


def _each(value: Any, count: int) -> list[int]:
    return [int(value)] * count if isinstance(value, int) else [int(item) for item in value]


def _conv_kernel(kernel: Array) -> Array:
    """(…, in, out) to (out, in, …); of a transposed convolution (…, out, in) to (in, out, …)."""
    return np.transpose(kernel, (kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2)))


def _depthwise_kernel(kernel: Array) -> Array:
    """(…, in, multiplier) to (in · multiplier, 1, …)."""
    spatial = tuple(range(kernel.ndim - 2))
    moved = np.transpose(kernel, (kernel.ndim - 2, kernel.ndim - 1, *spatial))
    return moved.reshape(-1, 1, *moved.shape[2:])


CONVOLUTIONS: dict[type, Translator] = {
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Conv3D: _convolution,
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.SeparableConv1D: _separable,
    layers.SeparableConv2D: _separable,
    layers.Conv1DTranspose: _transposed_convolution,
    layers.Conv2DTranspose: _transposed_convolution,
    layers.Conv3DTranspose: _transposed_convolution,
    layers.MaxPooling1D: _pooling("MaxPool"),
    layers.MaxPooling2D: _pooling("MaxPool"),
    layers.MaxPooling3D: _pooling("MaxPool"),
    layers.AveragePooling1D: _pooling("AveragePool"),
    layers.AveragePooling2D: _pooling("AveragePool"),
    layers.AveragePooling3D: _pooling("AveragePool"),
    layers.GlobalMaxPooling1D: _global_pooling("GlobalMaxPool"),
    layers.GlobalMaxPooling2D: _global_pooling("GlobalMaxPool"),
    layers.GlobalMaxPooling3D: _global_pooling("GlobalMaxPool"),
    layers.GlobalAveragePooling1D: _global_pooling("GlobalAveragePool"),
    layers.GlobalAveragePooling2D: _global_pooling("GlobalAveragePool"),
    layers.GlobalAveragePooling3D: _global_pooling("GlobalAveragePool"),
}

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What each PyTorch operation means for quantization, as data."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from model_compression_toolkit.core.common.operation import Kind
from model_compression_toolkit.core.pytorch.known_layers import known_weight_axis

# The axis of the output channels of each layer's weight.
WEIGHT_AXES: dict[type[nn.Module], int] = {
    nn.Linear: 0,
    nn.Conv1d: 0,
    nn.Conv2d: 0,
    nn.Conv3d: 0,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 1,
    nn.ConvTranspose3d: 1,
    nn.Embedding: 0,
}

_MODULES: dict[Kind, tuple[type[nn.Module], ...]] = {
    Kind.BATCH_NORM: (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    Kind.ACTIVATION: (
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.GELU, nn.Mish, nn.Softplus,
        nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh,
    ),
    Kind.PRESERVING: (
        nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
        nn.Flatten, nn.Unflatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
        nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
        nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.UpsamplingNearest2d,
    ),
}  # fmt: skip

_FUNCTIONS: dict[Kind, tuple[Callable[..., Any], ...]] = {
    Kind.COMPUTE: (
        torch.matmul, operator.matmul, torch.bmm, torch.mm, torch.einsum, functional.linear,
        functional.conv1d, functional.conv2d, functional.conv3d,
        functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d,
    ),
    Kind.ADD: (operator.add, operator.iadd, torch.add),
    Kind.ACTIVATION: (
        functional.relu, functional.relu_, torch.relu, torch.relu_, functional.relu6, functional.leaky_relu,
        functional.elu, functional.selu, functional.celu, functional.silu, functional.gelu, functional.mish,
        functional.softplus, functional.hardswish, functional.hardsigmoid, functional.hardtanh,
        functional.sigmoid, functional.tanh, torch.sigmoid, torch.tanh,
    ),
    Kind.PRESERVING: (
        functional.max_pool1d, functional.max_pool2d, functional.max_pool3d, functional.dropout,
        functional.pixel_shuffle, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze,
        torch.unsqueeze, torch.chunk, torch.split, torch.movedim, torch.swapaxes, torch.clone, torch.unbind,
        operator.getitem,
    ),
}  # fmt: skip

_METHODS: dict[Kind, tuple[str, ...]] = {
    Kind.COMPUTE: ("matmul", "bmm", "mm"),
    Kind.ADD: ("add", "add_"),
    Kind.ACTIVATION: ("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_"),
    Kind.PRESERVING: (
        "view", "reshape", "flatten", "permute", "transpose", "t", "squeeze", "unsqueeze", "contiguous", "chunk",
        "split", "expand", "expand_as", "repeat", "clone", "detach", "unbind", "movedim", "swapaxes", "type_as",
    ),
}  # fmt: skip

_OTHER_NODES = {"placeholder": "input", "get_attr": "parameter"}


def weight_axis(module: nn.Module) -> int | None:
    """Axis of the output channels of the module's weight; None when its weight cannot be quantized."""
    axis = next((axis for cls, axis in WEIGHT_AXES.items() if isinstance(module, cls)), None)
    return known_weight_axis(module) if axis is None else axis


def kind_of_module(module: nn.Module) -> Kind:
    """The part a layer plays."""
    if weight_axis(module) is not None:
        return Kind.WEIGHTED
    if isinstance(module, nn.Upsample):
        return Kind.PRESERVING if module.mode == "nearest" else Kind.OTHER
    return next((kind for kind, classes in _MODULES.items() if isinstance(module, classes)), Kind.OTHER)


def kind_of_node(node: fx.Node, root: nn.Module) -> Kind:
    """The part an operation of a graph plays."""
    if node.op == "call_module":
        return kind_of_module(root.get_submodule(str(node.target)))
    if node.op == "call_method":
        return next((kind for kind, names in _METHODS.items() if node.target in names), Kind.OTHER)
    if node.op == "call_function":
        if node.target is functional.interpolate:
            return Kind.PRESERVING if node.kwargs.get("mode", "nearest") == "nearest" else Kind.OTHER
        return next((kind for kind, functions in _FUNCTIONS.items() if node.target in functions), Kind.OTHER)
    return Kind.OTHER


def type_of_node(node: fx.Node, root: nn.Module) -> str:
    """Name of a layer's class or of an operation, for filters and reports."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    if node.op in _OTHER_NODES:
        return _OTHER_NODES[node.op]
    return str(getattr(node.target, "__name__", node.target))

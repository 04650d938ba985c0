# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What each Keras operation means for quantization, as data."""

import functools
from typing import Any

import keras
from keras import layers

from model_compression_toolkit.core.common.operation import Kind
from model_compression_toolkit.core.keras.graph import Call

# The weights of each layer, with the axis of their output channels.
WEIGHT_AXES: dict[type[keras.layers.Layer], dict[str, int]] = {
    layers.Dense: {"kernel": -1},
    layers.Conv1DTranspose: {"kernel": -2},
    layers.Conv2DTranspose: {"kernel": -2},
    layers.Conv3DTranspose: {"kernel": -2},
    layers.Conv1D: {"kernel": -1},
    layers.Conv2D: {"kernel": -1},
    layers.Conv3D: {"kernel": -1},
    # One filter for each input channel; where it makes several outputs these share its scale.
    layers.DepthwiseConv1D: {"kernel": -2},
    layers.DepthwiseConv2D: {"kernel": -2},
    layers.SeparableConv1D: {"depthwise_kernel": -2, "pointwise_kernel": -1},
    layers.SeparableConv2D: {"depthwise_kernel": -2, "pointwise_kernel": -1},
    layers.Embedding: {"embeddings": 0},
    layers.LSTM: {"cell.kernel": -1, "cell.recurrent_kernel": -1},
    layers.GRU: {"cell.kernel": -1, "cell.recurrent_kernel": -1},
    layers.SimpleRNN: {"cell.kernel": -1, "cell.recurrent_kernel": -1},
}

# Layers whose weights are those of layers inside them. What they make is no accumulator.
_INNER_LAYERS: dict[type[keras.layers.Layer], tuple[str, ...]] = {
    layers.Bidirectional: ("forward_layer", "backward_layer"),
    layers.TimeDistributed: ("layer",),
    layers.MultiHeadAttention: ("query_dense", "key_dense", "value_dense", "output_dense"),
    layers.GroupQueryAttention: ("_query_dense", "_key_dense", "_value_dense", "_output_dense"),
}
_RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN)

_LAYERS: dict[Kind, tuple[type[keras.layers.Layer], ...]] = {
    Kind.BATCH_NORM: (layers.BatchNormalization,),
    Kind.COMPUTE: (layers.Dot,),
    Kind.ADD: (layers.Add,),
    Kind.ACTIVATION: (layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU),
    Kind.PRESERVING: (
        layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
        layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
        layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector, layers.Identity,
        layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.AlphaDropout,
        layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D,
        layers.Cropping1D, layers.Cropping2D, layers.Cropping3D, layers.UpSampling1D, layers.UpSampling3D,
    ),
}  # fmt: skip

# Operations of `keras.ops`, by the name of their class.
_FUNCTIONS: dict[Kind, tuple[str, ...]] = {
    Kind.COMPUTE: ("Matmul", "Einsum", "Dot", "Tensordot", "Conv", "DepthwiseConv", "ConvTranspose"),
    Kind.ADD: ("Add",),
    Kind.ACTIVATION: (
        "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Silu", "Gelu", "Softplus", "HardSilu", "HardSwish",
        "HardSigmoid", "HardTanh", "Sigmoid", "Tanh",
    ),
    Kind.PRESERVING: (
        "Reshape", "Transpose", "Squeeze", "ExpandDims", "GetItem", "Split", "Unstack", "Ravel", "Swapaxes", "Moveaxis",
        "Repeat", "Tile", "BroadcastTo", "Flip", "StopGradient", "Copy", "Identity", "MaxPool", "Slice", "DepthToSpace",
        "SpaceToDepth", "Roll", "Rot90",
    ),
}  # fmt: skip

# The functions of one element that a layer may apply to its product.
_ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "silu", "swish", "gelu", "mish", "softplus", "hard_silu",
    "hard_swish", "hard_sigmoid", "hard_tanh", "sigmoid", "tanh", "linear",
)  # fmt: skip


def weight_axes(layer: Any) -> dict[str, int]:
    """Axis of the output channels of each weight of a layer that can be quantized, by the weight's name; from the end.

    Weights of layers inside the layer have a path, such as "cell.kernel". Of `EinsumDense` it is the last axis that the
    output has and the input has not.
    """
    if isinstance(layer, layers.EinsumDense):
        return {"kernel": _einsum_axis(layer.equation)}
    inner = next((names for cls, names in _INNER_LAYERS.items() if isinstance(layer, cls)), ())
    if inner:
        found = {name: weight_axes(getattr(layer, name)) for name in inner}
        return {f"{name}.{weight}": axis for name, axes in found.items() for weight, axis in axes.items()}
    return next((axes for cls, axes in WEIGHT_AXES.items() if isinstance(layer, cls)), {})


def kind_of(call: Call) -> Kind:
    """The part a call plays."""
    operation = call.operation
    if weight_axes(operation):
        return Kind.WEIGHTED
    if isinstance(operation, keras.layers.Activation):
        return Kind.ACTIVATION if _activation_name(operation) in _ACTIVATIONS else Kind.OTHER
    if isinstance(operation, layers.UpSampling2D):
        return Kind.PRESERVING if operation.interpolation == "nearest" else Kind.OTHER
    if isinstance(operation, keras.layers.Layer):
        return next((kind for kind, classes in _LAYERS.items() if isinstance(operation, classes)), Kind.OTHER)
    return next((kind for kind, names in _FUNCTIONS.items() if type(operation).__name__ in names), Kind.OTHER)


def type_of(call: Call) -> str:
    """Name of a layer's or operation's class, for filters and reports."""
    return type(call.operation).__name__


def has_activation(layer: Any) -> bool:
    """Whether a layer applies an activation function of its own."""
    is_linear = _activation_name(layer) in ("", "linear") and not isinstance(layer, (*_RECURRENT, *_INNER_LAYERS))
    return bool(weight_axes(layer)) and not is_linear


def weight_of(layer: Any, name: str) -> keras.Variable:
    """A weight of a layer by its name; of a layer inside the layer by its path, such as "cell.kernel"."""
    variable: keras.Variable = functools.reduce(getattr, name.split("."), layer)
    return variable


def weight_problem(layer: Any) -> str:
    """Why the weights of a layer cannot be quantized; empty when they can."""
    if getattr(layer, "quantization_mode", None) is not None:
        return f"Keras itself has quantized the layer ({layer.quantization_mode})"
    if getattr(layer, "lora_enabled", False):
        return "its weight is no plain variable (LoRA adds to it)"
    return ""


def _activation_name(layer: Any) -> str:
    activation = getattr(layer, "activation", None)
    return "" if activation is None else str(getattr(activation, "__name__", type(activation).__name__))


def _einsum_axis(equation: str) -> int:
    inputs, kernel_and_output = equation.replace("...", "0").split(",")
    kernel, output = kernel_and_output.split("->")
    made = [index for index, letter in enumerate(kernel) if letter in output and letter not in inputs]
    # Without such an axis, or with several, the last one, which the layer's bias varies along at the least.
    return (made[-1] if made else len(kernel) - 1) - len(kernel)

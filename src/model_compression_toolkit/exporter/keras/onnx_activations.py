# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The activation functions of Keras in operators of ONNX."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from model_compression_toolkit.core.keras.graph import Call, Value
from model_compression_toolkit.exporter.keras.onnx_site import Site, Translator

__all__ = ["ACTIVATIONS", "ACTIVATION_LAYERS", "activated", "clipped", "gelu", "leaky_relu", "softmax"]

_INNER = "activation."
"""What the names of the weights of a layer begin with that is an activation function."""

Function = Callable[[Site, str], str]


def activated(site: Site, x: str, rank: int) -> str:
    """`x`, of `rank` axes, after the activation function of the layer.

    Raises:
        ValueError: the function has no translation.
    """
    function = site.operation.activation
    if function is None or function is keras.activations.linear:
        return x
    if function in (keras.activations.softmax, keras.activations.log_softmax):
        return softmax(site, x, [-1], rank, is_log=function is keras.activations.log_softmax)
    if type(function) in ACTIVATION_LAYERS:
        return _of_layer(site, x, function)
    for name, translate in ACTIVATIONS.items():
        if function is getattr(keras.activations, name):
            return translate(site, x)
    return site.refuse(
        f"the activation function {getattr(function, '__name__', function)!r}",
        f"Supported: {sorted([*ACTIVATIONS, 'linear', 'log_softmax', 'softmax'])}, without parameters of their own, "
        f"and layers of the classes {sorted(cls.__name__ for cls in ACTIVATION_LAYERS)}. "
        "Write others with functions of `keras.ops`.",
    )


def _of_layer(site: Site, x: str, layer: keras.layers.Layer) -> str:
    """`x` after a layer that another one has for its activation function."""
    value = Value(site.result.shape, site.result.dtype)
    call = Call(site.name, site.call.path, layer, (value,), {})
    call.outputs = [Value(site.result.shape, site.result.dtype, call)]
    quantizers = {
        key.removeprefix(_INNER): item for key, item in site.quantizers.items() if str(key).startswith(_INNER)
    }
    inner = dataclasses.replace(
        site, call=call, operation=layer, quantizers=quantizers, names={value: x}, arguments={},
        prefix=site.prefix + _INNER,
    )  # fmt: skip
    result = ACTIVATION_LAYERS[type(layer)](inner)
    return result if isinstance(result, str) else result[0]


def _listed(axis: Any) -> list[int]:
    """An axis or several as a list."""
    return [int(axis)] if isinstance(axis, int) else [int(item) for item in axis]


def softmax(site: Site, x: str, axes: list[int], rank: int, is_log: bool = False) -> str:
    """Softmax over one axis, or over several together."""
    if len(axes) > 1:
        return _joint_softmax(site, x, [axis % rank for axis in axes])
    kind = "LogSoftmax" if is_log else "Softmax"
    if axes[0] % rank == rank - 1:
        # Most engines are fastest, and some right only, over the last axis.
        return site.add(kind, x, axis=-1)
    return site.builder.moved(x, lambda source, axis_of: site.add(kind, source, axis=axis_of(axes[0] % rank)))


def _joint_softmax(site: Site, x: str, axes: list[int]) -> str:
    """What a softmax is made of: ONNX has one axis."""
    shares = site.apply("Exp", site.apply("Sub", x, site.reduce("ReduceMax", x, axes, True)))
    return site.apply("Div", shares, site.reduce("ReduceSum", shares, axes, True))


def leaky_relu(site: Site, x: str, slope: float) -> str:
    """`x`, where it is negative multiplied by a number."""
    return site.apply("LeakyRelu", x, alpha=float(slope))


def clipped(site: Site, x: str, low: float | None, high: float | None) -> str:
    """`x` inside of a range."""
    inputs = [
        "" if end is None else site.constant(np.float32(end), part) for end, part in ((low, "low"), (high, "high"))
    ]
    if high is None:
        inputs = inputs[:1]
    if low is None:
        return site.apply("Min", x, inputs[1])
    return site.apply("Clip", x, *inputs)


def gelu(site: Site, x: str, approximate: bool) -> str:
    """Gaussian error linear unit."""
    return site.apply("Gelu", x, approximate="tanh" if approximate else "none")


def hard_sigmoid(site: Site, x: str) -> str:
    """`relu6(x + 3) / 6`."""
    return site.apply("HardSigmoid", x, alpha=1 / 6, beta=0.5)


def _plain(op_type: str, **attributes: Any) -> Function:
    return lambda site, x: site.apply(op_type, x, **attributes)


# By the name that they have in `keras.activations`, with the parameters that they have there unless given.
ACTIVATIONS: dict[str, Function] = {
    "relu": _plain("Relu"),
    "relu6": lambda site, x: clipped(site, x, 0.0, 6.0),
    "sigmoid": _plain("Sigmoid"),
    "tanh": _plain("Tanh"),
    "gelu": lambda site, x: gelu(site, x, approximate=False),
    "silu": lambda site, x: site.apply("Mul", x, site.apply("Sigmoid", x)),
    "elu": _plain("Elu", alpha=1.0),
    "selu": _plain("Selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    "celu": _plain("Celu", alpha=1.0),
    "leaky_relu": lambda site, x: leaky_relu(site, x, 0.2),
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": lambda site, x: site.apply("Mul", x, hard_sigmoid(site, x)),
    "hard_tanh": lambda site, x: clipped(site, x, -1.0, 1.0),
    "softplus": _plain("Softplus"),
    "softsign": _plain("Softsign"),
    "mish": _plain("Mish"),
    "log_sigmoid": lambda site, x: site.apply("Neg", site.apply("Softplus", site.apply("Neg", x))),
    "tanh_shrink": lambda site, x: site.apply("Sub", x, site.apply("Tanh", x)),
    "hard_shrink": _plain("Shrink", lambd=0.5, bias=0.0),
    "soft_shrink": _plain("Shrink", lambd=0.5, bias=0.5),
    "sparse_sigmoid": _plain("HardSigmoid", alpha=0.5, beta=0.5),
    "exponential": _plain("Exp"),
}


def _activation(site: Site) -> str:
    return activated(site, site.x, site.rank)


def _relu(site: Site) -> str:
    layer = site.operation
    slope, threshold, highest = float(layer.negative_slope), float(layer.threshold), layer.max_value
    if threshold:
        site.refuse(f"threshold={threshold}", "Write it with functions of `keras.ops`.")
    x = leaky_relu(site, site.x, slope) if slope else site.x
    if highest is None:
        return x if slope else site.apply("Relu", x)
    return clipped(site, x, None if slope else 0.0, float(highest))


def _prelu(site: Site) -> str:
    slope = site.weight("alpha")
    if slope in site.builder.constants:
        return site.apply("PRelu", site.x, slope)
    return site.add("PRelu", site.x, slope)


def _elu(site: Site) -> str:
    return site.apply("Elu", site.x, alpha=float(site.operation.alpha))


def _softmax(site: Site) -> str:
    return softmax(site, site.x, _listed(site.operation.axis), site.rank)


# Also as the activation function of another layer.
ACTIVATION_LAYERS: dict[type, Translator] = {
    layers.Activation: _activation,
    layers.ReLU: _relu,
    layers.LeakyReLU: lambda site: leaky_relu(site, site.x, site.operation.negative_slope),
    layers.PReLU: _prelu,
    layers.ELU: _elu,
    layers.Softmax: _softmax,
}

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What int8 holds of a frozen Keras model: the codes of its weights and the grids of its activations."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.keras.graph import Call
from model_compression_toolkit.exporter.keras.litert_schema import INT8_MAX, INT8_MIN, Grid

__all__ = [
    "StoredWeight",
    "activation_grid",
    "activation_params",
    "is_bypassed",
    "stored_weights",
    "weight_name",
]

_SMALLEST_DEAD_SCALE = 2.0**-16
"""Scale of a channel of zeros, at the least: any scale stands for them, and the bias must fit in steps of it."""


@dataclass(slots=True)
class StoredWeight:
    """A weight as the file holds it.

    Attributes:
        name: its name.
        codes: int8, shape of the weight in Keras; 0 stands for 0.0.
        scale: float32, of each element.
    """

    name: str
    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]


def is_bypassed(holder: KerasActivationQuantizationHolder) -> bool:
    """Whether a holder lets its input through."""
    return bool(getattr(holder, "quantization_bypass", False))


def weight_name(call: Call, key: int | str) -> str:
    """Name of a weight in the file."""
    return f"{call.path}.{key}"


def stored_weights(call: Call) -> dict[int | str, StoredWeight]:
    """The weights of a wrapper as a file holds them, by their keys.

    Raises:
        ValueError: a quantizer is not frozen, or its integers do not fit in int8.
    """
    wrapper: KerasQuantizationWrapper = call.operation
    return {
        key: _stored_weight(weight_name(call, key), quantizer, variable)
        for key, variable, quantizer in wrapper.get_weights_vars()
    }


def _stored_weight(name: str, quantizer: Any, variable: Any) -> StoredWeight:
    params = _params_of(name, quantizer)
    codes = keras.ops.convert_to_numpy(quantizer.quantize(keras.ops.convert_to_tensor(variable)))
    axis = params.axis
    aligned = broadcast_shape(codes.ndim, axis)
    if isinstance(params, LookupTable):
        centered = params.lut_values[codes]
        scale = params.threshold / params.level_scale
    else:
        centered = codes - params.zero_point.reshape(aligned)
        scale = params.scale
    low, high = int(centered.min(initial=0)), int(centered.max(initial=0))
    if low < INT8_MIN or high > INT8_MAX:
        raise ValueError(
            f"{name} has integers from {low} to {high} around its zero point; LiteRT stores weights as int8, from "
            f"{INT8_MIN} to {INT8_MAX} with zero point 0. Quantize it symmetrically, with at most 8 bits. "
            f"Received: {type(quantizer).__name__} with {params.num_bits} bits"
        )
    scale = np.broadcast_to(scale.reshape(aligned), codes.shape).astype(np.float32)
    # Values stay the same to the last bit, and the steps of the accumulator, to which the bias is rounded, get finer.
    factors = (2**bits for bits in range(max(8 - params.num_bits, 0), -1, -1))
    factor = next(item for item in factors if low * item >= INT8_MIN and high * item <= INT8_MAX)
    centered, scale = centered * factor, scale / np.float32(factor)
    if axis is not None:
        others = tuple(index for index in range(codes.ndim) if index != axis % codes.ndim)
        is_dead = ~centered.any(axis=others, keepdims=True)
    else:
        is_dead = ~centered.any(keepdims=True)
    scale = np.where(is_dead, np.maximum(scale, np.float32(_SMALLEST_DEAD_SCALE)), scale)
    return StoredWeight(name, centered.astype(np.int8), scale.astype(np.float32))


def activation_params(call: Call) -> QuantParams:
    """The grid of a holder.

    Raises:
        ValueError: its quantizer is not frozen, or int8 cannot hold its codes.
    """
    name, quantizer = call.name, call.operation.activation_holder_quantizer
    params = _params_of(name, quantizer)
    if not isinstance(params, QuantParams):
        raise ValueError(
            f"{name} has the levels of a lookup table; activations in LiteRT lie on a grid of int8. Train it with a "
            f"power-of-two, symmetric or uniform quantizer, or export to another format. Received: {quantizer!r}"
        )
    if params.axis is not None or params.quant_max - params.quant_min > INT8_MAX - INT8_MIN:
        raise ValueError(
            f"{name} has {params.num_bits} bits; activations in LiteRT have at most 8 and one scale. Quantize it "
            f"with 8 bits or fewer, or export to another format. Received: {quantizer!r}"
        )
    return params


def activation_grid(params: QuantParams) -> Grid:
    """The grid as the file holds it: the smallest code becomes -128, where int8 saturates by itself."""
    shift = INT8_MIN - params.quant_min
    return Grid((float(params.scale[0]),), int(params.zero_point[0]) + shift, params.quant_max + shift)


def _params_of(name: str, quantizer: Any) -> QuantParams | LookupTable:
    params = getattr(quantizer, "params", None)
    if not isinstance(params, (QuantParams, LookupTable)) or not hasattr(quantizer, "quantize"):
        raise ValueError(
            f"{name} must have an inferable quantizer on a grid to be exported to LiteRT: finalize the model first; "
            f"quantizers of your own without `params` cannot be exported. Received: {type(quantizer).__name__}"
        )
    return params

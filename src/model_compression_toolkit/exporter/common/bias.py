# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""When integer engines keep a bias as it is, and which scales give them room for it.

An engine adds a bias to the int32 sum of the products of codes, so it rounds the bias to steps of
`input scale · weight scale`. A bias of more than 2**31 such steps overflows; steps as wide as those of the layer's
result round it away.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.quant_params import FloatArray

__all__ = ["LARGEST_BIAS", "fits_accumulator", "same_scales", "scales_of_zeros", "zero_channels"]

Array = npt.NDArray[Any]

LARGEST_BIAS = 2.0**30
"""Steps that a bias may have: one half of int32. The other half is left to the sum of the products."""
COARSEST_STEP = 2.0**-4
"""Steps of the accumulator may be as wide as this share of those of the result: the bias moves by 1/32 of these."""
_BIAS_OF_ZEROS = 2.0**24
"""Steps up to which the bias of a channel of zeros comes: as exact as float32."""


def fits_accumulator(bias: Array, step: Array, output_scale: float | None = None) -> bool:
    """Whether a bias keeps its value as an int32 of steps of the accumulator.

    Args:
        bias: one number for each channel, shape (C,).
        step: `input scale · weight scale`, shape (C,) or (1,).
        output_scale: scale of the layer's quantized result; None where it is not quantized.
    """
    # In float64: a product of small float32 scales could become zero.
    steps = np.asarray(step, np.float64)
    if not (np.abs(np.asarray(bias, np.float64)) <= LARGEST_BIAS * steps).all():
        return False
    if not (steps >= np.finfo(np.float32).tiny).all():
        return False  # engines hold the product of both scales as float32
    return output_scale is None or bool((steps <= COARSEST_STEP * output_scale).all())


def zero_channels(centered: Array, axis: int | None) -> npt.NDArray[np.bool_]:
    """Which channels of a weight are zero, so that any scale stands for them; shape (C,), or (1,) without an axis.

    Args:
        centered: its integers less their zero points.
        axis: along which its scale varies.
    """
    if axis is None:
        return np.array([not centered.any()])
    others = tuple(index for index in range(centered.ndim) if index != axis % centered.ndim)
    return np.asarray(~centered.any(axis=others), np.bool_)


def scales_of_zeros(scale: FloatArray | Array, is_zero: Array, bias: Array, input_scale: float) -> Array:
    """Scales of a weight with which the biases of its channels of zeros fit; the others stay.

    A scale is multiplied by a power of two: it stays one where it was one.

    Args:
        scale: of each channel, float32, shape (C,).
        is_zero: which channels are zero, shape (C,).
        bias: of each channel, shape (C,).
        input_scale: scale of the layer's input.

    Returns:
        float32, shape (C,).
    """
    wanted = np.abs(np.asarray(bias, np.float64)) / (float(input_scale) * _BIAS_OF_ZEROS)
    with np.errstate(divide="ignore"):
        doublings = np.ceil(np.log2(np.maximum(wanted / np.asarray(scale, np.float64), 1.0)))
    raised = (np.asarray(scale, np.float64) * np.exp2(doublings)).astype(np.float32)
    return np.where(is_zero & np.isfinite(raised), raised, np.asarray(scale, np.float32))


def same_scales(stored: Array, expected: Array, centered: Array, axis: int | None) -> bool:
    """Whether a file has the scales of a weight; those of channels of zeros are free.

    Args:
        stored: scales of the file, shape (C,) or (1,).
        expected: scales of the model.
        centered: the weight's integers less their zero points.
        axis: along which its scale varies.
    """
    if stored.shape != expected.shape:
        return False
    is_free = zero_channels(centered, axis) & np.isfinite(stored) & (stored > 0)
    return bool(((stored == expected) | is_free).all())

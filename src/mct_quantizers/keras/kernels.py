# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Fake quantization for Keras: the neutral formulas, which XLA and other compilers fuse.

TensorFlow's own `fake_quant_with_min_max_vars` breaks ties another way; it is not used.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic
from mct_quantizers.keras import ops

Tensor = Any
FloatArray = npt.NDArray[np.floating[Any]]


def fake_quantize(
    x: Tensor, scale: FloatArray, zero_point: npt.NDArray[Any] | None, quant_min: int, quant_max: int
) -> Tensor:
    """`mct_quantizers.common.arithmetic.fake_quantize_tensor` without a gradient.

    Args:
        x: floating point, any shape; float16 and bfloat16 are computed in float32.
        scale: float32, broadcasts against `x`.
        zero_point: integers, broadcast against `x`; None for zero.
        quant_min: smallest integer.
        quant_max: largest integer.

    Returns:
        Tensor of the shape and dtype of `x` that needs no gradient.
    """
    values = ops.stop_gradient(ops.to_compute_dtype(x))
    zeros = None if zero_point is None else ops.constant(zero_point, values)
    result = arithmetic.fake_quantize_tensor(values, ops.constant(scale, values), zeros, quant_min, quant_max, ops)
    return ops.cast_like(result, x)


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, gradient_factor: float = 1.0
) -> Tensor:
    """`fake_quantize` with the gradients of `arithmetic.fake_quantize_learned` to `x` and `scale`."""
    return ops.fake_quantize_learned(x, scale, zero_point, quant_min, quant_max, gradient_factor)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Elementary functions of trainable quantizers on Keras tensors that the interface names.

Formulas, gradients and errors: `trainable_infrastructure.common.elementary`. Parameters may be tensors, variables,
numbers or arrays.
"""

from typing import Any

import keras

from mct_quantizers.keras import ops as keras_ops
from mct_quantizers.keras.quantizer_utils import int_quantization_with_threshold
from model_compression_toolkit.trainable_infrastructure.common import elementary

__all__ = [
    "adjust_range_to_include_zero",
    "grad_scale",
    "int_quantization_with_threshold",
    "ste_clip",
    "ste_round",
    "symmetric_lsq_quantizer",
    "symmetric_quantizer",
    "uniform_lsq_quantizer",
    "uniform_quantizer",
]

Tensor = Any


def ste_round(x: Tensor) -> Tensor:
    """Round half to even with gradient 1: shape and dtype of `x`."""
    return elementary.ste_round(keras_ops.as_tensor(x), keras_ops)


def ste_clip(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`x` limited to `min_val … max_val` with gradient 1 everywhere: shape and dtype of `x`."""
    return elementary.ste_clip(keras_ops.as_tensor(x), min_val, max_val, keras_ops)


def grad_scale(x: Tensor, scale: Any = 1.0) -> Tensor:
    """`x` itself, its gradient multiplied by `scale`."""
    return elementary.grad_scale(keras_ops.as_tensor(x), scale, keras_ops)


def adjust_range_to_include_zero(range_min: Any, range_max: Any, n_bits: int) -> tuple[Tensor, Tensor]:
    """See `elementary.adjust_range_to_include_zero`; differentiable, float32 for numbers."""
    known = [end for end in (range_min, range_max) if _is_tensor(end)]
    like = keras_ops.as_tensor(known[0]) if known else keras.ops.zeros((), "float32")
    low, high = _as_tensor(range_min, like), _as_tensor(range_max, like)
    return elementary.adjust_range_to_include_zero(low, high, n_bits, keras_ops)


def symmetric_quantizer(x: Tensor, threshold: Any, n_bits: int, sign: bool = False) -> Tensor:
    """See `elementary.symmetric_quantizer`: shape and dtype of `x`."""
    x = keras_ops.as_tensor(x)
    return elementary.symmetric_quantizer(x, _as_tensor(threshold, x), n_bits, sign, keras_ops)


def uniform_quantizer(x: Tensor, range_min: Any, range_max: Any, n_bits: int) -> Tensor:
    """See `elementary.uniform_quantizer`: shape and dtype of `x`."""
    x = keras_ops.as_tensor(x)
    low, high = _as_tensor(range_min, x), _as_tensor(range_max, x)
    return elementary.uniform_quantizer(x, low, high, n_bits, keras_ops)


def symmetric_lsq_quantizer(
    x: Tensor, thresholds: Any, num_bits: int, sign: bool, min_int: int, max_int: int, scale_factor: Any
) -> Tensor:
    """See `elementary.symmetric_lsq_quantizer`: shape and dtype of `x`."""
    x = keras_ops.as_tensor(x)
    return elementary.symmetric_lsq_quantizer(
        x, _as_tensor(thresholds, x), num_bits, sign, min_int, max_int, scale_factor, keras_ops
    )


def uniform_lsq_quantizer(
    x: Tensor, min_range: Any, max_range: Any, num_bits: int, min_int: int, max_int: int, scale_factor: Any
) -> Tensor:
    """See `elementary.uniform_lsq_quantizer`: shape and dtype of `x`."""
    x = keras_ops.as_tensor(x)
    low, high = _as_tensor(min_range, x), _as_tensor(max_range, x)
    return elementary.uniform_lsq_quantizer(x, low, high, num_bits, min_int, max_int, scale_factor, keras_ops)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, keras.Variable) or bool(keras.ops.is_tensor(value))


def _as_tensor(value: Any, like: Tensor) -> Tensor:
    return keras_ops.as_tensor(value) if _is_tensor(value) else keras_ops.constant(value, like)

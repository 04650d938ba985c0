# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Elementary functions of trainable quantizers on torch tensors that the interface names.

Formulas, gradients and errors: `trainable_infrastructure.common.elementary`. Parameters may be tensors, numbers or
arrays.
"""

from typing import Any

import torch
from torch import Tensor

from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.quantizer_utils import get_working_device, int_quantization_with_threshold
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


def ste_round(x: Tensor) -> Tensor:
    """Round half to even with gradient 1: shape and dtype of `x`."""
    result: Tensor = elementary.ste_round(x, torch_ops)
    return result


def ste_clip(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`x` limited to `min_val … max_val` with gradient 1 everywhere: shape and dtype of `x`."""
    result: Tensor = elementary.ste_clip(x, min_val, max_val, torch_ops)
    return result


def grad_scale(x: Tensor, scale: Any = 1.0) -> Tensor:
    """`x` itself, its gradient multiplied by `scale`."""
    result: Tensor = elementary.grad_scale(x, scale, torch_ops)
    return result


def adjust_range_to_include_zero(range_min: Any, range_max: Any, n_bits: int) -> tuple[Tensor, Tensor]:
    """See `elementary.adjust_range_to_include_zero`; differentiable, float32 for numbers."""
    known = [end for end in (range_min, range_max) if isinstance(end, Tensor)]
    like = known[0] if known else torch.empty(0, device=get_working_device())
    low, high = _as_tensor(range_min, like), _as_tensor(range_max, like)
    return elementary.adjust_range_to_include_zero(low, high, n_bits, torch_ops)


def symmetric_quantizer(x: Tensor, threshold: Any, n_bits: int, sign: bool = False) -> Tensor:
    """See `elementary.symmetric_quantizer`: shape and dtype of `x`."""
    result: Tensor = elementary.symmetric_quantizer(x, _as_tensor(threshold, x), n_bits, sign, torch_ops)
    return result


def uniform_quantizer(x: Tensor, range_min: Any, range_max: Any, n_bits: int) -> Tensor:
    """See `elementary.uniform_quantizer`: shape and dtype of `x`."""
    low, high = _as_tensor(range_min, x), _as_tensor(range_max, x)
    result: Tensor = elementary.uniform_quantizer(x, low, high, n_bits, torch_ops)
    return result


def symmetric_lsq_quantizer(
    x: Tensor, thresholds: Any, num_bits: int, sign: bool, min_int: int, max_int: int, scale_factor: Any
) -> Tensor:
    """See `elementary.symmetric_lsq_quantizer`: shape and dtype of `x`."""
    result: Tensor = elementary.symmetric_lsq_quantizer(
        x, _as_tensor(thresholds, x), num_bits, sign, min_int, max_int, scale_factor, torch_ops
    )
    return result


def uniform_lsq_quantizer(
    x: Tensor, min_range: Any, max_range: Any, num_bits: int, min_int: int, max_int: int, scale_factor: Any
) -> Tensor:
    """See `elementary.uniform_lsq_quantizer`: shape and dtype of `x`."""
    low, high = _as_tensor(min_range, x), _as_tensor(max_range, x)
    result: Tensor = elementary.uniform_lsq_quantizer(x, low, high, num_bits, min_int, max_int, scale_factor, torch_ops)
    return result


def _as_tensor(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch_ops.constant(value, like)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Functions on Keras tensors that the interface names. Formulas: `mct_quantizers.common.quant_utils`."""

from typing import Any

import keras

from mct_quantizers.common import arithmetic, quant_utils
from mct_quantizers.keras import ops as keras_ops

__all__ = ["int_quantization_with_threshold", "lut_quantizer"]

Tensor = Any


def lut_quantizer(
    tensor_data: Tensor,
    lut_values: Any,
    signed: bool,
    threshold: Any,
    lut_values_bitwidth: int,
    eps: float,
    per_channel: bool | None = None,
    channel_axis: int | None = None,
    input_rank: int | None = None,
) -> Tensor:
    """`quant_utils.lut_quantizer_np` for a tensor: same shape and dtype, no gradient."""
    data = keras_ops.stop_gradient(keras_ops.as_tensor(tensor_data))
    levels, thresholds = _to_numpy(lut_values), _to_numpy(threshold)
    axis = quant_utils.threshold_axis(thresholds, len(data.shape), per_channel, channel_axis, input_rank)
    table = quant_utils.lookup_table(levels, signed, thresholds, lut_values_bitwidth, eps, axis)
    return arithmetic.lut_quantize(data, table, keras_ops)


def int_quantization_with_threshold(data: Tensor, n_bits: int, signed: bool, threshold: Any, eps: float) -> Tensor:
    """`quant_utils.int_quantization_with_threshold` for a tensor; differentiable in `data` and a tensor `threshold`."""
    values = keras_ops.to_compute_dtype(data)
    threshold = keras.ops.convert_to_tensor(threshold, dtype=keras.backend.standardize_dtype(values.dtype))
    return quant_utils.grid_position(values, threshold, n_bits, signed, eps, keras_ops)


def _to_numpy(value: Any) -> Any:
    """Tensors and variables as arrays; other values as they are."""
    is_tensor = keras.ops.is_tensor(value) or isinstance(value, keras.Variable)
    return keras.ops.convert_to_numpy(value) if is_tensor else value

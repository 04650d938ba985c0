# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Checks on the arrays that a kernel of ONNX Runtime is given. Needs no torch."""

from typing import Any

import numpy as np

from mct_quantizers.common.validation import as_vector, check_channels, check_length, check_ordered_range, checked_axis

__all__ = ["validate_activation_params", "validate_weight_params"]


def validate_weight_params(
    input_tensor: Any, min_range: Any, max_range: Any, per_channel: bool, channel_axis: int | None
) -> None:
    """A weight and its ranges fit together.

    Args:
        input_tensor: array, the weight.
        min_range: array, shape (C,) or per tensor (1,).
        max_range: array of the shape of `min_range`, above it.
        per_channel: whether each slice along `channel_axis` has its own range.
        channel_axis: axis of the channels; needed per channel.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: ranges of another shape, not finite, out of order, or another number of channels.
    """
    arrays = {"input_tensor": input_tensor, "min_range": min_range, "max_range": max_range}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(f"`{name}` must be a numpy.ndarray. Received: {type(value).__name__}")
    axis = checked_axis(per_channel, channel_axis)
    for name in ("min_range", "max_range"):
        if arrays[name].ndim != 1:
            raise ValueError(f"`{name}` must have one axis. Received: shape {arrays[name].shape}")
    low, high = as_vector("min_range", min_range), as_vector("max_range", max_range)
    check_ordered_range(low, high)
    check_length("min_range", low, axis)
    check_channels(input_tensor.shape, axis, low.size)


def validate_activation_params(input_tensor: Any, min_range: float, max_range: float) -> None:
    """An activation and its range fit together.

    Args:
        input_tensor: array, the activation.
        min_range: smallest value.
        max_range: largest value, above `min_range`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a range that is not finite or out of order.
    """
    if not isinstance(input_tensor, np.ndarray):
        raise TypeError(f"`input_tensor` must be a numpy.ndarray. Received: {type(input_tensor).__name__}")
    for name, value in (("min_range", min_range), ("max_range", max_range)):
        if not isinstance(value, float):
            raise TypeError(f"`{name}` must be a float. Received: {name}={value!r}")
    check_ordered_range(as_vector("min_range", min_range), as_vector("max_range", max_range))

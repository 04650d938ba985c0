# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes of quantization parameters."""

from collections.abc import Sequence

__all__ = ["get_threshold_reshape_shape"]


def get_threshold_reshape_shape(tensor_shape: Sequence[int], quant_axis: int, quant_axis_dim: int) -> list[int]:
    """Ones for each axis of a tensor, but `quant_axis_dim` at `quant_axis`, which may count from the end.

    Raises:
        IndexError: the tensor has no such axis.
    """
    shape = [1] * len(tensor_shape)
    shape[quant_axis] = quant_axis_dim
    return shape

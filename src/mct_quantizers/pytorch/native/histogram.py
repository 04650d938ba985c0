# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Histograms and extremes of tensors, in native code where it is at hand."""

import torch
from torch import Tensor

from mct_quantizers.pytorch.native.library import native_library
from mct_quantizers.pytorch.native.memory import is_dense, is_plain


def histogram(x: Tensor, low: float, high: float, bins: int) -> Tensor:
    """How many values lie in each of `bins` bins of equal width; those outside go to the bins at the ends.

    Args:
        x: float32 or float64 without NaN, any shape.
        low: lower end, below `high`.
        high: upper end.
        bins: number of bins.

    Returns:
        float64 or the dtype of `x`, shape (bins,).
    """
    library = native_library() if is_plain(x) and is_dense(x) else None
    if library is None:
        return torch.histc(x.clamp(low, high), bins, low, high)
    counts = x.new_zeros(bins, dtype=torch.float64)
    library.histogram(x.data_ptr(), x.numel(), low, high, bins, counts.data_ptr(), torch.get_num_threads())
    return counts


def extremes(x: Tensor) -> tuple[float, float]:
    """The smallest and the largest value; both NaN where there is one.

    Args:
        x: float32 or float64, any shape, not empty.
    """
    library = native_library() if is_plain(x) and is_dense(x) else None
    if library is None:
        low, high = torch.aminmax(x)
        return float(low), float(high)
    result = x.new_empty(2)
    library.extremes(x.data_ptr(), x.numel(), result.data_ptr(), torch.get_num_threads())
    smallest, largest = result.tolist()
    return smallest, largest

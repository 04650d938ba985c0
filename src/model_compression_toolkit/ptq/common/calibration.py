# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""From statistics to the parameters of a plan's tensors."""

import dataclasses

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.ptq.common.range_search import ObservedValues, search_params
from model_compression_toolkit.ptq.common.statistics import TensorStatistics


def weight_params(tensor: TensorPlan, weight: npt.NDArray[np.floating]) -> QuantParams:
    """The grid of a weight.

    Args:
        tensor: its entry in the plan.
        weight: its values, any shape.

    Raises:
        ValueError: the weight has NaN or infinite values.
    """
    if tensor.config is None:
        raise ValueError(f"{tensor.name} stays in float: {tensor.reason}")
    if not np.isfinite(weight).all():
        raise ValueError(f"The weight {tensor.name} must be finite. Received: NaN or infinite values")
    axis = tensor.axis
    values = weight.astype(np.float64)
    rows = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    observed = ObservedValues(rows, None, rows.min(axis=1), rows.max(axis=1))
    return _along(search_params(observed, tensor.config, signed=True), axis)


def activation_params(tensor: TensorPlan, statistics: TensorStatistics) -> QuantParams:
    """The grid of an activation, unsigned where no negative value was seen.

    Args:
        tensor: its entry in the plan.
        statistics: what calibration saw of it.

    Raises:
        ValueError: the calibration data never reached the tensor.
    """
    if tensor.config is None:
        raise ValueError(f"{tensor.name} stays in float: {tensor.reason}")
    if statistics.is_empty:
        raise ValueError(f"The calibration data never reached {tensor.name}, so that it has no range.")
    occupied = statistics.counts > 0
    observed = ObservedValues(
        statistics.bin_centers[np.newaxis, occupied],
        statistics.counts[np.newaxis, occupied],
        np.array([statistics.minimum]),
        np.array([statistics.maximum]),
    )
    return _along(search_params(observed, tensor.config, signed=statistics.minimum < 0), None)


def _along(params: QuantParams, axis: int | None) -> QuantParams:
    return dataclasses.replace(params, axis=axis)

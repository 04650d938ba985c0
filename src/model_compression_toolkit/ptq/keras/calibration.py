# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a captured model on real batches and sets the parameters of its plan."""

import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.common.progress import track
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.keras.capture import Captured
from model_compression_toolkit.core.keras.data import Batch
from model_compression_toolkit.core.keras.module_capture import CapturedModules
from model_compression_toolkit.core.keras.operators import weight_of
from model_compression_toolkit.ptq.common.calibration import activation_params, weight_params
from model_compression_toolkit.ptq.common.statistics import TensorStatistics


def calibrate(
    captured: Captured | CapturedModules, plan: QuantizationPlan, batches: Iterable[Batch], total: int | None = None
) -> QuantizationPlan:
    """The plan with the parameters of every quantized tensor.

    Args:
        captured: the captured float model.
        plan: its plan.
        batches: inputs of the model.
        total: number of batches, for the progress bar.

    Raises:
        ValueError: NaN or infinite values; the text names the tensor.
    """
    statistics = {tensor.name: TensorStatistics() for tensor in plan.quantized(QuantizationTarget.Activation)}
    observed = [tensor for tensor in plan.quantized() if not tensor.is_weight]
    if observed:
        observe = captured.observer([tensor.site for tensor in observed])
        for batch in track(batches, "Calibrating activations", total):
            for tensor, values in zip(observed, observe(batch), strict=True):
                if values.size:
                    _observe(tensor.name, statistics[tensor.name], values)
    params: dict[str, QuantParams] = {}
    for tensor in track(plan.quantized(), "Searching ranges"):
        if tensor.is_weight:
            weight = weight_of(captured.layer(tensor.site.layer), tensor.site.tensor)
            params[tensor.name] = weight_params(tensor, np.asarray(keras.ops.convert_to_numpy(weight), np.float64))
        else:
            params[tensor.name] = activation_params(tensor, statistics[tensor.name])
    return plan.with_params(params)


def _observe(name: str, statistics: TensorStatistics, values: Any) -> None:
    values = np.asarray(values, np.float32).ravel()

    def histogram(low: float, high: float, bins: int) -> npt.NDArray[np.float64]:
        # As `numpy.histogram` with equal bins, in one pass; values at the very ends belong to the last bins.
        positions = (values - np.float64(low)) * (bins / (high - low))
        indices = np.clip(positions.astype(np.int64), 0, bins - 1)
        return np.bincount(indices, minlength=bins).astype(np.float64)

    try:
        statistics.update(float(values.min()), float(values.max()), histogram)
    except ValueError as error:
        layer = re.escape(name.rpartition(".")[0])
        raise ValueError(
            f"Calibration met NaN or infinite values in {name}. {error}. Where they belong there, as in an attention "
            f"mask, leave the tensor in float: Rule(name={layer!r}, quantize=False)"
        ) from error

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a captured model on real batches and sets the parameters of its plan."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.pytorch.native import histogram as native_histogram
from model_compression_toolkit.core.common.progress import track
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.core.pytorch.capture import Captured
from model_compression_toolkit.core.pytorch.data import Batch, call_model, to_float64
from model_compression_toolkit.core.pytorch.graph_arguments import GraphRunner
from model_compression_toolkit.core.pytorch.model_state import scratch_copy
from model_compression_toolkit.core.pytorch.positional_calls import first_value
from model_compression_toolkit.ptq.common.calibration import activation_params, weight_params
from model_compression_toolkit.ptq.common.statistics import TensorStatistics

_NEARLY_FLOAT32_MAX = 1e38


@torch.no_grad()
def calibrate(
    captured: Captured, plan: QuantizationPlan, batches: Iterable[Batch], total: int | None = None
) -> QuantizationPlan:
    """The plan with the parameters of every quantized tensor.

    Args:
        captured: the captured float model, in evaluation mode.
        plan: its plan.
        batches: inputs on the model's device.
        total: number of batches, for the progress bar.

    Raises:
        ValueError: NaN or infinite values, or a tensor that the data never reaches; the text names the tensor.
    """
    statistics = {tensor.name: TensorStatistics() for tensor in plan.quantized(QuantizationTarget.Activation)}
    run = _run_graph if captured.mode is CaptureMode.GRAPH else _run_modules
    run(captured, plan, statistics, track(batches, "Calibrating activations", total))
    params: dict[str, QuantParams] = {}
    for tensor in track(plan.quantized(), "Searching ranges"):
        if tensor.is_weight:
            weight = captured.model.get_submodule(tensor.site.layer).get_parameter(tensor.site.tensor)
            params[tensor.name] = weight_params(tensor, to_float64(weight))
        else:
            params[tensor.name] = activation_params(tensor, statistics[tensor.name])
    return plan.with_params(params)


def _run_graph(
    captured: Captured, plan: QuantizationPlan, statistics: dict[str, TensorStatistics], batches: Iterable[Batch]
) -> None:
    problems: list[str] = []
    observed = {captured.node(tensor.site.layer): tensor.name for tensor in plan.quantized() if not tensor.is_weight}

    class Observer(GraphRunner):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in observed:
                _observe(observed[n], statistics, result, problems)
            return result

    observer = Observer(captured.model)
    for batch in batches:
        observer.run_batch(batch)
        _raise_first(problems)


def _run_modules(
    captured: Captured, plan: QuantizationPlan, statistics: dict[str, TensorStatistics], batches: Iterable[Batch]
) -> None:
    problems: list[str] = []

    def hook_for(name: str) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
        return lambda layer, args, kwargs: _observe(name, statistics, first_value(layer, args, kwargs), problems)

    # What the model keeps on itself stays as it is.
    model = scratch_copy(captured.model)
    handles = [
        model.get_submodule(tensor.site.layer).register_forward_pre_hook(hook_for(tensor.name), with_kwargs=True)
        for tensor in plan.quantized()
        if not tensor.is_weight
    ]
    try:
        for batch in batches:
            call_model(model, batch)
            _raise_first(problems)
    finally:
        for handle in handles:
            handle.remove()


def _observe(name: str, statistics: dict[str, TensorStatistics], value: Tensor, problems: list[str]) -> None:
    if value.numel() == 0:
        # As where a batch selects no rows.
        return
    values = value.detach().float()
    minimum, maximum = native_histogram.extremes(values)

    def histogram(low: float, high: float, bins: int) -> npt.NDArray[np.float64]:
        # The grown ends of the histogram can lie outside float32.
        wide = values.double() if max(-low, high) > _NEARLY_FLOAT32_MAX else values
        # Values at the very ends may lie outside by float32 rounding of the ends; they belong to the last bins.
        return to_float64(native_histogram.histogram(wide, low, high, bins))

    try:
        statistics[name].update(minimum, maximum, histogram)
    except ValueError as error:
        # Raised after the run: torch.fx would add lines of its own to the text.
        layer = re.escape(name.rpartition(".")[0])
        problems.append(
            f"Calibration met NaN or infinite values in {name}. {error}. Where they belong there, as in an attention "
            f"mask, leave the tensor in float: Rule(name={layer!r}, quantize=False)"
        )


def _raise_first(problems: list[str]) -> None:
    if problems:
        raise ValueError(problems[0])

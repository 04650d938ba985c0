# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Holds a .keras file, loaded again, against the frozen model that it was made from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.progress import track
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.core.keras.data import Batch
from model_compression_toolkit.core.keras.layerwise_model import LayerwiseModel
from model_compression_toolkit.core.keras.running import run_model
from model_compression_toolkit.core.keras.surgery import names_of, plan_of, quantizer_of
from model_compression_toolkit.exporter.common.output_comparison import OutputComparison
from model_compression_toolkit.exporter.common.parity import Compared, ParityReport, TensorParity
from model_compression_toolkit.trainable_infrastructure.keras.load_model import keras_load_quantized_model

__all__ = ["compare_keras"]

Array = npt.NDArray[Any]


def compare_keras(model: keras.Model, path: Path, batches: Iterable[Batch]) -> ParityReport:
    """Load a file and compare it with its model: every quantizer, every quantized weight, the outputs of all samples.

    Args:
        model: the frozen model; it is not changed.
        path: the file that was exported from it.
        batches: arrays in the order of the model's inputs.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file does not load, or the model does not take the inputs.
    """
    plan = plan_of(model)
    loaded = keras_load_quantized_model(path, compile=False)
    outputs, num_samples = OutputComparison(), 0
    for batch in track(batches, "Comparing file and model"):
        num_samples += len(batch[0])
        outputs.compare(run_model(loaded, batch), run_model(model, batch), len(batch[0]))
    return ParityReport(
        tensors=tuple(_compare(model, loaded, tensor) for tensor in plan.quantized()),
        num_samples=num_samples,
        file_size=path.stat().st_size,
        weight_bytes=sum(tensor.num_bytes for tensor in plan.quantized(QuantizationTarget.Weights)),
        argmax_agreement=outputs.agreement,
        default_session_argmax_agreement=outputs.agreement,
        max_output_difference=outputs.largest,
        default_session_max_output_difference=outputs.largest,
        replayed_output_difference=outputs.relative,
    )


def _compare(model: keras.Model, loaded: keras.Model, tensor: TensorPlan) -> TensorParity:
    ours, theirs = quantizer_of(model, tensor), quantizer_of(loaded, tensor)
    expected, found = (_values(net, tensor) for net in (model, loaded))
    # NaN is a difference too: no weight of a frozen model is one.
    difference = np.abs(expected - found)
    return TensorParity(
        name=tensor.name,
        target=tensor.site.target,
        num_bits=tensor.config.num_bits if tensor.config is not None else 0,
        num_elements=expected.size,
        num_different=int(np.count_nonzero(~(difference == 0))),
        grid_differs=type(ours) is not type(theirs) or ours.get_config() != theirs.get_config(),
        compared=Compared.VALUES,
        max_difference=float(difference.max(initial=0.0)),
    )


def _values(model: keras.Model, tensor: TensorPlan) -> Array:
    """The quantized weight; of an activation nothing, because its quantizer and the outputs say all."""
    if not tensor.is_weight:
        return np.zeros(0, np.float32)
    if isinstance(model, LayerwiseModel):
        wrapper = model.replaced[tensor.site.layer].layer
    else:
        wrapper = model.get_layer(names_of(model)[tensor.name])
    values: Array = keras.ops.convert_to_numpy(wrapper.get_quantized_weights()[tensor.site.tensor])
    return values

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Holds the integers in a frozen model's file against those of the model."""

from pathlib import Path

import numpy as np
from torch import nn

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import IntArray
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.exporter.common.inspect import read_safetensors_plan
from model_compression_toolkit.exporter.common.parity import ParityReport, TensorParity
from model_compression_toolkit.exporter.pytorch.frozen import frozen_plan, params_of, weight_codes
from model_compression_toolkit.exporter.pytorch.frozen_model import read_codes

__all__ = ["compare_frozen", "compare_weight", "packed_weight_bytes"]


def compare_frozen(model: nn.Module, path: Path) -> ParityReport:
    """Read every weight's integers and grid back from a .safetensors file and compare them with the model's.

    Raises:
        OSError: the file cannot be read.
        ValueError: the model is not frozen, or the file is damaged or not of this model.
    """
    plan, info = read_safetensors_plan(path)
    codes = read_codes(path)
    current = frozen_plan(model)
    tensors = []
    for tensor in current.quantized(QuantizationTarget.Weights):
        if tensor.name not in codes:
            continue
        grid_differs = plan[tensor.name].params != tensor.params
        tensors.append(compare_weight(model, tensor, codes[tensor.name] - aligned_zero_point(tensor), grid_differs))
    return ParityReport(tuple(tensors), 0, info.file_size, packed_weight_bytes(current))


def compare_weight(model: nn.Module, tensor: TensorPlan, centered: IntArray, grid_differs: bool) -> TensorParity:
    """Compare the integers of a weight in a file, less their zero points, with the model's by the NumPy reference."""
    steps = np.abs(weight_codes(model, tensor) - aligned_zero_point(tensor) - centered)
    return TensorParity(
        name=tensor.name,
        target=tensor.site.target,
        num_bits=params_of(tensor).num_bits,
        num_elements=steps.size,
        num_different=int(np.count_nonzero(steps)),
        max_steps=int(steps.max(initial=0)),
        grid_differs=grid_differs,
    )


def aligned_zero_point(tensor: TensorPlan) -> IntArray:
    """The zero point of a quantized weight, shaped to broadcast against it."""
    params = params_of(tensor)
    aligned: IntArray = params.zero_point.reshape(broadcast_shape(len(tensor.site.shape), params.axis))
    return aligned


def packed_weight_bytes(plan: QuantizationPlan) -> int:
    """Bytes of the integers of all quantized weights at their true width."""
    return sum(tensor.num_bytes for tensor in plan.quantized(QuantizationTarget.Weights))

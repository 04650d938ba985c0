# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Holds the weights in a frozen model's file against those of the model."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import IntArray, QuantParams
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.exporter.common.inspect import read_safetensors_plan
from model_compression_toolkit.exporter.common.parity import Compared, ParityReport, TensorParity
from model_compression_toolkit.exporter.pytorch.frozen import (
    frozen_plan,
    own_values,
    params_of,
    quantize_values,
    weight_codes,
)
from model_compression_toolkit.exporter.pytorch.frozen_model import read_codes, read_stored
from model_compression_toolkit.exporter.pytorch.packed_weights import weight_keys

__all__ = ["compare_frozen", "compare_weight", "compared_of", "num_bits_of", "packed_weight_bytes"]

Array = npt.NDArray[Any]


def compare_frozen(model: nn.Module, path: Path) -> ParityReport:
    """Read every weight's integers and grid, or indices and table, back from a .safetensors file and compare them.

    Raises:
        OSError: the file cannot be read.
        ValueError: the model is not frozen, or the file is damaged or not of this model.
    """
    plan, info = read_safetensors_plan(path)
    current = frozen_plan(model)
    codes, keys, stored = read_codes(path), weight_keys(model, current), read_stored(path)
    tensors, not_compared = [], []
    for tensor in current.quantized():
        differs = plan[tensor.name].params != tensor.params
        if not tensor.is_weight:
            not_compared.append(f"{tensor.name}, of which a file without operations holds the grid only")
        elif tensor.name in codes:
            tensors.append(compare_weight(model, tensor, centered(codes[tensor.name], tensor), differs))
        else:
            # In float, because a functional operation reads it too.
            again = quantize_values(stored[keys[tensor.name][0]], params_of(tensor))
            tensors.append(compare_weight(model, tensor, centered(again, tensor), differs))
    return ParityReport(
        tuple(tensors), 0, info.file_size, packed_weight_bytes(current), not_compared=tuple(not_compared)
    )


def compare_weight(model: nn.Module, tensor: TensorPlan, stored: Array, grid_differs: bool) -> TensorParity:
    """Compare a weight in a file with the model's by the NumPy reference.

    Args:
        model: the frozen model.
        tensor: the plan of the weight.
        stored: what the file has, as in `Run.quantized`.
        grid_differs: whether the file has another grid or table.
    """
    if tensor.params is None:
        return _compare_values(model, tensor, stored)
    steps = np.abs(centered(weight_codes(model, tensor), tensor) - stored)
    return TensorParity(
        name=tensor.name,
        target=tensor.site.target,
        num_bits=tensor.params.num_bits,
        num_elements=steps.size,
        num_different=int(np.count_nonzero(steps)),
        max_steps=int(steps.max(initial=0)),
        grid_differs=grid_differs,
        compared=compared_of(tensor),
    )


def compared_of(tensor: TensorPlan) -> Compared:
    """What of a quantized tensor is compared."""
    if tensor.params is None:
        return Compared.VALUES
    return Compared.INTEGERS if isinstance(tensor.params, QuantParams) else Compared.INDICES


def centered(codes: IntArray, tensor: TensorPlan) -> IntArray:
    """Integers of a weight less their zero points; indices as they are."""
    params = tensor.params
    if not isinstance(params, QuantParams):
        return codes
    result: IntArray = codes - params.zero_point.reshape(broadcast_shape(len(tensor.site.shape), params.axis))
    return result


def _compare_values(model: nn.Module, tensor: TensorPlan, stored: Array) -> TensorParity:
    values = own_values(model, tensor).numpy()
    same = (values == stored) | (np.isnan(values) & np.isnan(stored))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(values - stored))
    return TensorParity(
        name=tensor.name,
        target=tensor.site.target,
        num_bits=num_bits_of(tensor),
        num_elements=values.size,
        num_different=int(np.count_nonzero(~same)),
        compared=Compared.VALUES,
        max_difference=float(difference.max(initial=0.0)),
    )


def num_bits_of(tensor: TensorPlan) -> int:
    """Width of a quantized tensor."""
    if tensor.config is None:
        raise ValueError(f"{tensor.name} is not quantized.")
    return tensor.config.num_bits


def packed_weight_bytes(plan: QuantizationPlan) -> int:
    """Bytes of all quantized weights, integers at their true width, what tied weights share once."""
    weights = plan.quantized(QuantizationTarget.Weights)
    return sum(tensor.num_bytes for tensor in weights if not plan.is_stored_with_another(tensor))

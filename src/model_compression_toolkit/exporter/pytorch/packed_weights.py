# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The quantized weights of a frozen model as bytes, and back."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.packing import pack_integers, unpack_integers
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quant_params import IntArray
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.surgery import wrapper_of
from model_compression_toolkit.exporter.common.sorted_table import sorted_table
from model_compression_toolkit.exporter.pytorch.frozen import (
    params_of,
    quantize_values,
    weight_codes,
    weight_from_codes,
    weight_of,
)

__all__ = ["pack_weight", "packable_weights", "unpack_weight", "weight_keys"]


def pack_weight(model: nn.Module, tensor: TensorPlan) -> npt.NDArray[np.uint8]:
    """The integers of a quantized weight, or its indices into the sorted table, as bytes.

    Raises:
        ValueError: NaN in the weight, or a dtype that does not tell the integers apart.
    """
    codes, params = weight_codes(model, tensor), params_of(tensor)
    dtype = weight_of(model, tensor).dtype
    again = quantize_values(weight_from_codes(codes, params, dtype), params)
    if not (again == codes).all():
        raise ValueError(
            f"{tensor.name} has {params.num_bits} bits, which {dtype} does not resolve: call `model.float()` first."
        )
    return pack_integers(codes, params.num_bits)


def unpack_weight(packed: Tensor, tensor: TensorPlan) -> IntArray:
    """The integers that `pack_weight` wrote: int32, shape of the weight.

    Raises:
        ValueError: too few or too many, or integers outside the grid or the table.
    """
    params, shape = params_of(tensor), tensor.site.shape
    if isinstance(params, LookupTable):
        low, high, signed = 0, len(sorted_table(params, len(shape)).levels) - 1, False
    else:
        low, high, signed = params.quant_min, params.quant_max, params.signed
    if packed.dtype != torch.uint8:
        raise ValueError(f"The integers of {tensor.name} must be stored as bytes. Received: {packed.dtype}")
    try:
        flat = unpack_integers(packed.numpy(), params.num_bits, math.prod(shape), signed)
        codes = flat.reshape(shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The integers of {tensor.name} do not fit its shape {shape}: {error}") from error
    if codes.size and not low <= codes.min() <= codes.max() <= high:
        raise ValueError(
            f"The integers of {tensor.name} must be from {low} to {high}. Received: {codes.min()} to {codes.max()}"
        )
    return codes


def packable_weights(model: nn.Module, plan: QuantizationPlan) -> dict[str, list[str]]:
    """The `weight_keys` of every weight whose integers say all."""
    read_elsewhere = {str(node.target) for node in _nodes(model) if node.op == "get_attr"}
    # A functional operation that reads the weight too reads its float values.
    return {
        name: keys
        for name, keys in weight_keys(model, plan).items()
        if read_elsewhere.isdisjoint(keys) and not plan[name].site.read_elsewhere
    }


def weight_keys(model: nn.Module, plan: QuantizationPlan) -> dict[str, list[str]]:
    """Keys in the `state_dict`, one for each name of its layer, of every quantized weight."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    result = {}
    for tensor in plan.quantized(QuantizationTarget.Weights):
        layers = paths[wrapper_of(model, tensor.site.layer)]
        result[tensor.name] = [f"{path}.{tensor.site.tensor}" for path in layers]
    return result


def _nodes(model: nn.Module) -> Iterable[fx.Node]:
    return model.graph.nodes if isinstance(model, fx.GraphModule) else ()

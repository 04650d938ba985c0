# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a plan says once training has ended."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.common.quantization_plan import FrozenParams, QuantizationPlan


def check_in_training(quantizers: Mapping[str, Any]) -> None:
    """At least one of a model's quantizers is in training, and what they have learned is finite.

    Raises:
        ValueError: none is; training has left numbers that are not finite, of the first tensor named.
    """
    if not any(callable(getattr(quantizer, "convert2inferable", None)) for quantizer in quantizers.values()):
        raise ValueError("`model` must be in quantization-aware training. Received: a model that is finalized already")
    for name, quantizer in quantizers.items():
        check = getattr(quantizer, "check_finite", None)
        if callable(check):
            check(name)


def params_of(quantizer: Any) -> FrozenParams | None:
    """The grid or table of an inferable quantizer; None for one of the user's own that has neither."""
    params = getattr(quantizer, "params", None)
    return params if isinstance(params, (QuantParams, LookupTable)) else None


def frozen_plan(plan: QuantizationPlan, inferable: Mapping[str, Any]) -> QuantizationPlan:
    """The plan with what was learned; a quantizer without grid or table is named, and no batch norm is live.

    Args:
        plan: the plan of the training.
        inferable: the inferable quantizer of each quantized tensor, by `layer.tensor`.
    """
    frozen = {name: params_of(quantizer) for name, quantizer in inferable.items()}
    tensors = [
        dataclasses.replace(tensor, reason=f"values of {type(inferable[tensor.name]).__name__}, which has no integers")
        if tensor.name in frozen and frozen[tensor.name] is None
        else tensor
        for tensor in plan.with_params(frozen).tensors
    ]
    return dataclasses.replace(plan, tensors=tuple(tensors), live_batch_norms=())

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a trainable quantizer, from the plan of the tensor that it trains."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.trainable_infrastructure.common.constants import RANGE_MAX, RANGE_MIN, SIGNED, THRESHOLD
from model_compression_toolkit.trainable_infrastructure.common.quant_utils import get_threshold_reshape_shape
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerWeightsConfig,
)

__all__ = [
    "get_trainable_quantizer_activation_config",
    "get_trainable_quantizer_quantization_candidates",
    "get_trainable_quantizer_weights_config",
]


def get_trainable_quantizer_weights_config(
    n: TensorPlan,
    attr_name: str | None = None,
    weights_quantization_candidates: Sequence[TrainableQuantizerCandidateConfig] | None = None,
) -> TrainableQuantizerWeightsConfig:
    """The configuration of a weight's quantizer. Per channel the parameters are shaped to broadcast against the weight.

    Args:
        n: the calibrated plan of the weight.
        attr_name: name of the weight, to check it.
        weights_quantization_candidates: what mixed precision chose among.

    Raises:
        ValueError: the tensor is not quantized, not calibrated, no weight, or another one than `attr_name`.
    """
    config, params = n.calibrated()
    if not n.is_weight or attr_name not in (None, n.site.tensor):
        raise ValueError(f"`n` must be the plan of the weight {attr_name or ''}. Received: {n.name}")
    shape = () if params.axis is None else get_threshold_reshape_shape(n.site.shape, params.axis, params.scale.size)
    return TrainableQuantizerWeightsConfig(
        weights_quantization_method=config.method,
        weights_n_bits=params.num_bits,
        weights_quantization_params=_ends(params, config.method, tuple(shape)),
        enable_weights_quantization=True,
        weights_channels_axis=params.axis,
        weights_per_channel_threshold=params.axis is not None,
        weights_quantization_candidates=weights_quantization_candidates,
        min_threshold=_smallest(params),
    )


def get_trainable_quantizer_activation_config(
    n: TensorPlan, activation_quantization_candidates: Sequence[TrainableQuantizerCandidateConfig] | None = None
) -> TrainableQuantizerActivationConfig:
    """The configuration of an activation's quantizer.

    Args:
        n: the calibrated plan of the activation.
        activation_quantization_candidates: what mixed precision chose among.

    Raises:
        ValueError: the tensor is not quantized, not calibrated, or a weight.
    """
    config, params = n.calibrated()
    if n.is_weight:
        raise ValueError(f"`n` must be the plan of an activation. Received: {n.name}")
    values = {name: float(value) for name, value in _ends(params, config.method, ()).items()}
    signed = {} if config.method is QuantizationMethod.UNIFORM else {SIGNED: params.signed}
    return TrainableQuantizerActivationConfig(
        activation_quantization_method=config.method,
        activation_n_bits=params.num_bits,
        activation_quantization_params={**values, **signed},
        enable_activation_quantization=True,
        activation_quantization_candidates=activation_quantization_candidates,
        min_threshold=_smallest(params),
    )


def get_trainable_quantizer_quantization_candidates(
    n: TensorPlan | Iterable[TensorPlan], attr: str | None = None
) -> tuple[list[TrainableQuantizerCandidateConfig], list[TrainableQuantizerCandidateConfig]]:
    """The quantizations among which mixed precision chooses, those of the weight and those of the activation.

    Args:
        n: the calibrated plan of a tensor, or several: the alternatives for the tensors of one layer.
        attr: name of the weight; other weights do not count.

    Raises:
        ValueError: a tensor is not quantized or not calibrated, or the alternatives of a tensor are on several grids.
    """
    weights: list[TrainableQuantizerCandidateConfig] = []
    activations: list[TrainableQuantizerCandidateConfig] = []
    methods: dict[bool, set[QuantizationMethod]] = {True: set(), False: set()}
    for plan in [n] if isinstance(n, TensorPlan) else n:
        if plan.is_weight and attr not in (None, plan.site.tensor):
            continue
        methods[plan.is_weight].add(plan.calibrated()[0].method)
        if plan.is_weight:
            weight = get_trainable_quantizer_weights_config(plan)
            weights.append(TrainableQuantizerCandidateConfig(weight.weights_n_bits, weight.weights_quantization_params))
        else:
            activation = get_trainable_quantizer_activation_config(plan)
            activations.append(
                TrainableQuantizerCandidateConfig(
                    activation.activation_n_bits, activation.activation_quantization_params
                )
            )
    for found in methods.values():
        if len(found) > 1:
            raise ValueError(
                f"The alternatives of a tensor must be on one grid. Received: {sorted(method.name for method in found)}"
            )
    return weights, activations


def _ends(params: QuantParams, method: QuantizationMethod, shape: tuple[int, ...]) -> dict[str, Any]:
    if method is QuantizationMethod.UNIFORM:
        return {RANGE_MIN: params.min_range.reshape(shape), RANGE_MAX: params.max_range.reshape(shape)}
    return {THRESHOLD: params.threshold.reshape(shape)}


def _smallest(params: QuantParams) -> float:
    # What was calibrated counts, however small it is.
    return float(np.min(np.abs(params.threshold)))

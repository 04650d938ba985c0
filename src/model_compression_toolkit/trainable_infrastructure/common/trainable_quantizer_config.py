# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a trainable quantizer is constructed with: the calibrated quantization of a tensor, in the interface's words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold
from mct_quantizers.common.validation import FloatArray, as_vector
from model_compression_toolkit.trainable_infrastructure.common.constants import (
    MIN_THRESHOLD,
    RANGE_MAX,
    RANGE_MIN,
    SIGNED,
    THRESHOLD,
)

__all__ = [
    "NodeActivationQuantizationConfig",
    "NodeWeightsQuantizationConfig",
    "TrainableQuantizerActivationConfig",
    "TrainableQuantizerCandidateConfig",
    "TrainableQuantizerWeightsConfig",
    "initial_params",
    "method_of",
]


class TrainableQuantizerCandidateConfig:
    """One of the quantizations among which mixed precision chooses.

    Args:
        n_bits: width of the integer.
        quantization_params: thresholds or ranges, as in `TrainableQuantizerWeightsConfig`.
    """

    def __init__(self, n_bits: int, quantization_params: Mapping[str, Any]) -> None:
        self.n_bits = n_bits
        self.quantization_params = quantization_params


class TrainableQuantizerActivationConfig:
    """The quantization of an activation. Attributes as given; the quantizer that gets it checks them.

    Args:
        activation_quantization_method: the grid.
        activation_n_bits: width of the integer.
        activation_quantization_params: `{"threshold": number, "is_signed": bool}`, or `{"range_min": number,
            "range_max": number}` for uniform grids.
        enable_activation_quantization: whether the tensor is quantized.
        min_threshold: the smallest threshold.
        activation_quantization_candidates: kept as `activation_bits_candidates`.
    """

    def __init__(
        self,
        activation_quantization_method: QuantizationMethod,
        activation_n_bits: int,
        activation_quantization_params: Mapping[str, Any],
        enable_activation_quantization: bool = True,
        min_threshold: float = MIN_THRESHOLD,
        activation_quantization_candidates: Sequence[TrainableQuantizerCandidateConfig] | None = None,
    ) -> None:
        self.activation_quantization_method = activation_quantization_method
        self.activation_n_bits = activation_n_bits
        self.activation_quantization_params = activation_quantization_params
        self.enable_activation_quantization = enable_activation_quantization
        self.min_threshold = min_threshold
        self.activation_bits_candidates = activation_quantization_candidates


class TrainableQuantizerWeightsConfig:
    """The quantization of a weight. Attributes as given; the quantizer that gets it checks them.

    Args:
        weights_quantization_method: the grid.
        weights_n_bits: width of the integer.
        weights_quantization_params: `{"threshold": array}`, or `{"range_min": array, "range_max": array}` for uniform
            grids; arrays of any shape with one number for each channel, or numbers per tensor.
        enable_weights_quantization: whether the tensor is quantized.
        weights_channels_axis: axis of the channels; of several the first counts.
        weights_per_channel_threshold: whether each channel has parameters of its own.
        min_threshold: the smallest threshold.
        weights_quantization_candidates: kept as `weights_bits_candidates`.
    """

    def __init__(
        self,
        weights_quantization_method: QuantizationMethod,
        weights_n_bits: int,
        weights_quantization_params: Mapping[str, Any],
        enable_weights_quantization: bool = True,
        weights_channels_axis: int | Sequence[int] | None = None,
        weights_per_channel_threshold: bool = False,
        min_threshold: float = MIN_THRESHOLD,
        weights_quantization_candidates: Sequence[TrainableQuantizerCandidateConfig] | None = None,
    ) -> None:
        self.weights_quantization_method = weights_quantization_method
        self.weights_n_bits = weights_n_bits
        self.weights_quantization_params = weights_quantization_params
        self.enable_weights_quantization = enable_weights_quantization
        self.weights_channels_axis = weights_channels_axis
        self.weights_per_channel_threshold = weights_per_channel_threshold
        self.min_threshold = min_threshold
        self.weights_bits_candidates = weights_quantization_candidates


NodeActivationQuantizationConfig = TrainableQuantizerActivationConfig
"""The older name: the same class, so that quantizers of either form take the configurations of both."""
NodeWeightsQuantizationConfig = TrainableQuantizerWeightsConfig
"""The older name, likewise."""

TrainableQuantizerConfig = TrainableQuantizerWeightsConfig | TrainableQuantizerActivationConfig


def method_of(config: TrainableQuantizerConfig) -> QuantizationMethod:
    """The grid that a configuration names."""
    if isinstance(config, TrainableQuantizerWeightsConfig):
        return config.weights_quantization_method
    return config.activation_quantization_method


def initial_params(config: TrainableQuantizerConfig) -> QuantParams:
    """The calibrated grid that a configuration describes.

    A threshold below `min_threshold` becomes that; on power-of-two grids a threshold is rounded up.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a parameter is missing, or a value out of bounds.
    """
    if isinstance(config, TrainableQuantizerWeightsConfig):
        values, num_bits = config.weights_quantization_params, config.weights_n_bits
        axis, signed = _axis(config), True
    else:
        values, num_bits = config.activation_quantization_params, config.activation_n_bits
        axis, signed = None, values.get(SIGNED, True)
    method = method_of(config)
    if method is QuantizationMethod.UNIFORM:
        low, high = _vector(values, RANGE_MIN), _vector(values, RANGE_MAX)
        return from_range(low, high, num_bits, axis=axis)
    threshold = np.maximum(_vector(values, THRESHOLD), config.min_threshold)
    if method is QuantizationMethod.POWER_OF_TWO:
        threshold = 2.0 ** np.ceil(np.log2(threshold))
    return from_threshold(threshold, num_bits, signed, axis=axis)


def _axis(config: TrainableQuantizerWeightsConfig) -> int | None:
    if not config.weights_per_channel_threshold:
        return None
    axis = config.weights_channels_axis
    if axis is None:
        raise ValueError("`weights_channels_axis` must be an axis when each channel has parameters of its own.")
    return axis[0] if isinstance(axis, Sequence) else axis


def _vector(values: Mapping[str, Any], name: str) -> FloatArray:
    if name not in values:
        raise ValueError(f"The quantization parameters must have {name!r}. Received: {dict(values)!r}")
    return as_vector(name, values[name])

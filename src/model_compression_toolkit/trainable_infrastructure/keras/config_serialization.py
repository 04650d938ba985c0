# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The configurations of trainable quantizers as plain values that Keras saves, and back."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from mct_quantizers.common.quant_info import QuantizationMethod
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerCandidateConfig,
    TrainableQuantizerConfig,
    TrainableQuantizerWeightsConfig,
)

__all__ = ["config_deserialization", "config_serialization", "transform_enum"]

IS_WEIGHTS = "is_weights"
IS_ACTIVATIONS = "is_activations"
_FORMS = {
    "weights": (TrainableQuantizerWeightsConfig, IS_WEIGHTS),
    "activation": (TrainableQuantizerActivationConfig, IS_ACTIVATIONS),
}


def transform_enum(value: Any) -> Any:
    """The value of a member of an enumeration; every other value itself."""
    return value.value if isinstance(value, Enum) else value


def config_serialization(quantization_config: TrainableQuantizerConfig) -> dict[str, Any]:
    """Attributes of a configuration, enumerations by value, arrays as lists, and which of the two classes it is.

    Raises:
        TypeError: no configuration of a trainable quantizer.
    """
    if not isinstance(quantization_config, (TrainableQuantizerWeightsConfig, TrainableQuantizerActivationConfig)):
        raise TypeError(
            "`quantization_config` must be a configuration of a trainable quantizer. "
            f"Received: {type(quantization_config).__name__}"
        )
    return {
        **{name: _plain(value) for name, value in vars(quantization_config).items()},
        IS_WEIGHTS: isinstance(quantization_config, TrainableQuantizerWeightsConfig),
        IS_ACTIVATIONS: isinstance(quantization_config, TrainableQuantizerActivationConfig),
    }


def config_deserialization(in_config: Mapping[str, Any]) -> TrainableQuantizerConfig:
    """The configuration that `config_serialization` wrote; the parameters of weights are arrays again.

    Raises:
        TypeError: it says of neither class that it is of it.
    """
    for prefix, (cls, flag) in _FORMS.items():
        if in_config.get(flag):
            config: TrainableQuantizerConfig = object.__new__(cls)
            values = {name: value for name, value in in_config.items() if name not in (IS_WEIGHTS, IS_ACTIVATIONS)}
            parameters, candidates = f"{prefix}_quantization_params", f"{prefix}_bits_candidates"
            values[f"{prefix}_quantization_method"] = QuantizationMethod(values[f"{prefix}_quantization_method"])
            values[parameters] = _restored(values[parameters], is_array=cls is TrainableQuantizerWeightsConfig)
            if values.get(candidates) is not None:
                values[candidates] = [
                    TrainableQuantizerCandidateConfig(
                        item["n_bits"],
                        _restored(item["quantization_params"], is_array=cls is TrainableQuantizerWeightsConfig),
                    )
                    for item in values[candidates]
                ]
            vars(config).update(values)
            return config
    raise TypeError(
        f"Expected a configuration with {IS_WEIGHTS!r} or {IS_ACTIVATIONS!r} set. Received: {dict(in_config)!r}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, TrainableQuantizerCandidateConfig):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return transform_enum(value)


def _restored(parameters: Mapping[str, Any], is_array: bool) -> dict[str, Any]:
    def restored(value: Any) -> Any:
        # The form in which Keras writes an array by itself.
        if isinstance(value, Mapping):
            value = value["config"]["value"]
        return np.array(value) if is_array else value

    return {name: restored(value) for name, value in parameters.items()}

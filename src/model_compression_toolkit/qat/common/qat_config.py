# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How a model is trained with quantization in the loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod

__all__ = ["QATConfig", "TrainingMethod", "is_qat_applicable"]


@dataclass(frozen=True, slots=True)
class QATConfig:
    """How a model is trained with quantization in the loop.

    Attributes:
        weight_training_method: name of the method that trains weight quantizers, or a member of an enumeration of your
            own, with which quantizer classes are marked.
        activation_training_method: the same for activation quantizers.
        weight_quantizer_params_override: keyword arguments for the constructors of weight quantizers: settings of the
            method, such as `{"steps": 500}`.
        activation_quantizer_params_override: the same for activation quantizers.

    Raises:
        TypeError: an override that is no dictionary with names as keys.
        ValueError: an unknown training method; the text lists those that exist.
    """

    weight_training_method: Any = "STE"
    activation_training_method: Any = "STE"
    weight_quantizer_params_override: dict[str, Any] | None = None
    activation_quantizer_params_override: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("weight_training_method", "activation_training_method"):
            method = getattr(self, name)
            if not isinstance(method, Enum):
                object.__setattr__(self, name, TrainingMethod(method))
        for name in ("weight_quantizer_params_override", "activation_quantizer_params_override"):
            override = getattr(self, name)
            if override is not None and (
                not isinstance(override, Mapping) or not all(isinstance(key, str) for key in override)
            ):
                raise TypeError(f"`{name}` must be a dictionary with names as keys. Received: {override!r}")
            object.__setattr__(self, name, dict(override or {}))


def is_qat_applicable(node: TensorPlan) -> bool:
    """Whether a tensor is trained with quantization: whether its plan quantizes it."""
    return node.config is not None


MODERN_METHODS = QATConfig(weight_training_method="LSQ", activation_training_method="LSQ")
"""What trains where nothing is asked for."""

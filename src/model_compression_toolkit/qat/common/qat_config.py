# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How a model is trained with quantization in the loop."""

from dataclasses import dataclass
from typing import Any

from model_compression_toolkit.core.common.interface import refuse_unsupported
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod

__all__ = ["QATConfig", "TrainingMethod"]


@dataclass(frozen=True, slots=True)
class QATConfig:
    """How a model is trained with quantization in the loop.

    Attributes:
        weight_training_method: name of the method that trains weight quantizers.
        activation_training_method: name of the method that trains activation quantizers.
        weight_quantizer_params_override: not supported yet; must be None or empty.
        activation_quantizer_params_override: not supported yet; must be None or empty.

    Raises:
        ValueError: an unknown training method; the text lists those that exist.
        NotImplementedError: an override is given.
    """

    weight_training_method: str = "STE"
    activation_training_method: str = "STE"
    weight_quantizer_params_override: dict[str, Any] | None = None
    activation_quantizer_params_override: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("weight_training_method", "activation_training_method"):
            object.__setattr__(self, name, TrainingMethod(getattr(self, name)))
        for name in ("weight_quantizer_params_override", "activation_quantizer_params_override"):
            refuse_unsupported(**{name: getattr(self, name) or None})
            object.__setattr__(self, name, {})

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How a model is trained with quantization in the loop."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod

__all__ = [
    "DEFAULT_METHOD",
    "INTERFACE_METHOD",
    "QATConfig",
    "TrainingMethod",
    "completed",
    "is_qat_applicable",
    "with_methods",
]

DEFAULT_METHOD = "LSQ"
"""What `prepare_qat` trains by where nothing is asked for."""
INTERFACE_METHOD = "STE"
"""What the functions of the interface train by where nothing is asked for."""


@dataclass(frozen=True, slots=True)
class QATConfig:
    """How a model is trained with quantization in the loop.

    A method that is left out is None, and is chosen by the function to which the configuration is given: `prepare_qat`
    takes LSQ, `…_quantization_aware_training_init_experimental` and `quantization_builder` take STE, whether they are
    given a configuration or none. The plan of the prepared model names the method of each tensor.

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

    weight_training_method: Any = None
    activation_training_method: Any = None
    weight_quantizer_params_override: dict[str, Any] | None = None
    activation_quantizer_params_override: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("weight_training_method", "activation_training_method"):
            method = getattr(self, name)
            if method is not None and not isinstance(method, Enum):
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


def completed(qat_config: QATConfig | None, method: str) -> QATConfig:
    """The configuration with `method` where none is asked for.

    Raises:
        TypeError: something else than a configuration.
    """
    if qat_config is None:
        qat_config = QATConfig()
    if not isinstance(qat_config, QATConfig):
        raise TypeError(f"`qat_config` must be a QATConfig. Received: {type(qat_config).__name__}")
    names = ("weight_training_method", "activation_training_method")
    left_out: dict[str, Any] = {name: method for name in names if getattr(qat_config, name) is None}
    return dataclasses.replace(qat_config, **left_out)


def with_methods(plan: QuantizationPlan, methods: QATConfig) -> QuantizationPlan:
    """The plan with the name of the method that trains each quantized tensor.

    Args:
        plan: a plan.
        methods: a configuration that is completed.
    """
    weights, activations = (
        method.name if isinstance(method, Enum) else str(method)
        for method in (methods.weight_training_method, methods.activation_training_method)
    )
    tensors = (
        dataclasses.replace(tensor, training_method=weights if tensor.is_weight else activations)
        if is_qat_applicable(tensor)
        else tensor
        for tensor in plan.tensors
    )
    return dataclasses.replace(plan, tensors=tuple(tensors))

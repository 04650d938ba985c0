# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The quantizer classes of all training methods, made when they are asked for: adding a method is one file."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mct_quantizers.common.base_inferable_quantizer import mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerConfig,
    TrainableQuantizerWeightsConfig,
    method_of,
)
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    Method,
    method_class,
    registered_names,
    settings_of,
)

__all__ = ["MethodClasses"]

_SYMMETRIC = (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC)
_UNIFORM = (QuantizationMethod.UNIFORM,)
_NAMES = {
    (QuantizationTarget.Weights, _SYMMETRIC): "{}WeightQATQuantizer",
    (QuantizationTarget.Weights, _UNIFORM): "{}UniformWeightQATQuantizer",
    (QuantizationTarget.Activation, _SYMMETRIC): "{}SymmetricActivationTrainableQuantizer",
    (QuantizationTarget.Activation, _UNIFORM): "{}UniformActivationTrainableQuantizer",
}
_CONFIG_OF = {
    QuantizationTarget.Weights: TrainableQuantizerWeightsConfig,
    QuantizationTarget.Activation: TrainableQuantizerActivationConfig,
}


class MethodClasses:
    """The classes of one framework. Each is put into the namespace of a module, where pickle finds it.

    Args:
        namespace: `globals()` of the module.
        bases: what the classes for weights and those for activations derive from.
        finish: called with each new class, such as to register it for saving.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        bases: Mapping[QuantizationTarget, tuple[type, ...]],
        finish: Callable[[type], Any] = lambda cls: cls,
    ) -> None:
        self._namespace, self._bases, self._finish = namespace, bases, finish
        self._made: dict[tuple[type[Method], str], type] = {}

    def make_all(self) -> None:
        """Make the classes of all methods that are registered now."""
        self.made()

    def made(self) -> list[Any]:
        """The classes of all methods that are registered now."""
        return [
            cls
            for method in map(method_class, registered_names())
            for target, grids in _NAMES
            if (cls := self._class(method, target, grids)) is not None
        ]

    def of(self, training_method: str, target: QuantizationTarget, grid: QuantizationMethod) -> Any:
        """The class for a method, a target and a grid.

        Raises:
            ValueError: no such method, or it does not train that.
        """
        method = method_class(training_method)
        # Says what it trains.
        method(grid, target)
        return self._class(method, target, _UNIFORM if grid in _UNIFORM else _SYMMETRIC)

    def quantizer(self, training_method: str, quantization_config: TrainableQuantizerConfig, **settings: Any) -> Any:
        """The quantizer that a method trains, for a configuration.

        Args:
            training_method: name of the method.
            quantization_config: of a weight or of an activation.
            **settings: `freeze_quant_params`, and settings of the method.

        Raises:
            TypeError: no configuration, or a setting that the method does not have.
            ValueError: no such method, or it does not train that; a setting out of bounds.
        """
        for target, config_class in _CONFIG_OF.items():
            if isinstance(quantization_config, config_class):
                cls = self.of(training_method, target, method_of(quantization_config))
                return cls(quantization_config, **settings)
        raise TypeError(
            "`quantization_config` must be a TrainableQuantizerWeightsConfig or a TrainableQuantizerActivationConfig. "
            f"Received: {type(quantization_config).__name__}"
        )

    def find(self, name: str) -> Any:
        """The class of that name: the `__getattr__` of the module.

        Raises:
            AttributeError: there is none.
        """
        if not name.startswith("_"):
            self.make_all()
        if name not in self._namespace:
            raise AttributeError(f"module {self._namespace['__name__']!r} has no attribute {name!r}")
        return self._namespace[name]

    def _class(
        self, method: type[Method], target: QuantizationTarget, grids: tuple[QuantizationMethod, ...]
    ) -> type | None:
        served = [grid for grid in grids if grid in method.supports]
        if not served or target not in method.targets:
            return None
        name = _NAMES[target, grids].format(method.name)
        if (method, name) not in self._made:
            body = {
                "__module__": self._namespace["__name__"],
                "__qualname__": name,
                "__doc__": method.__doc__,
                "__signature__": _signature(method, target),
                "training_method": method,
            }
            cls = type(name, self._bases[target], body)
            mark_quantizer(target, served, TrainingMethod(method.name))(cls)
            self._finish(cls)
            self._made[method, name] = self._namespace[name] = cls
        return self._made[method, name]


def _signature(method: type[Method], target: QuantizationTarget) -> inspect.Signature:
    """Of the constructor: the configuration, then the settings of the method and its base classes by keyword."""
    parameter = inspect.Parameter
    keyword = parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            parameter("quantization_config", keyword, annotation=_CONFIG_OF[target]),
            parameter("freeze_quant_params", keyword, default=False, annotation=bool),
            *settings_of(method).values(),
        ]
    )

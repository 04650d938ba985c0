# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`BaseTrainableQuantizer`: what every quantizer that trains has, in each form that the interface knows."""

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, NoReturn

from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.grid_state import GridDescription
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerConfig,
    TrainableQuantizerWeightsConfig,
    initial_params,
    method_of,
)

__all__ = ["GROUP", "VAR", "BaseTrainableQuantizer", "VariableGroup"]

VAR = "var"
GROUP = "group"

_CONFIG_OF = {
    QuantizationTarget.Weights: TrainableQuantizerWeightsConfig,
    QuantizationTarget.Activation: TrainableQuantizerActivationConfig,
}


class VariableGroup(Enum):
    """What a variable of a quantizer is to an optimizer."""

    WEIGHTS = 0
    """A variable that is trained with the weights of the network, such as a rounding offset."""
    QPARAMS = 1
    """A parameter of the quantization: a scale, threshold or range."""


class BaseTrainableQuantizer(BaseInferableQuantizer, ABC):
    """Base of the quantizers in training.

    Two forms say what a class quantizes:

    - `@mark_quantizer(quantization_target=…, quantization_method=[…], identifier=…)` on the class, then
      `super().__init__(quantization_config)`, with `freeze_quant_params` behind it or not;
    - `super().__init__(quantization_config, QuantizationTarget.…, [QuantizationMethod.…])` in the constructor.

    A subclass defines `__call__(inputs)`, with an argument `training` if it wants to know, and `convert2inferable`. A
    quantizer with variables also defines `initialize_quantization`, in which it creates them on the layer and puts them
    into `quantizer_parameters`, by itself or with `add_quantizer_variable`.

    Args:
        quantization_config: what is to be quantized.
        freeze_quant_params: whether the parameters of the quantization stay as calibrated; or the target, see above.
        quantization_method: with a target, the grids that the class serves.

    Raises:
        TypeError: the subclass has no `__call__`; its constructor's first argument is not annotated with a
            configuration class; a further one has no default; the configuration is of the other target; a class without
            marks.
        ValueError: the configuration names a grid that the class does not serve.
    """

    quantization_target: Any = None
    quantization_method: Any = None
    identifier: Any = None

    def __init__(
        self,
        quantization_config: TrainableQuantizerConfig,
        freeze_quant_params: bool | QuantizationTarget = False,
        quantization_method: Sequence[QuantizationMethod] | None = None,
    ) -> None:
        super().__init__()
        self._check_signature()
        if isinstance(freeze_quant_params, QuantizationTarget):
            self.quantization_target = freeze_quant_params
            self.quantization_method = None if quantization_method is None else list(quantization_method)
            freeze_quant_params = False
        elif not isinstance(freeze_quant_params, bool) or quantization_method is not None:
            raise TypeError(
                f"{type(self).__name__}: after `quantization_config` comes True or False (`freeze_quant_params`), or a "
                f"QuantizationTarget and a list of QuantizationMethod. Received: {freeze_quant_params!r}, "
                f"{quantization_method!r}"
            )
        self.quantization_config = quantization_config
        self.freeze_quant_params = freeze_quant_params
        self.quantizer_parameters: dict[str, Any] = {}
        self._check_marks()
        if self.quantization_target is QuantizationTarget.Weights:
            self.validate_weights()
        else:
            self.validate_activation()
        self._keep_grid()

    @classmethod
    def get_sig(cls) -> inspect.Signature:
        """Signature of the constructor."""
        return inspect.signature(cls)

    def initialize_quantization(
        self, tensor_shape: Sequence[int] | None, name: str | None, layer: Any
    ) -> dict[str, Any]:
        """Create variables on the layer that carries the quantizer. Without variables there is nothing to define.

        Args:
            tensor_shape: shape of a weight; of an activation the shape of the input where it is known, else None.
            name: prefix for the names of the variables.
            layer: the wrapper or holder.

        Returns:
            The variables by their names.
        """
        del tensor_shape, name, layer
        return self.quantizer_parameters

    @abstractmethod
    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Quantized values of `inputs`, differentiable: same shape and dtype.

        Args:
            inputs: the tensor to quantize.
            *args: `training`, if the subclass takes it.
            **kwargs: `training`, if the subclass takes it.
        """

    def convert2inferable(self) -> Any:
        """The quantizer that runs after training, with what was learned.

        Raises:
            NotImplementedError: the class does not say which.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define `convert2inferable`, which returns the inferable quantizer with what "
            "was learned."
        )

    def add_quantizer_variable(self, name: str, variable: Any, group: VariableGroup = VariableGroup.WEIGHTS) -> None:
        """Keep a variable; one of the same name is replaced.

        Args:
            name: its name in `quantizer_parameters`.
            variable: parameter, buffer or variable of the framework.
            group: what it is to an optimizer.
        """
        self.quantizer_parameters[name] = {VAR: variable, GROUP: group}

    def get_quantizer_variable(self, name: str) -> Any:
        """The variable `name`.

        Raises:
            ValueError: there is none; the text lists those that exist.
        """
        if name not in self.quantizer_parameters:
            raise ValueError(
                f"`name` must be one of {sorted(self.quantizer_parameters)}, the variables of {type(self).__name__}. "
                f"Received: name={name!r}"
            )
        return _variable_and_group(self.quantizer_parameters[name])[0]

    def get_trainable_variables(self, group: VariableGroup) -> list[Any]:
        """The variables of a group that get a gradient.

        A variable that stands in `quantizer_parameters` by itself, without a group, is of `QPARAMS`.

        Raises:
            ValueError: `freeze_quant_params` is set and there are such of `QPARAMS`.
        """
        entries = map(_variable_and_group, self.quantizer_parameters.values())
        found = [variable for variable, own in entries if own is group and self._is_trainable(variable)]
        if found and group is VariableGroup.QPARAMS and self.freeze_quant_params:
            raise ValueError(
                f"`freeze_quant_params` is set, but {type(self).__name__} has trainable quantization parameters: "
                f"{sorted(self.quantizer_parameters)}. Create them without gradient."
            )
        return found

    def activation_quantization(self) -> bool:
        """Whether the configuration is that of an activation."""
        return isinstance(self.quantization_config, TrainableQuantizerActivationConfig)

    def weights_quantization(self) -> bool:
        """Whether the configuration is that of a weight."""
        return isinstance(self.quantization_config, TrainableQuantizerWeightsConfig)

    def validate_weights(self) -> None:
        """The configuration is one of a weight, on a grid that the class serves.

        Raises:
            TypeError: it is one of an activation.
            ValueError: another grid.
        """
        self._check_config(self.weights_quantization(), "TrainableQuantizerWeightsConfig")

    def validate_activation(self) -> None:
        """The configuration is one of an activation, on a grid that the class serves.

        Raises:
            TypeError: it is one of a weight.
            ValueError: another grid.
        """
        self._check_config(self.activation_quantization(), "TrainableQuantizerActivationConfig")

    def grid_description(self) -> GridDescription | None:
        """Of which grid the state of the quantizer is; None where the configuration describes none."""
        try:
            params = initial_params(self.quantization_config)
        except (TypeError, ValueError):
            # A class of the user's own may be configured with anything.
            return None
        return GridDescription.of_params(
            params, method_of(self.quantization_config), type(self).__name__, self.freeze_quant_params
        )

    def _keep_grid(self) -> None:
        """Have `grid_description` where the state of the quantizer is saved; a wing says how."""

    def _is_trainable(self, variable: Any) -> bool:
        raise NotImplementedError

    def _check_config(self, has_target: bool, expected: str) -> None:
        if not has_target:
            self._refuse(f"quantizes {self.quantization_target.value}: `quantization_config` must be a {expected}. "
                         f"Received: {type(self.quantization_config).__name__}")  # fmt: skip
        method = method_of(self.quantization_config)
        if method not in self.quantization_method:
            raise ValueError(
                f"{type(self).__name__} serves {[item.name for item in self.quantization_method]}. "
                f"Received: a configuration for {getattr(method, 'name', method)}"
            )

    def _check_marks(self) -> None:
        target, methods = self.quantization_target, self.quantization_method
        if target is None or methods is None:
            self._refuse(
                "must be decorated with @mark_quantizer(quantization_target=…, quantization_method=[…], identifier=…), "
                "or give a QuantizationTarget and a list of QuantizationMethod to super().__init__."
            )
        if not isinstance(target, QuantizationTarget):
            self._refuse(f"must have a QuantizationTarget as `quantization_target`. Received: {target!r}")
        if not isinstance(methods, (list, tuple)) or not all(isinstance(item, QuantizationMethod) for item in methods):
            self._refuse(f"must have a list of QuantizationMethod as `quantization_method`. Received: {methods!r}")

    def _check_signature(self) -> None:
        cls = type(self)
        parameters = list(self.get_sig().parameters.values())
        if not parameters or _annotation(cls, parameters[0]) not in _CONFIG_OF.values():
            self._refuse(
                "must annotate the first argument of its constructor with TrainableQuantizerWeightsConfig or "
                f"TrainableQuantizerActivationConfig. Received: {parameters[:1]}"
            )
        lacking = [item.name for item in parameters[1:] if item.default is inspect.Parameter.empty]
        if lacking:
            self._refuse(
                "must give every argument of its constructor after the first a default, because saved models are "
                f"loaded with the configuration alone. Received: no default for {lacking}"
            )

    def _refuse(self, text: str) -> NoReturn:
        raise TypeError(f"{type(self).__name__} {text}")


def _annotation(cls: type, parameter: inspect.Parameter) -> Any:
    """The annotation as an object, whatever form it has; a name that cannot be resolved counts by its last word."""
    annotation = parameter.annotation
    if not isinstance(annotation, str):
        return annotation
    try:
        return typing.get_type_hints(cls.__init__).get(parameter.name)  # type: ignore[misc]  # of the class itself
    except Exception:  # evaluating a text may raise anything: a name imported for type checkers alone, to begin with
        word = annotation.strip("'\" ").rpartition(".")[2]
        return {
            name: config
            for config in _CONFIG_OF.values()
            for name in (
                config.__name__,
                config.__name__.replace("TrainableQuantizer", "Node").replace("Config", "QuantizationConfig"),
            )
        }.get(word)


def _variable_and_group(entry: Any) -> tuple[Any, VariableGroup]:
    if isinstance(entry, dict) and VAR in entry:
        return entry[VAR], entry.get(GROUP, VariableGroup.WEIGHTS)
    return entry, VariableGroup.QPARAMS

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Bases of the PyTorch quantizers in training."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from mct_quantizers.pytorch.grid_state import GridStateModule
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import (
    GROUP,
    VAR,
    BaseTrainableQuantizer,
)

__all__ = [
    "BasePytorchActivationTrainableQuantizer",
    "BasePytorchQATWeightTrainableQuantizer",
    "BasePytorchTrainableQuantizer",
]


class BasePytorchTrainableQuantizer(BaseTrainableQuantizer, GridStateModule):
    """Base of the PyTorch quantizers in training; see `BaseTrainableQuantizer` for its arguments and errors.

    It is a module, so that parameters and buffers of its own are in the `state_dict` of the wrapper or holder, follow
    `.to()` and stay float32 under `.half()`. Parameters may as well be registered on the layer that
    `initialize_quantization` gets. In either case `quantizer_parameters` gives those that stand there now: sharding and
    `torch.func.functional_call` put others in their place.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "initialize_quantization" in vars(cls):
            cls.initialize_quantization = _remembering_places(  # type: ignore[method-assign]
                vars(cls)["initialize_quantization"]
            )

    @property
    def quantizer_parameters(self) -> dict[str, Any]:
        """The variables by their names, each by itself or as `{"var": variable, "group": VariableGroup}`."""
        kept: dict[str, Any] = self.__dict__["_kept_parameters"]
        for key, owner, attribute in self.__dict__.get("_places", ()):
            entry, current = kept.get(key), getattr(owner, attribute, None)
            if isinstance(entry, dict) and entry.get(VAR) is not current:
                kept[key] = {VAR: current, GROUP: entry.get(GROUP)}
            elif entry is not None and not isinstance(entry, dict) and entry is not current:
                kept[key] = current
        return kept

    @quantizer_parameters.setter
    def quantizer_parameters(self, parameters: dict[str, Any]) -> None:
        self.__dict__["_kept_parameters"] = parameters
        self.__dict__["_places"] = []

    def _keep_grid(self) -> None:
        description = self.grid_description()
        if description is not None:
            self._set_grid(description)

    def _is_trainable(self, variable: Any) -> bool:
        return bool(variable.requires_grad)

    def _remember_places(self, layer: Any) -> None:
        """Note where the variables are registered: on `layer` or on the quantizer itself."""
        self.__dict__["_places"] = [
            (key, owner, attribute)
            for key, entry in self.quantizer_parameters.items()
            for owner in (layer, self)
            if isinstance(owner, nn.Module)
            for attribute, tensor in {**owner._parameters, **owner._buffers}.items()
            if tensor is not None and tensor is (entry[VAR] if isinstance(entry, dict) else entry)
        ]


class BasePytorchActivationTrainableQuantizer(BasePytorchTrainableQuantizer):
    """Base of the PyTorch quantizers that train with an activation: a flow that looks for one looks here."""


class BasePytorchQATWeightTrainableQuantizer(BasePytorchTrainableQuantizer):
    """Base of the PyTorch quantizers that train with a weight: quantization-aware training looks here."""


def _remembering_places(initialize: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(initialize)
    def wrapped(
        self: BasePytorchTrainableQuantizer, tensor_shape: Sequence[int] | None, name: str | None, layer: Any
    ) -> dict[str, Tensor]:
        result: dict[str, Tensor] = initialize(self, tensor_shape, name, layer)
        self._remember_places(layer)
        return result

    return wrapped

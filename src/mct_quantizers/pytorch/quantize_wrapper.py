# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The layer that quantizes the weights of the layer it wraps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from mct_quantizers.common.constants import LAYER
from mct_quantizers.common.quantizer_dispatch import frozen_weight_of, inferable_of, takes_training
from mct_quantizers.common.weight_cache import WeightCache
from mct_quantizers.common.wrapped_weights import (
    WeightKey,
    check_has_quantize,
    check_replacement,
    check_wrapped_weights,
    parameter_name,
    with_positional_weights,
)
from mct_quantizers.pytorch import ops
from mct_quantizers.pytorch.attribute_forwarding import ForwardsAttributes
from mct_quantizers.pytorch.dense_gradient import with_dense_gradient
from mct_quantizers.pytorch.fast_paths import refuse_fast_paths
from mct_quantizers.pytorch.grid_state import learned_buffers
from mct_quantizers.pytorch.parameter_creation import CreatesParameters
from mct_quantizers.pytorch.quantizers.base import BasePyTorchInferableQuantizer
from mct_quantizers.pytorch.recomputation import recomputing


class PytorchQuantizationWrapper(CreatesParameters, ForwardsAttributes):
    """Runs `module` with quantized weights; the float weights become parameters of the wrapper.

    A weight is named either by its attribute (`"weight"`) or, for a function, by its position among the call's
    arguments. The attribute stands on the wrapped layer only while the layer runs: outside a call read `wrapper.weight`
    (float) or `wrapper.get_quantized_weights()`. That keeps `copy.deepcopy`, pickle and `torch.compile` working after a
    forward pass, and the `state_dict` free of copies: `weight`, `layer.bias`, `weight_quantizer.scale`, ….

    The gradient to the float weight is dense, also for layers with sparse ones (`nn.Embedding(sparse=True)`).

    In evaluation mode the values of inferable quantizers are computed once and kept until the weight, the quantizer or
    the mode changes. On the CPU every change of the weight is seen; on other devices one that goes around autograd
    (in place, through `.data`) is seen from the next `train()` or `eval()`.

    Args:
        module: an `nn.Module`, or a function when weights are positional.
        weights_quantizers: quantizer of each weight, by attribute name or by position.
        weight_values: value of each positional weight.
        op_call_args: arguments that follow the inputs at every call.
        op_call_kwargs: keyword arguments of every call; those given at call time win.
        is_inputs_as_list: whether the inputs go to the function as one list.

    Raises:
        TypeError: `module` is not callable, keys of mixed or wrong type, a weight that is no tensor.
        ValueError: an unknown attribute, positional values that do not match the quantizers.
    """

    def __init__(
        self,
        module: nn.Module | Callable[..., Any],
        weights_quantizers: Mapping[Any, Any],
        weight_values: Mapping[int, Tensor] | None = None,
        op_call_args: Sequence[Any] | None = None,
        op_call_kwargs: Mapping[str, Any] | None = None,
        is_inputs_as_list: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(module, weights_quantizers, weight_values)
        self.layer = module
        # Asked once: a module searches long for what it lacks.
        self._has_sparse_gradients = bool(getattr(module, "sparse", False))
        self.weight_values = dict(weight_values or {})
        self.op_call_args = list(op_call_args or [])
        self.op_call_kwargs = dict(op_call_kwargs or {})
        self.is_inputs_as_list = is_inputs_as_list
        self.weights_quantizers: dict[WeightKey, Any] = {}
        self._takes_training: dict[WeightKey, bool] = {}
        self._cache = WeightCache(ops.snapshot, ops.is_unchanged, ops.is_concrete)
        taken: dict[str, Tensor] = {}
        try:
            for key in sorted(weights_quantizers):
                if isinstance(key, str):
                    taken[key] = getattr(module, key)
                self._take_weight(key)
                self._attach(key, weights_quantizers[key])
        except Exception:
            # A failed construction leaves the layer as it was.
            for name, weight in taken.items():
                setattr(module, name, weight)
            raise
        refuse_fast_paths(self)

    @property
    def is_weights_quantization(self) -> bool:
        """Whether any weight is quantized."""
        return self.num_weights_quantizers > 0

    @property
    def num_weights_quantizers(self) -> int:
        """Number of quantized weights."""
        return len(self.weights_quantizers)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped layer's result with quantized weights.

        Args:
            *args: inputs of the layer, without the positional weights.
            **kwargs: keyword arguments of the layer.
        """
        quantized = {key: self._quantized(key) for key in self.weights_quantizers}
        if self._has_sparse_gradients:
            quantized = {key: with_dense_gradient(value) for key, value in quantized.items()}
        with recomputing():
            return self._run(quantized, args, {**self.op_call_kwargs, **kwargs})

    def get_weights_vars(self) -> list[tuple[WeightKey, nn.Parameter, Any]]:
        """Key, float parameter and quantizer of each quantized weight."""
        return [(key, self._float_weight(key), quantizer) for key, quantizer in self.weights_quantizers.items()]

    def get_quantized_weights(self) -> dict[WeightKey, Tensor]:
        """Quantized value of each weight, in the mode (training or not) of the wrapper."""
        return {key: self._compute(key) for key in self.weights_quantizers}

    def get_integer_weights(self) -> dict[WeightKey, Tensor]:
        """Integer codes of each weight: int32, shape of the weight.

        Raises:
            TypeError: a quantizer of the user's own has no `quantize`.
        """
        check_has_quantize(self.weights_quantizers)
        return {
            key: quantizer.quantize(self._float_weight(key).detach())
            for key, quantizer in self.weights_quantizers.items()
        }

    def convert_to_inferable_quantizers(self) -> None:
        """Replace each trainable quantizer by what it froze to. Inferable quantizers stay as they are."""
        frozen = {key: inferable_of(quantizer) for key, quantizer in self.weights_quantizers.items()}
        for key, quantizer in frozen.items():
            if quantizer is not self.weights_quantizers[key]:
                self.freeze_weight(key)
                self.set_quantizer(key, quantizer)

    def freeze_weight(self, key: WeightKey) -> None:
        """Give the weight `key` the value to which what its quantizer freezes to is applied.

        Most quantizers leave the weight as it is. The result of the wrapper in evaluation stays the same once the
        quantizer is frozen.
        """
        weight = self._float_weight(key)
        with torch.no_grad():
            value = frozen_weight_of(self.weights_quantizers[key], weight)
        if value is not weight:
            # A parameter of its own: another layer that shares the weight has a quantizer of its own.
            self.register_parameter(parameter_name(key), nn.Parameter(value, requires_grad=weight.requires_grad))

    def set_quantizer(self, key: WeightKey, quantizer: Any) -> None:
        """Quantize the weight `key` with `quantizer` from now on.

        Args:
            key: name or position of a weight that is quantized.
            quantizer: the new quantizer.

        Raises:
            TypeError: `quantizer` is no quantizer.
            ValueError: no weight `key` is quantized.
        """
        check_replacement(key, quantizer, self.weights_quantizers)
        self._attach(key, quantizer)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; quantized weights that were kept for inference are given up."""
        self._cache.drop()
        return super().train(mode)

    def _run(self, quantized: dict[WeightKey, Tensor], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if self.weight_values:
            inputs = with_positional_weights(args, quantized)
            if self.is_inputs_as_list:
                return self.layer(inputs, *self.op_call_args, **keywords)
            return self.layer(*inputs, *self.op_call_args, **keywords)
        for name, value in quantized.items():
            setattr(self.layer, str(name), value)
        try:
            if self.is_inputs_as_list:
                return self.layer(list(args), *self.op_call_args, **keywords)
            return self.layer(*args, *self.op_call_args, **keywords)
        finally:
            for name in quantized:
                delattr(self.layer, str(name))

    def _take_weight(self, key: WeightKey) -> None:
        if isinstance(key, str):
            weight = getattr(self.layer, key)
            delattr(self.layer, key)
            # The same parameter object, so that weights that layers share stay shared.
            parameter = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight.detach())
        else:
            # A constant of a function: a copy, because loading a state writes into it.
            parameter = nn.Parameter(self.weight_values[key].detach().clone(), requires_grad=False)
        self.register_parameter(parameter_name(key), parameter)

    def _attach(self, key: WeightKey, quantizer: Any) -> None:
        name = parameter_name(key)
        # Before anything is changed: it may raise.
        self._initialize(key, quantizer, self._float_weight(key).shape, name)
        self._modules.pop(f"{name}_quantizer", None)
        if isinstance(quantizer, nn.Module):
            # Registered, so that its state follows the wrapper.
            self.add_module(f"{name}_quantizer", quantizer)
        self._cache.drop()
        self.weights_quantizers[key] = quantizer
        self._takes_training[key] = takes_training(quantizer)

    def _float_weight(self, key: WeightKey) -> nn.Parameter:
        # By attribute: `torch.func.functional_call` puts plain tensors in the place of parameters.
        weight: nn.Parameter = getattr(self, parameter_name(key))
        return weight

    def _compute(self, key: WeightKey) -> Tensor:
        quantizer, weight = self.weights_quantizers[key], self._float_weight(key)
        result: Tensor = quantizer(weight, training=self.training) if self._takes_training[key] else quantizer(weight)
        return result

    def _quantized(self, key: WeightKey) -> Tensor:
        quantizer, weight = self.weights_quantizers[key], self._float_weight(key)
        # Only what is frozen can be kept, and only of the wrapper's own weight: `torch.func` puts others in its place.
        is_own = type(weight) is nn.Parameter
        if self.training or not is_own or not isinstance(quantizer, BasePyTorchInferableQuantizer):
            return self._compute(key)
        # A tensor made in inference mode could not be used outside of it.
        with torch.inference_mode(False):
            result: Tensor = self._cache.fetch(key, (weight, *learned_buffers(quantizer)), lambda: self._compute(key))
        return result


def _check_arguments(module: Any, weights_quantizers: Any, weight_values: Any) -> None:
    if not callable(module):
        raise TypeError(f"`module` must be a module or a function. Received: {LAYER}={module!r}")
    if isinstance(module, PytorchQuantizationWrapper):
        raise ValueError("`module` is wrapped already; name all its weights in one wrapper, or use `set_quantizer`.")
    check_wrapped_weights(weights_quantizers, weight_values, lambda value: isinstance(value, Tensor))
    for key in weights_quantizers:
        if isinstance(key, str) and not isinstance(getattr(module, key, None), Tensor):
            raise ValueError(
                f"`weights_quantizers` must name tensors of the module. Received: {key!r}, which "
                f"{type(module).__name__} does not have as a tensor"
            )

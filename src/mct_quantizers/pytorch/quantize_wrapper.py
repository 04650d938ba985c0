# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The layer that quantizes the weights of the layer it wraps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mct_quantizers.common.constants import LAYER, POSITIONAL_WEIGHT
from mct_quantizers.pytorch.attribute_forwarding import ForwardsAttributes
from mct_quantizers.pytorch.quantizer_dispatch import inferable_of, is_quantizer, takes_training

WeightKey = str | int


class PytorchQuantizationWrapper(ForwardsAttributes):
    """Runs `module` with quantized weights; the float weights become parameters of the wrapper.

    A weight is named either by its attribute (`"weight"`) or, for a function, by its position among the call's
    arguments. The attribute stands on the wrapped layer only while the layer runs: outside a call read `wrapper.weight`
    (float) or `wrapper.get_quantized_weights()`. That keeps `copy.deepcopy`, pickle and `torch.compile` working after a
    forward pass, and the `state_dict` free of copies: `weight`, `layer.bias`, `weight_quantizer.scale`, ….

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
        self.weight_values = dict(weight_values or {})
        self.op_call_args = list(op_call_args or [])
        self.op_call_kwargs = dict(op_call_kwargs or {})
        self.is_inputs_as_list = is_inputs_as_list
        self.weights_quantizers: dict[WeightKey, Any] = {}
        self._takes_training: dict[WeightKey, bool] = {}
        taken: dict[str, Tensor] = {}
        try:
            for key in sorted(weights_quantizers):
                if isinstance(key, str):
                    taken[key] = getattr(module, key)
                self._take_weight(key)
                self.set_quantizer(key, weights_quantizers[key])
        except Exception:
            # A failed construction leaves the layer as it was.
            for name, weight in taken.items():
                setattr(module, name, weight)
            raise

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
        keywords = {**self.op_call_kwargs, **kwargs}
        if self.weight_values:
            inputs = list(args)
            for position, value in quantized.items():
                inputs.insert(int(position), value)
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

    def get_weights_vars(self) -> list[tuple[WeightKey, nn.Parameter, Any]]:
        """Key, float parameter and quantizer of each quantized weight."""
        return [(key, self._float_weight(key), quantizer) for key, quantizer in self.weights_quantizers.items()]

    def get_quantized_weights(self) -> dict[WeightKey, Tensor]:
        """Quantized value of each weight, in the mode (training or not) of the wrapper."""
        return {key: self._quantized(key) for key in self.weights_quantizers}

    def get_integer_weights(self) -> dict[WeightKey, Tensor]:
        """Integer codes of each weight: int32, shape of the weight.

        Raises:
            TypeError: a quantizer of the user's own has no `quantize`.
        """
        for key, quantizer in self.weights_quantizers.items():
            if not callable(getattr(quantizer, "quantize", None)):
                raise TypeError(f"The quantizer of {key!r} must have `quantize`. Received: {type(quantizer).__name__}")
        return {
            key: quantizer.quantize(self._float_weight(key).detach())
            for key, quantizer in self.weights_quantizers.items()
        }

    def convert_to_inferable_quantizers(self) -> None:
        """Replace each trainable quantizer by what it froze to. Inferable quantizers stay as they are."""
        frozen = {key: inferable_of(quantizer) for key, quantizer in self.weights_quantizers.items()}
        for key, quantizer in frozen.items():
            if quantizer is not self.weights_quantizers[key]:
                self.set_quantizer(key, quantizer)

    def _take_weight(self, key: WeightKey) -> None:
        if isinstance(key, str):
            weight = getattr(self.layer, key)
            delattr(self.layer, key)
            # The same parameter object, so that weights that layers share stay shared.
            parameter = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight.detach())
        else:
            # A constant of a function: a copy, because loading a state writes into it.
            parameter = nn.Parameter(self.weight_values[key].detach().clone(), requires_grad=False)
        self.register_parameter(_parameter_name(key), parameter)

    def set_quantizer(self, key: WeightKey, quantizer: Any) -> None:
        """Quantize the weight `key` with `quantizer` from now on."""
        name = _parameter_name(key)
        self._modules.pop(f"{name}_quantizer", None)
        if isinstance(quantizer, nn.Module):
            # Registered, so that its state follows the wrapper.
            self.add_module(f"{name}_quantizer", quantizer)
        self.weights_quantizers[key] = quantizer
        self._takes_training[key] = takes_training(quantizer)
        quantizer.initialize_quantization(self._float_weight(key).shape, name, self)

    def _float_weight(self, key: WeightKey) -> nn.Parameter:
        return self.get_parameter(_parameter_name(key))

    def _quantized(self, key: WeightKey) -> Tensor:
        quantizer, weight = self.weights_quantizers[key], self._float_weight(key)
        result: Tensor = quantizer(weight, self.training) if self._takes_training[key] else quantizer(weight)
        return result


def _parameter_name(key: WeightKey) -> str:
    return key if isinstance(key, str) else f"{POSITIONAL_WEIGHT}_{key}"


def _check_arguments(module: Any, weights_quantizers: Any, weight_values: Any) -> None:
    if not callable(module):
        raise TypeError(f"`module` must be a module or a function. Received: {LAYER}={module!r}")
    if not isinstance(weights_quantizers, Mapping):
        raise TypeError(
            "`weights_quantizers` must be a dictionary of quantizers by attribute name or position. "
            f"Received: {weights_quantizers!r}"
        )
    if {type(key) for key in weights_quantizers} not in ({str}, {int}, set()):
        raise TypeError(
            f"`weights_quantizers` must have only names or only positions as keys. Received: {list(weights_quantizers)}"
        )
    if weight_values is not None and not isinstance(weight_values, Mapping):
        raise TypeError(f"`weight_values` must be a dictionary of tensors by position. Received: {weight_values!r}")
    for key, quantizer in weights_quantizers.items():
        if not is_quantizer(quantizer):
            raise TypeError(f"`weights_quantizers[{key!r}]` must be a quantizer. Received: {quantizer!r}")
        if isinstance(key, str):
            if not isinstance(getattr(module, key, None), Tensor):
                raise ValueError(
                    f"`weights_quantizers` must name tensors of the module. Received: {key!r}, which "
                    f"{type(module).__name__} does not have as a tensor"
                )
        elif key < 0:
            raise ValueError(f"`weights_quantizers` must have positions from 0 as keys. Received: position {key}")
        elif key not in (weight_values or {}):
            raise ValueError(f"`weight_values` must hold a tensor for each position. Received: none for position {key}")
        elif not isinstance(value := (weight_values or {})[key], Tensor):
            raise TypeError(f"`weight_values[{key}]` must be a tensor. Received: {value!r}")
    if weight_values and set(weight_values) != set(weights_quantizers):
        raise ValueError(
            "`weight_values` and `weights_quantizers` must have the same positions as keys. "
            f"Received: {sorted(weight_values)} and {sorted(weights_quantizers)}"
        )

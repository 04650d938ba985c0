# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The weights that a wrapper quantizes: attributes of a layer by name, constants of a function by position."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mct_quantizers.common.constants import POSITIONAL_WEIGHT
from mct_quantizers.common.quantizer_dispatch import is_quantizer

WeightKey = str | int


def parameter_name(key: WeightKey) -> str:
    """Name under which the wrapper holds the float weight."""
    return key if isinstance(key, str) else f"{POSITIONAL_WEIGHT}_{key}"


def with_positional_weights(inputs: Iterable[Any], weights: Mapping[Any, Any]) -> list[Any]:
    """The inputs of a function, with each weight inserted at its position."""
    values = list(inputs)
    for position in sorted(weights):
        values.insert(position, weights[position])
    return values


def check_wrapped_weights(weights_quantizers: Any, weight_values: Any, is_tensor: Callable[[Any], bool]) -> None:
    """The arguments of a wrapper name weights, give each a quantizer, and each positional one a value.

    Args:
        weights_quantizers: quantizer of each weight, by attribute name or by position.
        weight_values: value of each positional weight, or None.
        is_tensor: whether a value is a tensor of the framework.

    Raises:
        TypeError: no dictionaries, keys of mixed or wrong type, a quantizer that is none, a value that is no tensor.
        ValueError: positions that are negative, or values and quantizers of other positions.
    """
    if not isinstance(weights_quantizers, Mapping):
        raise TypeError(
            "`weights_quantizers` must be a dictionary of quantizers by attribute name or position. "
            f"Received: {weights_quantizers!r}"
        )
    if {type(key) for key in weights_quantizers} not in ({str}, {int}, set()):
        raise TypeError(
            f"`weights_quantizers` must have only names or only positions as keys. Received: {list(weights_quantizers)}"
        )
    # An empty list stands there in the oldest form of the constructor.
    if weight_values not in (None, []) and not isinstance(weight_values, Mapping):
        raise TypeError(f"`weight_values` must be a dictionary of tensors by position. Received: {weight_values!r}")
    for key, quantizer in weights_quantizers.items():
        if not is_quantizer(quantizer):
            raise TypeError(f"`weights_quantizers[{key!r}]` must be a quantizer. Received: {quantizer!r}")
        if isinstance(key, int):
            _check_position(key, weight_values or {}, is_tensor)
    if weight_values and set(weight_values) != set(weights_quantizers):
        raise ValueError(
            "`weight_values` and `weights_quantizers` must have the same positions as keys. "
            f"Received: {sorted(weight_values)} and {sorted(weights_quantizers)}"
        )


def check_replacement(key: Any, quantizer: Any, quantizers: Mapping[WeightKey, Any]) -> None:
    """A quantizer can take the place of the one of `key`.

    Raises:
        TypeError: it is no quantizer.
        ValueError: no weight of that key is quantized.
    """
    if key not in quantizers:
        raise ValueError(f"`key` must be one of {list(quantizers)}. Received: key={key!r}")
    if not is_quantizer(quantizer):
        raise TypeError(f"`quantizer` must be a quantizer. Received: {quantizer!r}")


def check_has_quantize(quantizers: Mapping[WeightKey, Any]) -> None:
    """Every quantizer gives integer codes.

    Raises:
        TypeError: a quantizer of the user's own has no `quantize`.
    """
    for key, quantizer in quantizers.items():
        if not callable(getattr(quantizer, "quantize", None)):
            raise TypeError(f"The quantizer of {key!r} must have `quantize`. Received: {type(quantizer).__name__}")


def _check_position(position: int, weight_values: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> None:
    if position < 0:
        raise ValueError(f"`weights_quantizers` must have positions from 0 as keys. Received: position {position}")
    if position not in weight_values:
        raise ValueError(
            f"`weight_values` must hold a tensor for each position. Received: none for position {position}"
        )
    if not is_tensor(weight_values[position]):
        raise TypeError(f"`weight_values[{position}]` must be a tensor. Received: {weight_values[position]!r}")

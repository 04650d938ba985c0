# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The quantizations with which a class is checked: made from its marks and its constructor, or as the user gives them.

Weights have three channels of 1024 elements, activations 1024 elements: values that rise from 1.5 times below the
range to 1.5 times above it, with zero, the ends of the range and, where they are exact, the ties between two levels.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.constants import LUT_VALUES_BITWIDTH
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import from_range
from model_compression_toolkit.trainable_infrastructure.common.constants import RANGE_MAX, RANGE_MIN, SIGNED, THRESHOLD
from model_compression_toolkit.trainable_infrastructure.common.quant_utils import get_threshold_reshape_shape
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerConfig,
    TrainableQuantizerWeightsConfig,
    method_of,
)

__all__ = ["Array", "Case", "folded", "inferable_cases", "rows", "trainable_cases"]

Array = npt.NDArray[Any]

ELEMENTS = 1024
"""Elements of each channel: several for each level of 8 bits."""
_MOST_TIES = 64
_LUT = (QuantizationMethod.LUT_POT_QUANTIZER, QuantizationMethod.LUT_SYM_QUANTIZER)
_POWERS = (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.LUT_POT_QUANTIZER)
_GRIDS = (QuantizationMethod.SYMMETRIC, QuantizationMethod.POWER_OF_TWO, QuantizationMethod.UNIFORM)
_SETTINGS = ((4, False), (8, True), (2, True))
"""Widths, and whether weights are quantized per channel."""


@dataclass(frozen=True, slots=True)
class Case:
    """One quantization of a class.

    Attributes:
        name: what the report calls it.
        group: at least one case of each group must be one that the class can be constructed for.
        make: constructs a quantizer, with keyword arguments that replace those of the case.
        arguments: names of the constructor arguments that `make` gives by keyword.
        is_weight: whether it quantizes a weight.
        num_bits: width of the integer; None where nothing tells it.
        axis: axis of the channels that have parameters of their own; None per tensor.
        values: a tensor to quantize, float32; see `rows`.
    """

    name: str
    group: str
    make: Callable[..., Any]
    arguments: frozenset[str]
    is_weight: bool
    num_bits: int | None
    axis: int | None
    values: Array


def rows(array: Array, axis: int | None) -> Array:
    """`array` with one row for each channel that has parameters of its own, shape (C, N)."""
    return array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def folded(table: Array, shape: Sequence[int], axis: int | None) -> Array:
    """The array of shape `shape` of which `rows` makes `table`."""
    if axis is None:
        return table.reshape(shape)
    others = [size for index, size in enumerate(shape) if index != axis % len(shape)]
    return np.ascontiguousarray(np.moveaxis(table.reshape(shape[axis], *others), 0, axis))


def trainable_cases(
    cls: type, config: TrainableQuantizerConfig | None, arguments: Mapping[str, Any], channels_first: bool
) -> list[Case]:
    """The cases of a trainable quantizer.

    Args:
        cls: the class.
        config: the only configuration, or None to make some from the marks.
        arguments: further constructor arguments of each.
        channels_first: whether the output channels of a weight are its first axis, else its last.
    """
    configs = [("", config)] if config is not None else list(_made_configs(cls, channels_first))
    return [_trainable_case(cls, group, item, arguments, channels_first) for group, item in configs]


def inferable_cases(cls: type, arguments: Mapping[str, Any], channels_first: bool) -> list[Case]:
    """The cases of an inferable quantizer, from its constructor's arguments as far as they are not given.

    Args:
        cls: the class.
        arguments: constructor arguments of each case.
        channels_first: whether the output channels of a weight are its first axis, else its last.

    Raises:
        TypeError: an argument without default that is not given, and whose name is not one of the interface.
    """
    grids = getattr(cls, "quantization_method", None) or [None]
    found: list[tuple[QuantizationMethod | None, dict[str, Any]]] = []
    for grid in grids:
        for made in _made_arguments(cls, grid, arguments, channels_first):
            # Several are the same where the arguments that are given leave nothing open.
            if (grid, made) not in found:
                found.append((grid, made))
    return [_inferable_case(cls, grid, made, channels_first) for grid, made in found]


def _made_configs(cls: type, channels_first: bool) -> Iterator[tuple[str, TrainableQuantizerConfig]]:
    target = getattr(cls, "quantization_target", None)
    marked: Sequence[QuantizationMethod] = getattr(cls, "quantization_method", None) or ()
    # The constructor of a class without marks tells target and grids: all are tried, and one must do.
    targets = [target] if target is not None and marked else list(QuantizationTarget)
    for grid in marked or _GRIDS:
        group = grid.name if marked else ""
        for num_bits, per_channel in _settings(grid, marked):
            if QuantizationTarget.Weights in targets:
                yield group, _weights_config(grid, num_bits, per_channel, channels_first)
            if QuantizationTarget.Activation in targets:
                yield group, _activation_config(grid, num_bits)


def _settings(grid: QuantizationMethod | None, grids: Sequence[QuantizationMethod]) -> Sequence[tuple[int, bool]]:
    """All settings; of powers of two next to other grids one, because they share what depends on the width."""
    return _SETTINGS[:1] if grid in _POWERS and len(grids) > 1 else _SETTINGS


def _weights_config(
    grid: QuantizationMethod, num_bits: int, per_channel: bool, channels_first: bool
) -> TrainableQuantizerWeightsConfig:
    axis = (0 if channels_first else 3) if per_channel else None
    shape = () if axis is None else tuple(get_threshold_reshape_shape((1, 1, 1, 1), axis, 3))
    return TrainableQuantizerWeightsConfig(
        weights_quantization_method=grid,
        weights_n_bits=num_bits,
        weights_quantization_params={
            name: value.reshape(shape) if name != "lut_values" else value
            for name, value in _parameters(grid, num_bits, 3 if per_channel else 1, signed=True).items()
        },
        weights_channels_axis=axis,
        weights_per_channel_threshold=per_channel,
    )


def _activation_config(grid: QuantizationMethod, num_bits: int) -> TrainableQuantizerActivationConfig:
    # Of 8 bits without sign: what follows a ReLU.
    signed = num_bits != 8
    parameters = {
        name: value if name == "lut_values" else float(value[0])
        for name, value in _parameters(grid, num_bits, 1, signed).items()
    }
    sign = {} if grid is QuantizationMethod.UNIFORM else {SIGNED: signed}
    return TrainableQuantizerActivationConfig(grid, num_bits, {**parameters, **sign})


def _parameters(grid: QuantizationMethod | None, num_bits: int, channels: int, signed: bool) -> dict[str, Array]:
    """Parameters in the words of the configurations, arrays of shape (channels,)."""
    if grid is QuantizationMethod.UNIFORM:
        low = np.array([-0.7, -0.5, -0.9])[:channels] if signed else np.zeros(channels)
        params = from_range(low, np.array([1.3, 1.0, 2.0])[:channels], num_bits, axis=0 if channels > 1 else None)
        return {RANGE_MIN: params.min_range, RANGE_MAX: params.max_range}
    threshold = np.array([1.0, 0.5, 2.0] if grid in _POWERS else [0.75, 1.0, 1.7])[:channels]
    if grid in _LUT:
        return {"lut_values": _levels(num_bits, signed), THRESHOLD: threshold}
    return {THRESHOLD: threshold}


def _levels(num_bits: int, signed: bool) -> Array:
    """A table that is dense near zero."""
    codes = np.arange(2**num_bits) - (2 ** (num_bits - 1) if signed else 0)
    largest = 2 ** (LUT_VALUES_BITWIDTH - signed) - 1
    levels: Array = np.round(np.sign(codes) * (np.abs(codes) / np.abs(codes).max()) ** 1.5 * largest)
    return levels


def _trainable_case(
    cls: type, group: str, config: TrainableQuantizerConfig, arguments: Mapping[str, Any], channels_first: bool
) -> Case:
    is_weight = isinstance(config, TrainableQuantizerWeightsConfig)
    grid, rank = method_of(config), 2
    axis: int | None = None
    if isinstance(config, TrainableQuantizerWeightsConfig):
        num_bits, parameters, signed = config.weights_n_bits, config.weights_quantization_params, True
        if config.weights_per_channel_threshold:
            axes = config.weights_channels_axis
            axis = axes[0] if isinstance(axes, Sequence) else axes
            given = max((np.ndim(value) for value in parameters.values()), default=0)
            rank = given if given > 1 else _rank_for(axis)
    else:
        num_bits, parameters = config.activation_n_bits, config.activation_quantization_params
        signed = bool(parameters.get(SIGNED, True))
    low, high = _ends(parameters.get(THRESHOLD), parameters.get(RANGE_MIN), parameters.get(RANGE_MAX), signed)

    def make(**overrides: Any) -> Any:
        # A copy: what a quantizer does to its configuration must not reach the next one.
        return cls(copy.deepcopy(config), **{**copy.deepcopy(dict(arguments)), **overrides})

    name = _name(grid, num_bits, is_weight, axis, signed)
    shape = _shape(low.size, axis, rank, channels_first)
    values = _values(low, high, num_bits, grid, signed, shape, axis)
    return Case(name, group, make, frozenset(arguments), is_weight, num_bits, axis, values)


def _made_arguments(
    cls: type, grid: QuantizationMethod | None, given: Mapping[str, Any], channels_first: bool
) -> Iterator[dict[str, Any]]:
    parameters = {
        name: item
        for name, item in inspect.signature(cls).parameters.items()
        if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
    }
    for num_bits, per_channel in _SETTINGS:
        # A table of 8 bits would have as many levels as there are integers.
        width = 3 if num_bits == 8 and "lut_values" in parameters else num_bits
        with_channels = bool(given.get("per_channel", per_channel)) and "per_channel" in parameters
        signed = bool(given.get("signed", num_bits != 8 or "per_channel" in parameters))
        values = _parameters(grid, int(given.get("num_bits", width)), 3 if with_channels else 1, signed)
        offered = {
            "num_bits": width,
            **{
                name: values[key].tolist()
                for name, key in (
                    ("threshold", THRESHOLD),
                    ("min_range", RANGE_MIN),
                    ("max_range", RANGE_MAX),
                    ("lut_values", "lut_values"),
                )
                if key in values
            },
            "signed": signed,
            "per_channel": with_channels,
            **({"channel_axis": 0 if channels_first else 3} if with_channels else {}),
        }
        made = {name: value for name, value in offered.items() if name in parameters and name not in given}
        missing = [
            name
            for name, item in parameters.items()
            if item.default is item.empty and name not in made and name not in given
        ]
        if missing:
            raise TypeError(
                f"The constructor of {cls.__name__} needs arguments whose meaning is not known. Give them to "
                f"`check_quantizer` by keyword: {missing}"
            )
        yield {**made, **given}


def _inferable_case(
    cls: type, grid: QuantizationMethod | None, arguments: Mapping[str, Any], channels_first: bool
) -> Case:
    target = getattr(cls, "quantization_target", None)
    is_weight = "per_channel" in arguments if target is None else target is QuantizationTarget.Weights
    num_bits, signed = arguments.get("num_bits"), bool(arguments.get("signed", True))
    axis = arguments.get("channel_axis") if arguments.get("per_channel") else None
    rank = arguments.get("input_rank") or (2 if axis is None else 4 if axis in (0, 3) else _rank_for(axis))
    low, high = _ends(arguments.get("threshold"), arguments.get("min_range"), arguments.get("max_range"), signed)

    def make(**overrides: Any) -> Any:
        return cls(**{**copy.deepcopy(dict(arguments)), **overrides})

    name = _name(grid, num_bits, is_weight, axis, signed)
    shape = _shape(low.size, axis, rank, channels_first)
    values = _values(low, high, num_bits, grid, signed, shape, axis)
    return Case(name, getattr(grid, "name", ""), make, frozenset(arguments), is_weight, num_bits, axis, values)


def _name(grid: Any, num_bits: Any, is_weight: bool, axis: int | None, signed: bool) -> str:
    words = [getattr(grid, "name", None), None if num_bits is None else f"{num_bits} bits"]
    if is_weight:
        words += ["weights", "per tensor" if axis is None else f"per channel (axis {axis})"]
    else:
        words += ["activations", None if signed else "unsigned"]
    return ", ".join(word for word in words if word)


def _rank_for(axis: int | None) -> int:
    return 2 if axis is None else max(2, axis + 1, -axis)


def _ends(threshold: Any, low: Any, high: Any, signed: bool) -> tuple[Array, Array]:
    """Ends of the range, float64, shape (C,); -1 and 1 where nothing tells them."""
    if low is not None and high is not None:
        ends = np.broadcast_arrays(np.ravel(_number(low)), np.ravel(_number(high)))
        return ends[0], ends[1]
    top = np.ravel(_number(1.0 if threshold is None else threshold))
    return (-top if signed else np.zeros_like(top)), top


def _number(value: Any) -> Array:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, np.float64)


def _shape(channels: int, axis: int | None, rank: int, channels_first: bool) -> tuple[int, ...]:
    if axis is None:
        return (16, ELEMENTS // 16)
    # Kernels of two by two, as far as the rank goes.
    small = [2 if index < 2 else 1 for index in range(rank - 2)]
    inputs = [ELEMENTS // math.prod(small)] if rank > 1 else []
    shape = [*inputs, *small] if channels_first else [*small, *inputs]
    shape.insert(axis % rank, channels)
    return tuple(shape)


def _values(
    low: Array, high: Array, num_bits: int | None, grid: Any, signed: bool, shape: tuple[int, ...], axis: int | None
) -> Array:
    if axis is None:
        low, high = np.min(low, keepdims=True), np.max(high, keepdims=True)
    count = math.prod(shape) // low.size
    table = []
    for bottom, top in zip(low, high, strict=True):
        chosen = np.array([0.0, bottom, top])
        # Ties of a step that is a power of two are exact in every engine and however the step was computed.
        if num_bits and grid is not QuantizationMethod.UNIFORM and grid not in _LUT and np.frexp(top)[0] == 0.5:
            step = top / 2.0 ** (num_bits - signed)
            ties = np.arange(bottom + 0.5 * step, top, step)
            chosen = np.concatenate([chosen, ties[:: max(1, len(ties) // _MOST_TIES + 1)]])
        # An odd share, so that no point falls on a tie by accident.
        line = np.linspace(-1.5, 1.5, count - len(chosen)) * 0.5 * (top - bottom) * 1.000177 + 0.5 * (bottom + top)
        table.append(np.sort(np.concatenate([chosen, line])))
    return folded(np.array(table, np.float32), shape, axis)

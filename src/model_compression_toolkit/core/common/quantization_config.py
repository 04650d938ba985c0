# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the user asks for: frozen values, checked when they are made, JSON and back."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import Granularity
from mct_quantizers.common.untrusted import check_is_file, parse_json
from mct_quantizers.common.validation import checked_bool, checked_num_bits

GRID_METHODS = (QuantizationMethod.POWER_OF_TWO, QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM)
_BITS_PATTERN = re.compile(r"w(\d+)a(\d+)", re.IGNORECASE)
_LEFT_OUT: Any = None
"""What a field holds until its place is known. The fields are typed as plans hold them, complete."""


class RangeSearch(StrEnum):
    """How calibration turns observed values into a threshold or range."""

    MIN_MAX = "min_max"
    """No clipping: the extremes that were seen."""
    PERCENTILE = "percentile"
    """The quantiles that leave out the rarest values."""
    MSE = "mse"
    """The range with the least mean squared quantization error."""


class BatchNorm(StrEnum):
    """What happens to a batch norm that follows a convolution or linear layer in training."""

    AUTO = "auto"
    """`LIVE` where folding later is exact (per-channel symmetric or uniform weights), else `FOLD`."""
    FOLD = "fold"
    """Folded into the weights before training."""
    LIVE = "live"
    """Trains along, is folded at the end without changing an integer code."""


class CaptureMode(StrEnum):
    """How the model is seen."""

    AUTO = "auto"
    """As a graph when it can be traced, module by module otherwise."""
    GRAPH = "graph"
    """As a graph of operations; a model that cannot be traced raises."""
    MODULES = "modules"
    """Module by module: the inputs and weights of layers, no functional operations."""


@dataclass(frozen=True, slots=True)
class TensorConfig:
    """How one kind of tensor is quantized.

    A field that is left out is None, and takes the default of the place where the configuration is given: weights have
    8 bits, symmetric, per channel; activations 8 bits, uniform, per tensor. `QuantizationConfig` and plans hold
    complete ones. The representation leaves out what was left out.

    Attributes:
        num_bits: width of the integers, 1 to 16. One bit, signed and symmetric, has the levels -1 and 0 times the
            threshold.
        method: power-of-two, symmetric or uniform grid.
        granularity: one scale per tensor or per channel (weights only).
        range_search: how calibration finds the range.
        percentile: the share of values, in percent, that `RangeSearch.PERCENTILE` keeps, 50 to 100.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of bounds.
    """

    num_bits: int = _LEFT_OUT
    method: QuantizationMethod = _LEFT_OUT
    granularity: Granularity = _LEFT_OUT
    range_search: RangeSearch = RangeSearch.MSE
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.num_bits is not None:
            object.__setattr__(self, "num_bits", checked_num_bits(self.num_bits))
        if self.method is not None:
            _check_member("method", self.method, QuantizationMethod)
            if self.method not in GRID_METHODS:
                names = [method.name for method in GRID_METHODS]
                raise ValueError(f"`method` must be one of {names}. Received: {self.method.name}")
        if self.granularity is not None:
            object.__setattr__(self, "granularity", _member("granularity", self.granularity, Granularity))
        object.__setattr__(self, "range_search", _member("range_search", self.range_search, RangeSearch))
        if not isinstance(self.percentile, (int, float)) or not 50 < self.percentile <= 100:
            raise ValueError(f"`percentile` must be above 50 and at most 100. Received: percentile={self.percentile!r}")

    def __repr__(self) -> str:
        words = {name: str(value) if isinstance(value, StrEnum) else value for name, value in self._given().items()}
        texts = (f"{name}={value}" if name == "method" else f"{name}={value!r}" for name, value in words.items())
        return f"TensorConfig({', '.join(texts)})"

    def completed(self, target: QuantizationTarget) -> Self:
        """The same with what was left out, as it is for weights or activations."""
        left_out = {name: value for name, value in _DEFAULTS[target].items() if getattr(self, name) is None}
        return dataclasses.replace(self, **left_out) if left_out else self

    def to_dict(self) -> dict[str, Any]:
        """Plain values without those that were left out; `from_dict` restores an equal configuration."""
        given = self._given()
        return {**given, "method": self.method.name} if "method" in given else given

    def _given(self) -> dict[str, Any]:
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote.

        Raises:
            ValueError: an unknown key or method.
            TypeError: a value of the wrong type.
        """
        _check_keys(cls, values)
        arguments = dict(values)
        if arguments.get("method") is not None:
            names = [method.name for method in GRID_METHODS]
            if arguments["method"] not in names:
                raise ValueError(f"`method` must be one of {names}. Received: method={arguments['method']!r}")
            arguments["method"] = QuantizationMethod[arguments["method"]]
        return cls(**arguments)


@dataclass(frozen=True, slots=True)
class Rule:
    """Another treatment for the layers that a filter selects. The last rule that matches a tensor decides.

    A layer must match every filter that is given.

    Attributes:
        name: regular expression that the whole name of the layer or operation matches.
        type: name of the layer's class or of the operation, such as "Conv2d" or "add".
        weight_bits: other width for the weights.
        activation_bits: other width for the output (in module-by-module capture: the input).
        quantize: False leaves the layer's weights and activations in float.

    Raises:
        ValueError: no filter, nothing to change, a pattern that is no regular expression, a width out of bounds.
    """

    name: str | None = None
    type: str | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    quantize: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantize", checked_bool("quantize", self.quantize))
        if self.name is None and self.type is None:
            raise ValueError("A `Rule` must have a filter: give `name` or `type`. Received: neither")
        if self.quantize and self.weight_bits is None and self.activation_bits is None:
            raise ValueError(
                "A `Rule` must change something: give `weight_bits`, `activation_bits` or `quantize=False`."
            )
        for field_name in ("name", "type"):
            if not isinstance(getattr(self, field_name), (str, type(None))):
                raise TypeError(f"`{field_name}` must be text. Received: {field_name}={getattr(self, field_name)!r}")
        for field_name in ("weight_bits", "activation_bits"):
            if getattr(self, field_name) is not None:
                checked_num_bits(getattr(self, field_name), field_name)
        try:
            re.compile(self.name or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"`name` must be a regular expression. Received: {self.name!r} ({error})") from error

    def matches(self, name: str, type_name: str) -> bool:
        """Whether the layer or operation is selected."""
        return self.matches_name(name) and (self.type is None or self.type == type_name)

    def matches_name(self, name: str) -> bool:
        """Whether the name is one of those that `name` allows."""
        return self.name is None or re.fullmatch(self.name, name) is not None


_DEFAULTS: dict[QuantizationTarget, dict[str, Any]] = {
    QuantizationTarget.Weights: {
        "num_bits": 8,
        "method": QuantizationMethod.SYMMETRIC,
        "granularity": Granularity.PER_CHANNEL,
    },
    QuantizationTarget.Activation: {
        "num_bits": 8,
        "method": QuantizationMethod.UNIFORM,
        "granularity": Granularity.PER_TENSOR,
    },
}
_PLACES = {"weights": QuantizationTarget.Weights, "activations": QuantizationTarget.Activation}


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """How a model is quantized.

    Attributes:
        weights: how weights are quantized; per channel and symmetric unless said otherwise.
        activations: how activations are quantized; per tensor and uniform unless said otherwise.
        first_last_bits: another width for the weights of the first and the last layer and for the activations that feed
            them, such as 8, which papers on lower widths mostly take; None treats them like all others.
        rules: other treatments for some layers; the last rule that matches decides.
        filter: called with the name of each layer or operation and the name of its type; False leaves it in float.
            A function cannot be written to JSON.
        quantize_output: whether the model's outputs are quantized too, like all other activations.
        fuse_additions: whether one operand of an addition stays in the accumulator where it is a product, as the
            hardware that fuses both needs it; False gives both a grid, as LiteRT needs it to add integers.
        batch_norm: what happens to batch norms in training; after-training quantization always folds them.
        capture: how the model is seen.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of bounds, per-channel activations.
    """

    weights: TensorConfig = field(default_factory=TensorConfig)
    activations: TensorConfig = field(default_factory=TensorConfig)
    first_last_bits: int | None = None
    rules: tuple[Rule, ...] = ()
    filter: Any = None
    quantize_output: bool = False
    fuse_additions: bool = True
    batch_norm: BatchNorm = BatchNorm.AUTO
    capture: CaptureMode = CaptureMode.AUTO

    def __post_init__(self) -> None:
        for name, target in _PLACES.items():
            value = getattr(self, name)
            if not isinstance(value, TensorConfig):
                raise TypeError(f"`{name}` must be a TensorConfig. Received: {name}={value!r}")
            object.__setattr__(self, name, value.completed(target))
        if self.activations.granularity is not Granularity.PER_TENSOR:
            raise ValueError("`activations` must be quantized per tensor. Received: granularity='per_channel'")
        if self.first_last_bits is not None:
            checked_num_bits(self.first_last_bits, "first_last_bits")
        if self.filter is not None and not callable(self.filter):
            raise TypeError(f"`filter` must be a function of a layer's name and type. Received: {self.filter!r}")
        for name in ("quantize_output", "fuse_additions"):
            object.__setattr__(self, name, checked_bool(name, getattr(self, name)))
        if not isinstance(self.rules, (tuple, list)):
            raise TypeError(f"`rules` must be a list of Rule objects. Received: rules={self.rules!r}")
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"`rules` must hold Rule objects. Received: {rule!r}")
        object.__setattr__(self, "batch_norm", _member("batch_norm", self.batch_norm, BatchNorm))
        object.__setattr__(self, "capture", _member("capture", self.capture, CaptureMode))

    @classmethod
    def from_bits(cls, bits: str, **arguments: Any) -> Self:
        """The default configuration at other widths: `"w4a8"` for 4-bit weights and 8-bit activations.

        Args:
            bits: "w" and "a", each followed by a width of 1 to 16.
            **arguments: further fields of the configuration.

        Raises:
            TypeError: an argument of the wrong type.
            ValueError: `bits` has another form, or `weights` or `activations` have another width.
        """
        match = _BITS_PATTERN.fullmatch(bits) if isinstance(bits, str) else None
        if match is None:
            raise ValueError(f"`bits` must look like 'w4a8'. Received: bits={bits!r}")
        for name, num_bits in zip(_PLACES, map(int, match.groups()), strict=True):
            tensor = arguments.get(name, TensorConfig())
            if isinstance(tensor, TensorConfig):
                if tensor.num_bits not in (None, num_bits):
                    raise ValueError(
                        f"`{name}` must have the width of `bits`, or none. Received: bits={bits!r} and "
                        f"{name}.num_bits={tensor.num_bits}"
                    )
                arguments[name] = dataclasses.replace(tensor, num_bits=num_bits)
        return cls(**arguments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` restores an equal configuration.

        Raises:
            ValueError: `filter` is a function.
        """
        if self.filter is not None:
            raise ValueError("A configuration with a `filter` function cannot be written; use `rules` instead.")
        values = dataclasses.asdict(self)
        del values["filter"]
        return {**values, "weights": self.weights.to_dict(), "activations": self.activations.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` wrote; keys may be left out.

        Raises:
            ValueError: an unknown key or a value out of bounds.
            TypeError: a value of the wrong type.
        """
        _check_keys(cls, values)
        arguments = dict(values)
        for name in _PLACES.keys() & arguments.keys():
            arguments[name] = TensorConfig.from_dict(arguments[name])
        rules = arguments.get("rules", ())
        if not isinstance(rules, (tuple, list)):
            raise TypeError(f"`rules` must be a list. Received: rules={rules!r}")
        for rule in rules:
            _check_keys(Rule, rule)
        arguments["rules"] = tuple(Rule(**rule) for rule in rules)
        return cls(**arguments)

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """The configuration in a JSON file.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is no JSON, or no configuration.
        """
        try:
            check_is_file(Path(path))
            values = parse_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"Expected a JSON file. Received: {path} ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"Expected a JSON object with fields of {cls.__name__}. Received: {path}")
        return cls.from_dict(values)


def _check_member(name: str, value: Any, enum: type) -> None:
    if not isinstance(value, enum):
        raise TypeError(f"`{name}` must be a {enum.__name__}. Received: {name}={value!r}")


def _member(name: str, value: Any, enum: Any) -> Any:
    try:
        return enum(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be one of {[m.value for m in enum]}. Received: {name}={value!r}") from error


def _check_keys(cls: Any, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise TypeError(f"Expected the fields of {cls.__name__} as a mapping. Received: {values!r}")
    known = {item.name for item in dataclasses.fields(cls)}
    if unknown := set(values) - known:
        raise ValueError(f"{cls.__name__} has the fields {sorted(known)}. Received unknown: {sorted(unknown)}")

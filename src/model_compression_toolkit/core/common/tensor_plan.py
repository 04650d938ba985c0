# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""One tensor of a plan: where it stands, how it is quantized, or why it is not."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.packing import packed_size
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import Granularity, QuantParams
from model_compression_toolkit.core.common.quantization_config import TensorConfig

__all__ = [
    "FrozenParams",
    "TensorPlan",
    "TensorSite",
    "inferable_method",
    "tensor_from_dict",
    "tensor_to_dict",
]

FrozenParams = QuantParams | LookupTable
"""What a quantizer freezes to: a grid of integers, or a table of levels."""


@dataclass(frozen=True, slots=True)
class TensorSite:
    """A tensor of the captured model that could be quantized.

    Attributes:
        layer: name of the layer or operation.
        tensor: name of the weight; "output" or "input" for activations.
        target: weight or activation.
        type: class of the layer or name of the operation.
        shape: shape of a weight; shape of one batch of an activation.
        channel_axis: axis of the output channels of a weight.
        first_or_last: whether it belongs to the first or last layer of the model, or feeds it.
        reason: why it cannot or need not be quantized; empty when it can.
        tied_to: name, `layer.tensor`, of the weight before it that is the same memory; empty when there is none.
        read_elsewhere: whether something besides the layer reads the float values of a weight, which files keep then.
    """

    layer: str
    tensor: str
    target: QuantizationTarget
    type: str
    shape: tuple[int, ...] = ()
    channel_axis: int | None = None
    first_or_last: bool = False
    reason: str = ""
    tied_to: str = ""
    read_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What happens to one tensor.

    Attributes:
        site: the tensor.
        config: how it is quantized, with nothing left out; None leaves it in float.
        params: its grid, once calibrated; after training its grid or table, None for a quantizer of the user's own.
        reason: why it, or what an export keeps of it, stays in float; empty when it is quantized to integers.
        training_method: name of the method that trains it, or has trained it; empty without training.
    """

    site: TensorSite
    config: TensorConfig | None = None
    params: FrozenParams | None = None
    reason: str = ""
    training_method: str = ""

    def __post_init__(self) -> None:
        if self.config is not None:
            object.__setattr__(self, "config", self.config.completed(self.site.target))

    @property
    def name(self) -> str:
        """`layer.tensor`."""
        return f"{self.site.layer}.{self.site.tensor}"

    @property
    def is_weight(self) -> bool:
        """Whether the tensor is a weight."""
        return self.site.target is QuantizationTarget.Weights

    def calibrated(self) -> tuple[TensorConfig, QuantParams]:
        """Configuration and grid of a quantized tensor.

        Raises:
            ValueError: the tensor is not quantized, or not calibrated yet.
        """
        if self.config is None or not isinstance(self.params, QuantParams):
            raise ValueError(f"{self.name} has no grid: it is not quantized, or not calibrated yet.")
        return self.config, self.params

    @property
    def num_elements(self) -> int:
        """Number of elements that a weight adds to the model: 0 where another layer's weight is the same memory."""
        return 0 if self.site.tied_to else math.prod(self.site.shape)

    @property
    def axis(self) -> int | None:
        """Axis along which the parameters vary; None per tensor."""
        if self.config is None or self.config.granularity is Granularity.PER_TENSOR:
            return None
        return self.site.channel_axis

    @property
    def num_bytes(self) -> int:
        """Bytes of a weight: of its packed integers, and of its table where it has one; 0 for activations.

        Of a weight in float, or whose float values are read elsewhere, those of its float32 values. Weights that are
        tied count each by itself; `QuantizationPlan.weight_bytes` counts once what is stored once.
        """
        if not self.is_weight:
            return 0
        size = math.prod(self.site.shape)
        if self.config is None or self.reason or self.site.read_elsewhere:
            return packed_size(size, 32)
        table = 4 * len(self.params.lut_values) if isinstance(self.params, LookupTable) else 0
        return packed_size(size, self.config.num_bits) + table


def inferable_method(
    params: FrozenParams, method: QuantizationMethod, target: QuantizationTarget
) -> QuantizationMethod:
    """The method of the inferable quantizer for parameters that training found on a grid of `method`."""
    if isinstance(params, QuantParams):
        return method
    # The one table quantizer of activations has power-of-two thresholds.
    is_power_of_two = method is QuantizationMethod.POWER_OF_TWO or target is QuantizationTarget.Activation
    return QuantizationMethod.LUT_POT_QUANTIZER if is_power_of_two else QuantizationMethod.LUT_SYM_QUANTIZER


def tensor_to_dict(tensor: TensorPlan) -> dict[str, Any]:
    """Plain values; `tensor_from_dict` restores an equal plan."""
    site = {**dataclasses.asdict(tensor.site), "target": tensor.site.target.value, "shape": list(tensor.site.shape)}
    for name in ("tied_to", "read_elsewhere"):
        # Of most tensors there is nothing to say.
        if not site[name]:
            del site[name]
    values = {
        "site": site,
        "config": None if tensor.config is None else tensor.config.to_dict(),
        "params": None if tensor.params is None else tensor.params.to_dict(),
        "reason": tensor.reason,
    }
    return {**values, "training_method": tensor.training_method} if tensor.training_method else values


def tensor_from_dict(values: Mapping[str, Any]) -> TensorPlan:
    """The plan that `tensor_to_dict` wrote.

    Raises:
        KeyError, TypeError, ValueError: a missing or wrong field.
    """
    site = dict(values["site"])
    site["target"] = QuantizationTarget(site["target"])
    if not all(isinstance(length, int) for length in site["shape"]):
        raise TypeError(f"`shape` must be integers. Received: {site['shape']!r}")
    site["shape"] = tuple(site["shape"])
    for name, kind in (("tied_to", str), ("read_elsewhere", bool)):
        if name in site and not isinstance(site[name], kind):
            raise TypeError(f"`{name}` must be of type {kind.__name__}. Received: {site[name]!r}")
    _check_count(site["shape"], values["params"])
    config, params = values["config"], values["params"]
    # Files of before have no name of a method.
    training_method = values.get("training_method", "")
    if not isinstance(training_method, str):
        raise TypeError(f"`training_method` must be text. Received: {training_method!r}")
    return TensorPlan(
        TensorSite(**site),
        None if config is None else TensorConfig.from_dict(config),
        _params_from_dict(params),
        values["reason"],
        training_method,
    )


def _check_count(shape: tuple[int, ...], params: Any) -> None:
    """Before they are read one by one: there are not more scales or thresholds than a tensor has elements."""
    for name in ("scale", "zero_point", "threshold"):
        numbers = params.get(name) if isinstance(params, Mapping) else None
        if isinstance(numbers, list) and len(numbers) > max(1, *shape):
            raise ValueError(
                f"`{name}` must hold at most one number for each channel of shape {shape}. Received: {len(numbers)}"
            )


def _params_from_dict(values: Mapping[str, Any] | None) -> FrozenParams | None:
    if values is None:
        return None
    return LookupTable(**values) if "lut_values" in values else QuantParams.from_dict(dict(values))

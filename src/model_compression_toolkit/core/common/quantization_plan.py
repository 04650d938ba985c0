# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A model's quantization as a value: which tensor of which layer gets which parameters, and why the others do not."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.packing import packed_size
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import Granularity, QuantParams
from model_compression_toolkit.core.common.quantization_config import CaptureMode, QuantizationConfig, TensorConfig

PLAN_VERSION = 1

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
    """

    layer: str
    tensor: str
    target: QuantizationTarget
    type: str
    shape: tuple[int, ...] = ()
    channel_axis: int | None = None
    first_or_last: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What happens to one tensor.

    Attributes:
        site: the tensor.
        config: how it is quantized; None leaves it in float.
        params: its grid, once calibrated; after training its grid or table, None for a quantizer of the user's own.
        reason: why it, or what an export keeps of it, stays in float; empty when it is quantized to integers.
    """

    site: TensorSite
    config: TensorConfig | None = None
    params: FrozenParams | None = None
    reason: str = ""

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
        """Number of elements of a weight."""
        size = 1
        for length in self.site.shape:
            size *= length
        return size

    @property
    def axis(self) -> int | None:
        """Axis along which the parameters vary; None per tensor."""
        if self.config is None or self.config.granularity is Granularity.PER_TENSOR:
            return None
        return self.site.channel_axis

    @property
    def num_bytes(self) -> int:
        """Bytes of a weight: of its packed integers, and of its table where it has one; 0 for activations.

        Of a weight in float those of its float32 values.
        """
        if not self.is_weight:
            return 0
        if self.config is None or self.reason:
            return packed_size(self.num_elements, 32)
        table = 4 * len(self.params.lut_values) if isinstance(self.params, LookupTable) else 0
        return packed_size(self.num_elements, self.config.num_bits) + table


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """The quantization of a whole model.

    Attributes:
        tensors: one entry for each tensor, in the order of execution.
        capture: how the model was seen: graph or modules.
        notes: what a reader should know, such as why the model could not be traced.
        batch_norms: layer into which each batch norm is folded, by the name of the batch norm.
        live_batch_norms: the batch norms that train along and are folded when training ends.
    """

    tensors: tuple[TensorPlan, ...]
    capture: CaptureMode
    notes: tuple[str, ...] = ()
    batch_norms: Mapping[str, str] = field(default_factory=dict)
    live_batch_norms: tuple[str, ...] = ()

    def quantized(self, target: QuantizationTarget | None = None) -> tuple[TensorPlan, ...]:
        """The tensors that are quantized, all or those of one target."""
        return tuple(t for t in self.tensors if t.config is not None and target in (None, t.site.target))

    def skipped(self) -> tuple[TensorPlan, ...]:
        """The tensors that stay in float; each has its reason."""
        return tuple(tensor for tensor in self.tensors if tensor.config is None)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all listed weights: packed integers at their true width, float32 for those in float."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    def __getitem__(self, name: str) -> TensorPlan:
        """The tensor named `layer.tensor`.

        Raises:
            KeyError: the plan has no such tensor.
        """
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(f"The plan has no tensor {name!r}. It has {[tensor.name for tensor in self.tensors]}")

    def with_params(self, params: Mapping[str, FrozenParams | None]) -> Self:
        """The same plan with the grids of some tensors, by `layer.tensor`."""
        unknown = set(params) - {tensor.name for tensor in self.tensors}
        if unknown:
            raise KeyError(f"The plan has no tensors {sorted(unknown)}.")
        tensors = tuple(
            dataclasses.replace(tensor, params=params.get(tensor.name, tensor.params)) for tensor in self.tensors
        )
        return dataclasses.replace(self, tensors=tensors)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` restores an equal plan."""
        return {
            "version": PLAN_VERSION,
            "capture": self.capture.value,
            "notes": list(self.notes),
            "batch_norms": dict(self.batch_norms),
            "live_batch_norms": list(self.live_batch_norms),
            "tensors": [_tensor_to_dict(tensor) for tensor in self.tensors],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The plan that `to_dict` wrote.

        Raises:
            ValueError: no plan, or one of another version.
        """
        version = values.get("version") if isinstance(values, Mapping) else None
        if version != PLAN_VERSION:
            raise ValueError(f"Expected a quantization plan of version {PLAN_VERSION}. Received: version={version!r}")
        try:
            return cls(
                tensors=tuple(_tensor_from_dict(tensor) for tensor in values["tensors"]),
                capture=CaptureMode(values["capture"]),
                notes=tuple(values["notes"]),
                batch_norms=dict(values["batch_norms"]),
                live_batch_norms=tuple(values["live_batch_norms"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"Expected a quantization plan. Received one with a missing or wrong field: {error}"
            ) from error


def inferable_method(
    params: FrozenParams, method: QuantizationMethod, target: QuantizationTarget
) -> QuantizationMethod:
    """The method of the inferable quantizer for parameters that training found on a grid of `method`."""
    if isinstance(params, QuantParams):
        return method
    # The one table quantizer of activations has power-of-two thresholds.
    is_power_of_two = method is QuantizationMethod.POWER_OF_TWO or target is QuantizationTarget.Activation
    return QuantizationMethod.LUT_POT_QUANTIZER if is_power_of_two else QuantizationMethod.LUT_SYM_QUANTIZER


def build_plan(
    sites: Iterable[TensorSite],
    config: QuantizationConfig,
    capture: CaptureMode,
    notes: Iterable[str] = (),
) -> QuantizationPlan:
    """Decide for each tensor whether and how it is quantized; the parameters come later, from calibration."""
    return QuantizationPlan(tuple(_decide(site, config) for site in sites), capture, tuple(notes))


def _decide(site: TensorSite, config: QuantizationConfig) -> TensorPlan:
    is_weight = site.target is QuantizationTarget.Weights
    tensor_config = config.weights if is_weight else config.activations
    reason = site.reason
    if site.first_or_last and config.first_last_bits is not None:
        tensor_config = dataclasses.replace(tensor_config, num_bits=config.first_last_bits)
    for rule in config.rules:
        if not rule.matches(site.layer, site.type):
            continue
        if not rule.quantize:
            reason = reason or "left in float by a rule of the configuration"
        bits = rule.weight_bits if is_weight else rule.activation_bits
        if bits is not None:
            tensor_config = dataclasses.replace(tensor_config, num_bits=bits)
    if config.filter is not None and not config.filter(site.layer, site.type):
        reason = reason or "left in float by the filter of the configuration"
    return TensorPlan(site, reason=reason) if reason else TensorPlan(site, tensor_config)


def _tensor_to_dict(tensor: TensorPlan) -> dict[str, Any]:
    site = {**dataclasses.asdict(tensor.site), "target": tensor.site.target.value, "shape": list(tensor.site.shape)}
    return {
        "site": site,
        "config": None if tensor.config is None else tensor.config.to_dict(),
        "params": None if tensor.params is None else tensor.params.to_dict(),
        "reason": tensor.reason,
    }


def _tensor_from_dict(values: Mapping[str, Any]) -> TensorPlan:
    site = dict(values["site"])
    site["target"] = QuantizationTarget(site["target"])
    if not all(isinstance(length, int) for length in site["shape"]):
        raise TypeError(f"`shape` must be integers. Received: {site['shape']!r}")
    site["shape"] = tuple(site["shape"])
    _check_count(site["shape"], values["params"])
    config, params = values["config"], values["params"]
    return TensorPlan(
        TensorSite(**site),
        None if config is None else TensorConfig.from_dict(config),
        _params_from_dict(params),
        values["reason"],
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

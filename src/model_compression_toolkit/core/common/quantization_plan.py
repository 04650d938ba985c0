# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A model's quantization as a value: which tensor of which layer gets which parameters, and why the others do not."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_config import CaptureMode, QuantizationConfig
from model_compression_toolkit.core.common.tensor_choices import choose
from model_compression_toolkit.core.common.tensor_plan import (
    FrozenParams,
    TensorPlan,
    TensorSite,
    inferable_method,
    tensor_from_dict,
    tensor_to_dict,
)

__all__ = ["FrozenParams", "QuantizationPlan", "TensorPlan", "TensorSite", "build_plan", "inferable_method"]

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """The quantization of a whole model.

    Attributes:
        tensors: one entry for each tensor, in the order of execution.
        capture: how the model was seen: graph or modules.
        notes: what a reader should know, such as why the model could not be traced.
        batch_norms: layer into which each batch norm is folded, by the name of the batch norm.
        live_batch_norms: the batch norms that train along and are folded when training ends.
        arguments: what the arguments of a graph were given as, in plain values; empty where each that is needed was a
            tensor, and no other was given.
    """

    tensors: tuple[TensorPlan, ...]
    capture: CaptureMode
    notes: tuple[str, ...] = ()
    batch_norms: Mapping[str, str] = field(default_factory=dict)
    live_batch_norms: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def quantized(self, target: QuantizationTarget | None = None) -> tuple[TensorPlan, ...]:
        """The tensors that are quantized, all or those of one target."""
        return tuple(t for t in self.tensors if t.config is not None and target in (None, t.site.target))

    def skipped(self) -> tuple[TensorPlan, ...]:
        """The tensors that stay in float; each has its reason."""
        return tuple(tensor for tensor in self.tensors if tensor.config is None)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all listed weights: packed integers at their true width, float32 for those in float.

        Weights that are tied and quantized alike count once.
        """
        return sum(tensor.num_bytes for tensor in self.tensors if not self.is_stored_with_another(tensor))

    def is_stored_with_another(self, tensor: TensorPlan) -> bool:
        """Whether a weight is the memory of one before it and quantized like that one, on the same grid."""
        if not tensor.site.tied_to:
            return False
        owner = next((other for other in self.tensors if other.name == tensor.site.tied_to), None)
        return owner is not None and (owner.config, owner.params, owner.reason, owner.site.read_elsewhere) == (
            tensor.config,
            tensor.params,
            tensor.reason,
            tensor.site.read_elsewhere,
        )

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

    def __str__(self) -> str:
        """The table of what is quantized, the notes, and how much stays in float."""
        # Imported for those who print: it takes longer than the rest of the package.
        from model_compression_toolkit.core.common.tensor_table import table_text

        notes = [f"note: {note}" for note in self.notes]
        skipped = len(self.skipped())
        rest = [f"{skipped} tensors in float; `skipped()` lists them with the reasons"] if skipped else []
        return "\n".join([table_text(self.quantized()), *notes, *rest])

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` restores an equal plan."""
        return {
            "version": PLAN_VERSION,
            "capture": self.capture.value,
            "notes": list(self.notes),
            "batch_norms": dict(self.batch_norms),
            "live_batch_norms": list(self.live_batch_norms),
            **({"arguments": dict(self.arguments)} if self.arguments else {}),
            "tensors": [tensor_to_dict(tensor) for tensor in self.tensors],
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
                tensors=tuple(tensor_from_dict(tensor) for tensor in values["tensors"]),
                capture=CaptureMode(values["capture"]),
                notes=tuple(values["notes"]),
                batch_norms=dict(values["batch_norms"]),
                live_batch_norms=tuple(values["live_batch_norms"]),
                arguments=dict(values.get("arguments", {})),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"Expected a quantization plan. Received one with a missing or wrong field: {error}"
            ) from error


def build_plan(
    sites: Iterable[TensorSite],
    config: QuantizationConfig,
    capture: CaptureMode,
    notes: Iterable[str] = (),
) -> QuantizationPlan:
    """Decide for each tensor whether and how it is quantized; the parameters come later, from calibration.

    Args:
        sites: the tensors, in the order of execution.
        config: what the user asks for.
        capture: how the model was seen.
        notes: what a reader should know of that. Rules and filters that change nothing are noted behind.

    Raises:
        TypeError: the filter returns something else than True or False.
        ValueError: a rule selects no tensor; the text lists near names and the types.
    """
    tensors, more_notes = choose(tuple(sites), config)
    return QuantizationPlan(tensors, capture, (*notes, *more_notes))

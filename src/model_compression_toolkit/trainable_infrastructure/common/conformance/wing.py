# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a framework does for the conformance checks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from model_compression_toolkit.trainable_infrastructure.common.conformance.cases import Array

__all__ = ["Output", "TrainingCall", "Wing"]


class Output(NamedTuple):
    """What a quantizer gave: its values, float16 and bfloat16 as float32, and the name of its dtype."""

    values: Array
    dtype: str


class TrainingCall(NamedTuple):
    """A call in training and the gradients of its output, weighted; None where no gradient arrives."""

    output: Array
    to_input: Array | None
    to_variables: dict[str, Array | None]


class Wing(Protocol):
    """What a framework does for the checks. A carrier is the wrapper or holder around a quantizer."""

    name: str
    channels_first: bool
    compile_equals: str
    """What the compiled function is held against, for the report."""
    compiles_training: bool

    @property
    def inferable_base(self) -> type:
        """Base of the inferable quantizers."""

    def carry(self, quantizer: Any, values: Array, is_weight: bool) -> Any:
        """A carrier that is built: a holder, or the wrapper of a layer that gives its weight, which is `values`."""

    def call(self, quantizer: Any, values: Array, training: bool | None = None, dtype: str = "float32") -> Output:
        """Call the quantizer itself; with the flag unless `training` is None."""

    def input_after(self, quantizer: Any, values: Array, training: bool) -> Array:
        """What stands in the input tensor after a call."""

    def run(self, carrier: Any, values: Array, training: bool = False, compiled: bool = False) -> Array:
        """Call the carrier: a holder with `values`, a wrapper on the weight that it has."""

    def train(self, carrier: Any, values: Array, upstream: Array, compiled: bool = False) -> TrainingCall:
        """Call the carrier in training, with the gradients of its output times `upstream`."""

    def variables(self, carrier: Any) -> dict[str, Any]:
        """The trainable variables that the carrier knows of, without the float weight."""

    def change(self, variable: Any, update: Callable[[Array], Array]) -> None:
        """Put new values into a variable."""

    def is_trainable(self, variable: Any) -> bool:
        """Whether a variable of the framework gets a gradient."""

    def state(self, carrier: Any) -> dict[str, Array]:
        """Everything that is saved with the carrier, without the float weight."""

    def float_weight(self, carrier: Any) -> Array | None:
        """The float weight of a wrapper."""

    def frozen_weight(self, quantizer: Any, values: Array) -> Array:
        """The weight to which what the quantizer freezes to is applied."""

    def codes(self, quantizer: Any, values: Array) -> Array:
        """Integer codes that the quantizer's `quantize` gives."""

    def copies(self, carrier: Any, values: Array) -> Iterator[tuple[str, Any]]:
        """How the framework copies models, and the copy."""

    def reloaded(self, carrier: Any, fresh: Callable[[], Any], values: Array) -> Any:
        """The carrier saved, and loaded into a fresh one."""

    def converted(self, carrier: Any) -> tuple[Any, Any]:
        """The carrier with inferable quantizers, and its quantizer; the one that is given may change."""

    def seeded(self) -> AbstractContextManager[Any]:
        """Inside, random numbers are the same each time, where the framework has a seed that can be put back."""

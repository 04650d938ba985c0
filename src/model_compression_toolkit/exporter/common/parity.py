# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The proof that a file computes what the model computes, as a value: integer by integer, in the order of execution."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mct_quantizers.common.quant_info import QuantizationTarget

__all__ = ["DEFAULT_OUTPUT", "OUTPUT", "VALUE_TOLERANCE", "Compared", "ParityReport", "TensorParity", "near_tie_bound"]

OUTPUT = "output"
"""Name under which the model's outputs count as a divergence."""

DEFAULT_OUTPUT = "output in a session with default optimizations"
"""Name under which a difference counts that only the engine's optimizations make."""

OUTPUT_TOLERANCE = 1e-3
VALUE_TOLERANCE = 1e-5
"""By how much, relative to the greatest, values may differ that two engines computed with the same operations."""


class Compared(StrEnum):
    """What of a tensor is compared."""

    INTEGERS = "integers"
    """The codes on its grid."""
    INDICES = "indices"
    """The positions of its levels in the sorted table."""
    VALUES = "values"
    """What a quantizer of the user's own made, which has neither."""


def near_tie_bound(num_bits: int, compared: Compared = Compared.INTEGERS) -> float:
    """How far, in steps, a value may lie from a tie for its rounding to be left to the order of a float sum.

    A float32 sum is good to some 2**-19 of the range; in steps of a range of 2**num_bits that is 2**(num_bits - 19).
    The bound is 64 times as much, and not below that of 8 bits, unless a table may have levels closer than steps.
    """
    return float(2.0 ** ((num_bits if compared is Compared.INDICES else max(num_bits, 8)) - 13))


@dataclass(frozen=True, slots=True)
class TensorParity:
    """How the integers of one tensor compare between file and model.

    Attributes:
        name: `layer.tensor`, as in the plan.
        target: weight or activation.
        num_bits: width of the integers.
        num_elements: what was compared: elements of a weight; all values of an activation over all samples.
        num_different: how many of them differ; of an activation's values those that differ by more than rounding.
        max_steps: greatest difference of integers or indices.
        near_tie_excess: how far beyond a tie, in steps, the model's value lies where a code differs; 0 at a tie. For
            values how far the file's are from what the quantizer gives next to its input, relative to the greatest.
        grid_differs: whether scale, zero point or table in the file are not those of the model.
        compared: what was compared.
        max_difference: greatest difference of values.
    """

    name: str
    target: QuantizationTarget
    num_bits: int
    num_elements: int
    num_different: int = 0
    max_steps: int = 0
    near_tie_excess: float = 0.0
    grid_differs: bool = False
    compared: Compared = Compared.INTEGERS
    max_difference: float = 0.0

    @property
    def diverges(self) -> bool:
        """Whether the file computes something else here.

        Any difference in a weight; in an activation a difference of more than one step, or of one step where the
        model's value is no tie. One step at a tie comes from the order in which an engine adds floats. Levels of a
        table can lie closer than steps: there the distance to the tie alone counts, in steps of a grid of as many bits.
        """
        if self.grid_differs:
            return True
        if self.target is QuantizationTarget.Weights:
            return self.num_different > 0
        if self.compared is Compared.VALUES:
            return self.near_tie_excess > VALUE_TOLERANCE
        is_far = self.compared is Compared.INTEGERS and self.max_steps > 1
        return is_far or self.near_tie_excess > near_tie_bound(self.num_bits, self.compared)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        words = {"target": self.target.value, "compared": self.compared.value}
        return {**dataclasses.asdict(self), **words, "diverges": self.diverges}


@dataclass(frozen=True, slots=True)
class ParityReport:
    """How a file and the model that it was made from compare.

    Codes are compared tensor by tensor: each activation of the file, run without the engine's optimizations, against
    the model given the file's own earlier integers, so that one difference does not cause another.

    Attributes:
        tensors: every quantized tensor of the file, in the order of execution.
        num_samples: samples that were run; 0 when only weights were compared.
        file_size: bytes of the file.
        weight_bytes: bytes of the quantized weights' integers, packed at their true width.
        argmax_agreement: share of samples with the same class, the file run freely without the engine's optimizations;
            None without a class axis (an output of shape (N, C), C > 1).
        default_session_argmax_agreement: the same with the engine as it comes.
        max_output_difference: greatest difference of an output, the file run freely without optimizations.
        default_session_max_output_difference: the same with the engine as it comes.
        replayed_output_difference: greatest difference of an output given the same integers, relative to the output's
            greatest magnitude: what lies behind the last quantized tensor.
        default_session_error: root of the mean squared difference of an output with the engine as it comes, relative to
            that of the output.
        default_session_tolerance: what it may be; see `default_session.py`.
        not_compared: the quantized tensors that `tensors` leaves out, each with the reason.
    """

    tensors: tuple[TensorParity, ...]
    num_samples: int
    file_size: int
    weight_bytes: int
    argmax_agreement: float | None = None
    default_session_argmax_agreement: float | None = None
    max_output_difference: float = 0.0
    default_session_max_output_difference: float = 0.0
    replayed_output_difference: float = 0.0
    default_session_error: float = 0.0
    default_session_tolerance: float = 0.0
    not_compared: tuple[str, ...] = ()

    @property
    def first_divergence(self) -> str | None:
        """Name of the first tensor where the file computes something else; None if nowhere.

        `OUTPUT` where it does after the last tensor, `DEFAULT_OUTPUT` where only the engine's optimizations do.
        """
        for tensor in self.tensors:
            if tensor.diverges:
                return tensor.name
        # A NaN is a difference too.
        if not self.replayed_output_difference <= OUTPUT_TOLERANCE:
            return OUTPUT
        return None if self.default_session_error <= self.default_session_tolerance else DEFAULT_OUTPUT

    @property
    def passed(self) -> bool:
        """Whether the file computes what the model computes, code by code and in the engine as it comes."""
        return self.first_divergence is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tensors"}
        verdict = {"passed": self.passed, "first_divergence": self.first_divergence}
        numbers["not_compared"] = list(self.not_compared)
        return {**verdict, **numbers, "tensors": [tensor.to_dict() for tensor in self.tensors]}

    def render(self) -> Group:
        """A table of all tensors and the summary, for `rich`."""
        table = Table("tensor", "kind", title="Parity of file and model", title_justify="left")
        table.columns[0].overflow = "fold"
        for heading in ("bits", "integers", "different", "steps", "past tie"):
            table.add_column(heading, justify="right", no_wrap=True)
        for tensor in self.tensors:
            compared = f"{tensor.num_elements:,}"
            if tensor.compared is not Compared.INTEGERS:
                compared += f" {tensor.compared.value}"
            excess = f"{tensor.near_tie_excess:.1e}" if tensor.num_different else ""
            cells = (str(tensor.num_bits), compared, f"{tensor.num_different:,}", _largest([tensor]), excess)
            style = "bold red" if tensor.diverges else "yellow" if tensor.num_different else None
            table.add_row(Text(tensor.name), tensor.target.value, *cells, style=style)
        lines = list(self._summary())
        return Group(table, Text(lines[0], style="bold green" if self.passed else "bold red"), *map(Text, lines[1:]))

    def __str__(self) -> str:
        return "\n".join(self._summary())

    def _summary(self) -> Iterator[str]:
        where = f"the file diverges from the model, first at {self.first_divergence}"
        yield f"Parity {'passed' if self.passed else 'FAILED'}: " + (
            "the file computes what the model computes" if self.passed else where
        )
        for word, target in (("weights", QuantizationTarget.Weights), ("activations", QuantizationTarget.Activation)):
            for compared in Compared:
                of_kind = [t for t in self.tensors if t.target is target and t.compared is compared]
                if of_kind:
                    different, total = sum(t.num_different for t in of_kind), sum(t.num_elements for t in of_kind)
                    by = "by at most " + _largest(of_kind) + ("" if compared is Compared.VALUES else " steps")
                    yield f"  {len(of_kind)} {word}: {different:,} of {total:,} {compared.value} differ, {by}"
        for name in self.not_compared:
            yield f"  not compared: {name}"
        if self.num_samples:
            yield f"  outputs over {self.num_samples:,} samples, largest difference: {self.max_output_difference:.3g}"
            allowed = f"error {self.default_session_error:.2g}, allowed {self.default_session_tolerance:.2g}"
            largest = self.default_session_max_output_difference
            yield f"    in a session with default optimizations: {largest:.3g} ({allowed})"
        if self.argmax_agreement is not None and self.default_session_argmax_agreement is not None:
            default = f"{self.default_session_argmax_agreement:.2%} with default optimizations"
            yield f"  same class: {self.argmax_agreement:.2%} of the samples, {default}"
        yield f"  file: {self.file_size:,} bytes; integers of the weights, packed: {self.weight_bytes:,} bytes"


def _largest(tensors: Sequence[TensorParity]) -> str:
    """The largest difference of tensors that were compared alike."""
    if tensors[0].compared is Compared.VALUES:
        return f"{max(tensor.max_difference for tensor in tensors):.3g}"
    return f"{max(tensor.max_steps for tensor in tensors):,}"

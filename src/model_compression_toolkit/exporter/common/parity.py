# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The proof that a file computes what the model computes, as a value: integer by integer, in the order of execution."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mct_quantizers.common.quant_info import QuantizationTarget

__all__ = ["OUTPUT", "ParityReport", "TensorParity", "near_tie_bound"]

OUTPUT = "output"
"""Name under which the model's outputs count as a divergence."""

OUTPUT_TOLERANCE = 1e-3


def near_tie_bound(num_bits: int) -> float:
    """How far, in steps, a value may lie from a tie for its rounding to be left to the order of a float sum.

    A float32 sum is good to some 2**-19 of the range; in steps of a range of 2**num_bits that is 2**(num_bits - 19).
    The bound is 64 times as much, and not below that of 8 bits.
    """
    return float(2.0 ** (max(num_bits, 8) - 13))


@dataclass(frozen=True, slots=True)
class TensorParity:
    """How the integers of one tensor compare between file and model.

    Attributes:
        name: `layer.tensor`, as in the plan.
        target: weight or activation.
        num_bits: width of the integers.
        num_elements: integers compared: elements of a weight; all values of an activation over all samples.
        num_different: how many of them differ.
        max_steps: greatest difference, in steps.
        near_tie_excess: how far beyond a tie, in steps, the model's value lies where a code differs; 0 at a tie.
        grid_differs: whether scale or zero point in the file are not those of the model.
    """

    name: str
    target: QuantizationTarget
    num_bits: int
    num_elements: int
    num_different: int = 0
    max_steps: int = 0
    near_tie_excess: float = 0.0
    grid_differs: bool = False

    @property
    def diverges(self) -> bool:
        """Whether the file computes something else here.

        Any difference in a weight; in an activation a difference of more than one step, or of one step where the
        model's value is no tie. One step at a tie comes from the order in which an engine adds floats.
        """
        if self.grid_differs or self.max_steps > 1:
            return True
        if self.target is QuantizationTarget.Weights:
            return self.num_different > 0
        return self.near_tie_excess > near_tie_bound(self.num_bits)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "target": self.target.value, "diverges": self.diverges}


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

    @property
    def first_divergence(self) -> str | None:
        """Name of the first tensor where the file computes something else, `OUTPUT` after the last; None if nowhere."""
        for tensor in self.tensors:
            if tensor.diverges:
                return tensor.name
        # A NaN is a difference too.
        return None if self.replayed_output_difference <= OUTPUT_TOLERANCE else OUTPUT

    @property
    def passed(self) -> bool:
        """Whether the file computes what the model computes."""
        return self.first_divergence is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tensors"}
        verdict = {"passed": self.passed, "first_divergence": self.first_divergence}
        return {**verdict, **numbers, "tensors": [tensor.to_dict() for tensor in self.tensors]}

    def render(self) -> Group:
        """A table of all tensors and the summary, for `rich`."""
        table = Table("tensor", "kind", title="Parity of file and model", title_justify="left")
        table.columns[0].overflow = "fold"
        for heading in ("bits", "integers", "different", "steps", "past tie"):
            table.add_column(heading, justify="right")
        for tensor in self.tensors:
            numbers = (tensor.num_bits, tensor.num_elements, tensor.num_different, tensor.max_steps)
            excess = f"{tensor.near_tie_excess:.1e}" if tensor.num_different else ""
            style = "bold red" if tensor.diverges else "yellow" if tensor.num_different else None
            table.add_row(Text(tensor.name), tensor.target.value, *(f"{n:,}" for n in numbers), excess, style=style)
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
            of_kind = [tensor for tensor in self.tensors if tensor.target is target]
            if of_kind:
                different = sum(tensor.num_different for tensor in of_kind)
                total, steps = sum(t.num_elements for t in of_kind), max(t.max_steps for t in of_kind)
                yield f"  {len(of_kind)} {word}: {different:,} of {total:,} integers differ, by at most {steps} steps"
        if self.num_samples:
            yield f"  outputs over {self.num_samples:,} samples, largest difference: {self.max_output_difference:.3g}"
            yield f"    in a session with default optimizations: {self.default_session_max_output_difference:.3g}"
        if self.argmax_agreement is not None and self.default_session_argmax_agreement is not None:
            default = f"{self.default_session_argmax_agreement:.2%} with default optimizations"
            yield f"  same class: {self.argmax_agreement:.2%} of the samples, {default}"
        yield f"  file: {self.file_size:,} bytes; integers of the weights, packed: {self.weight_bytes:,} bytes"

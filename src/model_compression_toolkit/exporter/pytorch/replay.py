# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a comparison of a file and its model collects over many batches: integers of activations, and outputs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.exporter.pytorch.tensor_comparison import (
    Difference,
    compare_activation,
    quantized_by,
    values_in_file,
)

Array = npt.NDArray[Any]


def use_name(name: str, use: int) -> str:
    """Name of the n-th use of a tensor's quantizer in one run: the tensor's own, then `name:2`, `name:3`, …."""
    return name if use == 1 else f"{name}:{use}"


@dataclass
class Tally:
    """What was seen of an activation so far.

    Attributes:
        total: the differences of all its uses in all batches.
        uses: names of the uses of the quantizer.
    """

    total: Difference = field(default_factory=lambda: Difference(0))
    uses: set[str] = field(default_factory=set)

    def add(self, use: str, difference: Difference) -> None:
        """Take in a use in a batch."""
        self.uses.add(use)
        self.total = Difference(
            self.total.num_elements + difference.num_elements,
            self.total.num_different + difference.num_different,
            max(self.total.max_steps, difference.max_steps),
            max(self.total.excess, difference.excess),
            max(self.total.max_difference, difference.max_difference),
        )


class Replay:
    """Quantizes to what a run of the file has instead of to its own integers, and counts where its own differ.

    Args:
        own: the activation quantizers of the user's own that have neither grid nor table, by name of the tensor.

    Attributes:
        tallies: what was seen, by name of the tensor.
    """

    def __init__(self, own: Mapping[str, Any]) -> None:
        self.tallies: dict[str, Tally] = {}
        self._own = own

    def start(self, quantized: dict[str, Array]) -> None:
        """Replay a run from now on: its `Run.quantized`."""
        self._quantized = quantized
        self._calls: Counter[str] = Counter()

    def quantize(self, x: Tensor, tensor: TensorPlan) -> Tensor:
        """The file's value for this use of `tensor`, compared with that of `x`."""
        self._calls[tensor.name] += 1
        use = use_name(tensor.name, self._calls[tensor.name])
        if use not in self._quantized:
            # The export has found that nothing depends on this value.
            return self.quantized(x, tensor)
        theirs = torch.from_numpy(self._quantized[use])
        self.tallies.setdefault(tensor.name, Tally()).add(
            use, compare_activation(x, theirs, tensor, self._own.get(tensor.name))
        )
        return values_in_file(theirs, tensor)

    def quantized(self, x: Tensor, tensor: TensorPlan) -> Tensor:
        """What the model makes of `x`."""
        return quantized_by(x, tensor, self._own.get(tensor.name))

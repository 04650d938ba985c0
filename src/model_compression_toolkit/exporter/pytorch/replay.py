# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What a comparison of a file and its model collects over many batches: integers of activations, and outputs."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mct_quantizers.common import arithmetic
from mct_quantizers.common.quant_params import IntArray, QuantParams
from mct_quantizers.pytorch import ops as torch_ops
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.exporter.pytorch.frozen import params_of

Array = npt.NDArray[Any]


def use_name(name: str, use: int) -> str:
    """Name of the n-th use of a tensor's quantizer in one run: the tensor's own, then `name:2`, `name:3`, …."""
    return name if use == 1 else f"{name}:{use}"


@dataclass
class Tally:
    """What was seen of an activation so far.

    Attributes:
        num_elements: integers compared.
        num_different: how many differed.
        max_steps: greatest difference.
        excess: how far beyond a tie the model's value lay where integers differed, in steps.
        uses: names of the uses of the quantizer.
    """

    num_elements: int = 0
    num_different: int = 0
    max_steps: int = 0
    excess: float = 0.0
    uses: set[str] = field(default_factory=set)

    def compare(self, x: Tensor, centered: Tensor, params: QuantParams) -> None:
        """Take in a batch: the model's values and the file's integers less their zero points, as floats."""
        low, high = params.quant_min - int(params.zero_point[0]), params.quant_max - int(params.zero_point[0])
        position = x / torch.tensor(params.scale, dtype=torch.float32)
        # NaN has no code in the file: as far away as can be.
        steps = (position.round().clamp(low, high) - centered).abs().nan_to_num(nan=float(high - low))
        different = steps > 0
        self.num_elements += steps.numel()
        if different.any():
            distance = (position.clamp(low, high) - centered).abs().nan_to_num(nan=float(high - low))
            self.num_different += int(different.sum())
            self.max_steps = max(self.max_steps, int(steps.max()))
            self.excess = max(self.excess, float(distance[different].max()) - 0.5)


class Replay:
    """Quantizes to the integers of a run of the file instead of its own, and counts where its own differ.

    Attributes:
        tallies: what was seen, by name of the tensor.
    """

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}

    def start(self, centered: dict[str, IntArray]) -> None:
        """Replay a run from now on: its integers less their zero points, by name of the use."""
        self._centered = centered
        self._calls: Counter[str] = Counter()

    def quantize(self, x: Tensor, tensor: TensorPlan) -> Tensor:
        """The value of the file's integers for this use of `tensor`, compared with those of `x`."""
        params = params_of(tensor)
        self._calls[tensor.name] += 1
        use = use_name(tensor.name, self._calls[tensor.name])
        if use not in self._centered:
            # The export has found that nothing depends on this value.
            result: Tensor = arithmetic.fake_quantize(x, params, torch_ops)
            return result
        theirs = torch.from_numpy(self._centered[use]).float()
        tally = self.tallies.setdefault(tensor.name, Tally())
        tally.uses.add(use)
        tally.compare(x, theirs, params)
        return theirs * torch.tensor(params.scale, dtype=torch.float32)


class OutputComparison:
    """Largest difference and share of equal classes of the outputs of many batches."""

    def __init__(self) -> None:
        self.largest, self.relative = 0.0, 0.0
        self._same_class: list[Array] = []

    @property
    def agreement(self) -> float | None:
        """Share of samples with the same class; None without classes."""
        return float(np.concatenate(self._same_class).mean()) if self._same_class else None

    def compare(self, received: list[Array], expected: list[Array], count: int) -> None:
        """Take in a batch, of which the first `count` samples matter."""
        has_class = False
        for ours, theirs in zip(expected, received, strict=True):
            if not np.issubdtype(ours.dtype, np.floating):
                continue
            with np.errstate(invalid="ignore"):
                equal = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
                difference = np.where(equal, 0.0, np.abs(ours - theirs)).max(initial=0.0)
                magnitude = np.abs(ours).max(initial=np.finfo(np.float32).tiny)
            # Not `max` of Python, which would drop a NaN.
            self.largest = float(np.maximum(self.largest, difference))
            self.relative = float(np.maximum(self.relative, difference / magnitude))
            if ours.ndim == 2 and ours.shape[1] > 1 and not has_class:
                has_class = True
                self._same_class.append((ours.argmax(axis=1) == theirs.argmax(axis=1))[:count])

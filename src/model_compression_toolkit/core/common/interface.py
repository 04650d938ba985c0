# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the facades of both frameworks share: refusing what is not supported, and what they tell the user."""

from dataclasses import dataclass
from typing import Any

from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan


@dataclass(frozen=True, slots=True)
class UserInformation:
    """What a facade tells about the model it returns.

    Attributes:
        quantization_plan: what was quantized, and what was not, and why.
    """

    quantization_plan: QuantizationPlan

    @property
    def mixed_precision_cfg(self) -> list[int]:
        """Width of each quantized weight, in the order of execution."""
        return [t.config.num_bits for t in self.quantization_plan.quantized() if t.is_weight and t.config is not None]


def refuse_unsupported(**arguments: Any) -> None:
    """Arguments of the interface that must be None until they are supported.

    Raises:
        NotImplementedError: one is given.
    """
    for name, value in arguments.items():
        if value is not None:
            raise NotImplementedError(f"`{name}` is not supported yet and must be None. Received: {value!r}")

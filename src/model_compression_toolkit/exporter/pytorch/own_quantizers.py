# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantizers of the user's own that have neither a grid nor a table: known by what they compute only."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.constants import TRAINING
from mct_quantizers.common.quantizer_dispatch import takes_training

__all__ = ["FixedValues", "in_inference", "values_of"]


class FixedValues(BaseInferableQuantizer, nn.Module):
    """Takes the place of a weight quantizer: gives values, whatever the weight is.

    Args:
        values: the quantized weight.
    """

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self, inputs: Tensor) -> Tensor:
        """The values."""
        del inputs
        return self.values


def in_inference(quantizer: Any, inputs: Tensor) -> Tensor:
    """What `quantizer` gives in inference, whether its call has an argument for training or not."""
    result: Tensor = quantizer(inputs, **({TRAINING: False} if takes_training(quantizer) else {}))
    return result


@torch.no_grad()
def values_of(quantizer: Any, weight: Tensor) -> Tensor:
    """The quantized weight in inference: float32, on the CPU. The quantizer keeps its mode."""
    copied = copy.deepcopy(quantizer)
    if isinstance(copied, nn.Module):
        copied.eval()
    return in_inference(copied, weight.detach()).detach().cpu().float().clone()

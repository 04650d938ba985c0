# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Comparisons, and quantizers of a user, shared by the tests of the wing."""

import numpy as np
import torch
from torch import Tensor, nn

from mct_quantizers import BaseInferableQuantizer, pytorch_quantizers
from mct_quantizers.common.quant_params import QuantParams


def assert_same_bits(actual: Tensor, expected: np.ndarray) -> None:
    """Equal to the last bit, the sign of zero included; any NaN equals any NaN."""
    ours = actual.detach().cpu().numpy()
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    integer = {2: np.int16, 4: np.int32, 8: np.int64}[ours.dtype.itemsize]
    same = (ours.view(integer) == expected.view(integer)) | (np.isnan(ours) & np.isnan(expected))
    assert same.all(), (ours[~same][:5], expected[~same][:5], int((~same).sum()))


def aligned(params: QuantParams, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Scale and zero point as tensors of shape (C, 1) for the samples of `corners`."""
    scale = torch.tensor(params.scale, dtype=dtype).view(-1, 1)
    return scale, torch.tensor(params.zero_point, dtype=torch.int32).view(-1, 1)


class StepQuantizer(BaseInferableQuantizer):
    """A user's trainable quantizer, no module: learns `step` on the layer, rounds straight through."""

    def __init__(self, step: float = 0.25) -> None:
        self.initial_step = step

    def initialize_quantization(self, tensor_shape, name, layer):
        self.tensor_shape, self.name, self.layer_type = tensor_shape, name, type(layer)
        layer.register_parameter(f"{name}_step", nn.Parameter(torch.tensor([self.initial_step])))
        self.step = layer.get_parameter(f"{name}_step")
        return {"step": self.step}

    def __call__(self, inputs):
        ratio = inputs / self.step
        # Both differences are exact: the value is the rounded one to the bit.
        return (ratio + (torch.round(ratio) - ratio).detach()) * self.step

    def convert2inferable(self):
        threshold = float(self.step.detach()) * 2**7
        return pytorch_quantizers.WeightsSymmetricInferableQuantizer(8, threshold, per_channel=False)


class FlaggedQuantizer(StepQuantizer):
    """Says which flag it was called with."""

    def __call__(self, inputs, training):
        self.flag = training
        return inputs * 2 if training else super().__call__(inputs)


class FlaggedModule(BaseInferableQuantizer, nn.Module):
    """A user's quantizer that is a module with state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([3.0]))

    def forward(self, inputs, training=True):
        return inputs * self.gain if training else inputs

    def convert2inferable(self):
        return pytorch_quantizers.WeightsPOTInferableQuantizer(8, 4.0, per_channel=False)


class Doubling(BaseInferableQuantizer):
    """A user's inferable quantizer that is no module."""

    def __call__(self, inputs):
        return inputs * 2


class FreezesToPlainObject(FlaggedModule):
    def convert2inferable(self):
        return Doubling()

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Grids, inputs that reach every corner of a grid, and quantizers of a user, shared by the tests of the wing."""

import numpy as np
import torch
from torch import Tensor, nn

from mct_quantizers import BaseInferableQuantizer, pytorch_quantizers
from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold

NUM_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
LOW, HIGH = (-1.7, -0.3, -2.9, 0.4), (0.9, 2.2, -0.6, 1.9)


def grid(kind: str, num_bits: int, axis: int | None = None) -> QuantParams:
    """`kind`: symmetric, unsigned, power_of_two or uniform; per channel there are four channels."""
    if kind == "uniform":
        return from_range(
            LOW if axis is not None else LOW[0], HIGH if axis is not None else HIGH[0], num_bits, axis=axis
        )
    threshold = (2.0, 0.25, 8.0, 1.0) if kind == "power_of_two" else (1.3, 0.31, 7.7, 0.9)
    return from_threshold(threshold if axis is not None else threshold[0], num_bits, kind != "unsigned", axis=axis)


def corners(params: QuantParams, random: int = 20_000) -> np.ndarray:
    """float32, shape (channels, n): random values, every level and tie with its neighbours, bounds, special values."""
    generator = np.random.default_rng(params.num_bits)
    rows = []
    tiny = np.finfo(np.float32).tiny
    special = [0.0, -0.0, 1e-45, -1e-45, tiny, -tiny, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]
    for scale, zero_point in zip(params.scale, params.zero_point, strict=True):
        steps = np.arange(params.quant_min - 3, params.quant_max + 4, 0.5) - zero_point
        exact = (steps * scale).astype(np.float32)
        width = scale * (params.quant_max - params.quant_min)
        rows.append(
            np.concatenate(
                [
                    generator.normal(0, width * 0.6, random),
                    generator.uniform(-width, width, random),
                    exact,
                    np.nextafter(exact, np.float32(-np.inf)),
                    np.nextafter(exact, np.float32(np.inf)),
                    special,
                ]
            ).astype(np.float32)
        )
    return np.stack(rows)


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

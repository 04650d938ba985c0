# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import warnings

import pytest
import torch
from torch import nn

import model_compression_toolkit as mct


@pytest.mark.parametrize("capture", ["graph", "modules"])
def test_a_frozen_model_passes_the_check_of_a_trace_without_warnings(capture):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    samples = torch.randn(4, 3, 8, 8)
    frozen = mct.quantize(model, samples, mct.QuantizationConfig(capture=capture))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # torch says of every trace that there are newer ways.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        traced = torch.jit.trace(frozen, samples)
    other = torch.randn(2, 3, 8, 8)
    assert torch.equal(traced(other), frozen(other))

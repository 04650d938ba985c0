# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of weights, however the model is seen."""

from torch import nn

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_plan import TensorSite
from model_compression_toolkit.core.pytorch.operators import weight_axis


def weight_site(layer: str, module: nn.Module, first_or_last: bool, reason: str) -> TensorSite:
    """The weight of a layer that has a rule.

    Args:
        layer: name of the layer.
        module: the layer.
        first_or_last: whether it is a first or last layer.
        reason: why its weight stays in float; empty when it need not.
    """
    weight = getattr(module, "weight", None)
    return TensorSite(
        layer=layer,
        tensor="weight",
        target=QuantizationTarget.Weights,
        type=type(module).__name__,
        shape=() if weight is None else tuple(weight.shape),
        channel_axis=weight_axis(module),
        first_or_last=first_or_last,
        reason=reason,
    )


def weight_problem(module: nn.Module) -> str:
    """Why the weight of a layer cannot be quantized; empty when it can."""
    if "weight" in dict(module.named_parameters(recurse=False)):
        return ""
    return "its weight is no plain parameter (a parametrization computes it)"

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How activations are quantized in a model that was captured module by module."""

from typing import Any

from torch import nn

from mct_quantizers.pytorch.attribute_forwarding import ForwardsAttributes
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper
from model_compression_toolkit.core.pytorch.positional_calls import first_argument

__all__ = ["QuantizedInput"]


class QuantizedInput(ForwardsAttributes):
    """A layer whose first input is quantized: how activations are quantized module by module.

    Args:
        activation_holder_quantizer: the holder.
        layer: the layer.
    """

    def __init__(self, holder: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        # Of the layer itself: a wrapper's forward takes anything.
        inside: Any = layer.layer if isinstance(layer, PytorchQuantizationWrapper) else layer
        self.first_argument = first_argument(inside)
        self.activation_holder_quantizer = holder
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's result for its first input quantized, which may be passed by position or by name."""
        if args:
            return self.layer(self.activation_holder_quantizer(args[0]), *args[1:], **kwargs)
        quantized = self.activation_holder_quantizer(kwargs[self.first_argument])
        return self.layer(**{**kwargs, self.first_argument: quantized})

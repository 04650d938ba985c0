# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How activations are quantized in a model that was captured module by module."""

from typing import Any

from torch import Tensor, nn

from mct_quantizers.pytorch.attribute_forwarding import ForwardsAttributes

__all__ = ["QuantizedInput"]


class QuantizedInput(ForwardsAttributes):
    """A layer whose first input is quantized: how activations are quantized module by module.

    Args:
        activation_holder_quantizer: the holder.
        layer: the layer.
    """

    def __init__(self, holder: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.activation_holder_quantizer = holder
        self.layer = layer

    def forward(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The layer's result for quantized `inputs`."""
        return self.layer(self.activation_holder_quantizer(inputs), *args, **kwargs)

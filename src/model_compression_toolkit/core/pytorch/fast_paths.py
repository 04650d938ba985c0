# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Torch's fused transformer layers do not call the layers inside them; quantized ones have to."""

from torch import nn


def call_all_layers(model: nn.Module) -> None:
    """Let the encoders of a model give their layers plain tensors.

    With a mask of padded places and without gradients, an encoder packs the other places into nested tensors for the
    fused kernel. Each single layer decides for itself, by the quantizers in it; see `mct_quantizers`.

    Args:
        model: the copy of the user's model; it is changed.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False

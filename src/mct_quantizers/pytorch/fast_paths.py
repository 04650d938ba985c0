# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Torch's fused transformer layers take the weights of the layers inside them, and call none of these.

In evaluation without gradients `nn.TransformerEncoderLayer` computes all of itself in one kernel, from the float
weights that it reads of its layers. It calls its layers where one of the modules inside it has a hook.
"""

from typing import Any

from torch import nn


def refuse_fast_paths(module: nn.Module) -> None:
    """Let the layers around `module` call it, instead of reading its weights.

    Args:
        module: what quantizes.
    """
    module.register_forward_pre_hook(_is_called)


def _is_called(module: nn.Module, args: tuple[Any, ...]) -> None:
    """A hook that changes nothing: that it is there is what counts."""
    del module, args

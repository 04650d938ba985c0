# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A loss that is not finite is told when it comes, with the tensor that it comes from."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from model_compression_toolkit.qat.common.fine_tuning import refuse_loss


def check_loss(loss: float, where: str, model: nn.Module, batch: Any = None) -> None:
    """A loss is finite.

    Args:
        loss: the number.
        where: when it came, for the text of the error.
        model: as it gave the loss.
        batch: its input, a tensor, where one is to be looked at.

    Raises:
        ValueError: it is not; the text names the first tensor that is not.
    """
    if not math.isfinite(loss):
        refuse_loss(loss, where, _first_not_finite(model, batch))


def _first_not_finite(model: nn.Module, batch: Any) -> str | None:
    """Of the batch, the state, and the outputs of the layers in the order in which they run."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if isinstance(batch, Tensor):
        tensors.insert(0, ("the batch", batch))
    for name, tensor in tensors:
        if not _is_finite(tensor):
            return name
    if not isinstance(batch, Tensor):
        return None
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            del module, inputs
            if isinstance(output, Tensor) and not _is_finite(output):
                found.append(f"the output of {name or 'the model'}")

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the training methods of a model add to its loss."""

import torch
from torch import Tensor, nn

from mct_quantizers.pytorch.activation_quantization_holder import PytorchActivationQuantizationHolder
from mct_quantizers.pytorch.quantize_wrapper import PytorchQuantizationWrapper

__all__ = ["regularization_loss"]


def regularization_loss(model: nn.Module) -> Tensor:
    """The sum of what the quantizers of a model add to the loss; zero where none does.

    A training loop of your own adds it: `loss = criterion(model(x), y) + regularization_loss(model)`. `fine_tune` and
    Keras do so by themselves.

    Args:
        model: a model with wrappers and holders.

    Returns:
        Scalar, differentiable.
    """
    terms = []
    for module in model.modules():
        if isinstance(module, PytorchQuantizationWrapper):
            terms += [_term(quantizer, weight) for _, weight, quantizer in module.get_weights_vars()]
        elif isinstance(module, PytorchActivationQuantizationHolder):
            terms.append(_term(module.activation_holder_quantizer))
    found = [term for term in terms if term is not None]
    if not found:
        device = next((parameter.device for parameter in model.parameters()), None)
        return torch.zeros((), dtype=torch.float32, device=device)
    return torch.stack([term.reshape(()) for term in found]).sum()


def _term(quantizer: nn.Module, *weight: Tensor) -> Tensor | None:
    regularization = getattr(quantizer, "regularization", None)
    result: Tensor | None = regularization(*weight) if callable(regularization) else None
    return result

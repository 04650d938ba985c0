# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Layers with sparse gradients, such as `nn.Embedding(sparse=True)`: quantizers see plain ones."""

from typing import Any

from torch import Tensor
from torch.autograd import Function


class _DenseGradient(Function):
    """The same tensor; the gradient that comes back to it is made dense."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return gradients[0].to_dense() if gradients[0].is_sparse else gradients[0]


def with_dense_gradient(weight: Tensor) -> Tensor:
    """`weight` for a layer that makes sparse gradients to it.

    Args:
        weight: a quantized weight, any shape.

    Returns:
        The same values, from which a dense gradient goes back to `weight`.
    """
    apply: Any = _DenseGradient.apply
    result: Tensor = apply(weight) if weight.requires_grad else weight
    return result

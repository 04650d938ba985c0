# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A ReLU that the quantizer behind it computes along, in the same pass over memory."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from mct_quantizers.pytorch.native.memory import is_traced

# They tell of the shape and kind of a tensor, which a ReLU does not change.
_WITHOUT_VALUES = frozenset(
    {
        Tensor.dim, Tensor.is_contiguous, Tensor.is_floating_point, Tensor.numel, Tensor.size, Tensor.stride,
        *(getattr(Tensor, name).__get__ for name in ("device", "dtype", "is_cpu", "layout", "ndim", "shape")),
    }
)  # fmt: skip


class PendingReLU(Tensor):
    """The ReLU of a tensor, computed once anything but its shape, kind or place is asked for.

    Attributes:
        source: the tensor, which nobody changes.
        ceiling: upper end of the ReLU: infinity, or 6.
    """

    source: Tensor
    ceiling: float
    _computed: Tensor | None

    @classmethod
    def of(cls, source: Tensor, ceiling: float = math.inf) -> "PendingReLU":
        """The ReLU of `source` up to `ceiling`."""
        pending = source.detach().as_subclass(cls)
        pending.source, pending.ceiling, pending._computed = source, ceiling, None
        return pending

    @property
    def is_pending(self) -> bool:
        """Whether it is not computed yet."""
        return self._computed is None

    @property
    def computed(self) -> Tensor:
        """The ReLU, differentiable."""
        if self._computed is None:
            self._computed = _relu(self.source, self.ceiling)
        return self._computed

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` on the values, where it needs values."""
        del types
        if func in _WITHOUT_VALUES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map_only(PendingReLU, lambda pending: pending.computed, (tuple(args), kwargs or {}))
        return func(*args, **kwargs)


def relu_before_quantization(x: Tensor, ceiling: float = math.inf) -> Tensor:
    """The ReLU of `x`, left to the quantizer of the result in eager training on the CPU.

    Args:
        x: a tensor that nothing else changes.
        ceiling: upper end: infinity, or 6.
    """
    if is_traced() or not (x.is_cpu and x.requires_grad and torch.is_grad_enabled() and type(x) is Tensor):
        return _relu(x, ceiling)
    return PendingReLU.of(x, ceiling)


def _relu(x: Tensor, ceiling: float) -> Tensor:
    return torch.relu(x) if ceiling == math.inf else functional.relu6(x)


class ReLUBeforeQuantization(nn.ReLU):
    """`nn.ReLU` by `relu_before_quantization`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The ReLU of `inputs`."""
        return relu_before_quantization(inputs)


class ReLU6BeforeQuantization(nn.ReLU6):
    """`nn.ReLU6` by `relu_before_quantization`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The ReLU of `inputs` up to 6."""
        return relu_before_quantization(inputs, 6.0)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What stands before a quantizer, computed along with it in the same pass over memory: batch norm, addition, ReLU."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.utils import _pytree as pytree

from mct_quantizers.pytorch.native.batch_norm import batch_statistics
from mct_quantizers.pytorch.native.memory import is_plain, is_traced, version_of
from mct_quantizers.pytorch.private import has_global_backward_hooks

# They tell of the shape and kind of a tensor, which nothing here changes.
_WITHOUT_VALUES = frozenset(
    {
        Tensor.dim, Tensor.is_contiguous, Tensor.is_floating_point, Tensor.numel, Tensor.size, Tensor.stride,
        *(getattr(Tensor, name).__get__ for name in ("device", "dtype", "is_cpu", "layout", "ndim", "shape")),
    }
)  # fmt: skip
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ADDITIONS = frozenset({Tensor.__add__, Tensor.__radd__, Tensor.add, torch.add})


class BatchNorm(NamedTuple):
    """A batch norm in training, its statistics taken.

    Attributes:
        weight: factor of each channel, float32, (C,); None for 1.
        bias: shift of each channel, likewise; None for 0.
        mean: of the batch, float32, (C,).
        inverse: 1 / sqrt(variance of the batch + epsilon), likewise.
        epsilon: added to the variance.
    """

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    inverse: Tensor
    epsilon: float


class _Unseen(Function):
    """The source, seen by who does not ask for values: an error once a gradient comes back, instead of a wrong one."""

    @staticmethod
    def forward(ctx: Any, source: Tensor) -> Tensor:
        del ctx
        return source.view_as(source)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise RuntimeError(
            "A function of autograd (torch.autograd.Function) was applied to the result of a layer that leaves it to "
            "the quantizer behind it. Apply it to `result.clone()`."
        )


class Pending(Tensor):
    """A result that is computed once anything but its shape, kind or place is asked for: relu(norm(source) + residual).

    Attributes:
        source: the tensor, which nobody changes.
        batch_norm: the batch norm; None for none.
        residual: a tensor of the same shape, likewise.
        ceiling: upper end of the ReLU: infinity, or 6; None for none.
    """

    source: Tensor
    batch_norm: BatchNorm | None
    residual: Tensor | None
    ceiling: float | None
    _computed: Tensor | None
    _unseen: Tensor
    _versions: tuple[int, ...]

    @classmethod
    def of(
        cls,
        source: Tensor,
        batch_norm: BatchNorm | None = None,
        residual: Tensor | None = None,
        ceiling: float | None = None,
        before: "Pending | None" = None,
    ) -> "Pending":
        """What is to be computed of `source`, perhaps more than was `before`."""
        apply: Any = _Unseen.apply
        unseen: Tensor = apply(source) if before is None else before._unseen
        pending = unseen.as_subclass(cls)
        pending._unseen = unseen
        pending.source, pending.batch_norm, pending.residual, pending.ceiling = source, batch_norm, residual, ceiling
        pending._computed, pending._versions = None, pending._current_versions()
        return pending

    @property
    def is_pending(self) -> bool:
        """Whether it is not computed yet."""
        return self._computed is None

    @property
    def computed(self) -> Tensor:
        """The result, differentiable."""
        if self._computed is None:
            self.check_unchanged()
            result, norm = self.source, self.batch_norm
            if norm is not None:
                result = functional.batch_norm(
                    result, None, None, norm.weight, norm.bias, training=True, eps=norm.epsilon
                )
            if self.residual is not None:
                result = result + self.residual
            self._computed = result if self.ceiling is None else _relu(result, self.ceiling)
        return self._computed

    def check_unchanged(self) -> None:
        """What it is computed of is as it was.

        Raises:
            RuntimeError: a tensor was changed in place.
        """
        if self._current_versions() != self._versions:
            raise RuntimeError(
                "The input of a batch norm, an addition or a ReLU before a quantizer was changed in place before the "
                f"quantizer ran. Work on a copy. Received: a tensor of shape {tuple(self.source.shape)}"
            )

    def _current_versions(self) -> tuple[int, ...]:
        return tuple(version_of(tensor) for tensor in (self.source, self.residual) if tensor is not None)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` on the values, where it needs values."""
        del types
        if func in _WITHOUT_VALUES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if func in _ADDITIONS and not kwargs:
            pending, other = args if isinstance(args[0], Pending) else reversed(args)
            other = other.computed if isinstance(other, Pending) else other
            if pending._can_take(other):
                return Pending.of(pending.source, pending.batch_norm, residual=other, before=pending)
        args, kwargs = pytree.tree_map_only(Pending, lambda pending: pending.computed, (tuple(args), kwargs or {}))
        return func(*args, **kwargs)

    def _can_take(self, other: Any) -> bool:
        """Whether adding `other` can wait too."""
        return (
            self._computed is None
            and self.batch_norm is not None
            and self.residual is None
            and self.ceiling is None
            and type(other) is Tensor
            and is_plain(other)
            and not other.is_inference()
            and other.shape == self.source.shape
        )


def relu_before_quantization(x: Tensor, ceiling: float = math.inf) -> Tensor:
    """The ReLU of `x`, left to the quantizer of the result in eager training on the CPU.

    Args:
        x: a tensor that nothing else changes.
        ceiling: upper end: infinity, or 6.
    """
    if isinstance(x, Pending) and x.is_pending and x.ceiling is None:
        return Pending.of(x.source, x.batch_norm, x.residual, ceiling, before=x)
    return Pending.of(x, ceiling=ceiling) if _can_wait(x) else _relu(x, ceiling)


def batch_norm_before_quantization(x: Tensor, norm: nn.BatchNorm2d, weight: Tensor | None) -> Tensor | None:
    """The batch norm of `x` in training, left to the quantizer of the result in eager training on the CPU.

    Its running statistics are updated as the batch norm itself updates them.

    Args:
        x: a tensor that nothing else changes.
        norm: a batch norm of any dimension, in training.
        weight: factors in the place of its own.

    Returns:
        None where the batch norm has to run itself.
    """
    if type(norm) not in _BATCH_NORMS or norm.running_mean is None or norm.running_var is None or not _can_wait(x):
        return None
    factors = [tensor for tensor in (weight, norm.bias) if tensor is not None]
    if not all(is_plain(tensor) and tensor.is_contiguous() for tensor in (*factors, norm.running_mean)):
        return None
    statistics = batch_statistics(x, norm.eps)
    if statistics is None:
        return None
    mean, variance, inverse = statistics
    with torch.no_grad():
        factor = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            # Without a momentum: the average over all batches.
            factor = 1.0 / float(norm.num_batches_tracked) if factor is None else factor
        norm.running_mean.lerp_(mean, factor or 0.0)
        norm.running_var.lerp_(variance, factor or 0.0)
    return Pending.of(x, BatchNorm(weight, norm.bias, mean, inverse, norm.eps))


def computed(x: Any) -> Any:
    """`x`, its values computed where they are pending: for who does not ask, as `torch.autograd.Function`."""
    return x.computed if isinstance(x, Pending) else x


def _can_wait(x: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.is_cpu
        and x.requires_grad
        and torch.is_grad_enabled()
        and not is_traced()
        and not has_global_backward_hooks()
    )


def _relu(x: Tensor, ceiling: float) -> Tensor:
    return torch.relu(x) if ceiling == math.inf else functional.relu6(x)


class ComputesForBackwardHooks(nn.Module):
    """A module whose inputs or results may be pending, but not where it has hooks for the backward pass."""

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """See `nn.Module`."""
        self._compute_pending()
        return super().register_full_backward_hook(*args, **kwargs)

    def register_full_backward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """See `nn.Module`."""
        self._compute_pending()
        return super().register_full_backward_pre_hook(*args, **kwargs)

    def register_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """See `nn.Module`."""
        self._compute_pending()
        return super().register_backward_hook(*args, **kwargs)

    def _compute_pending(self) -> None:
        # torch runs them before it wraps inputs and results for the backward pass.
        self.register_forward_pre_hook(_compute_inputs)
        self.register_forward_hook(_compute_result)


def _compute_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    del module
    return tuple(computed(argument) for argument in args)


def _compute_result(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
    del module, args
    return computed(result)


class ReLUBeforeQuantization(ComputesForBackwardHooks, nn.ReLU):
    """`nn.ReLU` by `relu_before_quantization`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The ReLU of `inputs`."""
        return relu_before_quantization(inputs)


class ReLU6BeforeQuantization(ComputesForBackwardHooks, nn.ReLU6):
    """`nn.ReLU6` by `relu_before_quantization`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The ReLU of `inputs` up to 6."""
        return relu_before_quantization(inputs, 6.0)

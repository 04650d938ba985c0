# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Binds the training methods to PyTorch: one quantizer class for all, weights and activations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.pending import ComputesForBackwardHooks
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from model_compression_toolkit.trainable_infrastructure.common.method_quantizer import MethodQuantizer
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned
from model_compression_toolkit.trainable_infrastructure.pytorch import steps
from model_compression_toolkit.trainable_infrastructure.pytorch.base_pytorch_quantizer import (
    BasePytorchTrainableQuantizer,
)
from model_compression_toolkit.trainable_infrastructure.pytorch.relative_state import RelativeStateModule, whole

__all__ = ["PytorchMethodQuantizer"]

_NOW = "now_{}"
_PACKAGE = f"{__name__.partition('.')[0]}."


@torch.library.custom_op("model_compression_toolkit::kept_copy", mutates_args=())
def _kept_copy(x: Tensor) -> Tensor:
    """A copy that a compiled backward pass cannot make anew, as it may a clone: `x` has moved by then."""
    return x.clone()


@_kept_copy.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class PytorchMethodQuantizer(
    ComputesForBackwardHooks, MethodQuantizer, BasePytorchTrainableQuantizer, RelativeStateModule
):
    """A quantizer that a `Method` trains; its state is parameters and buffers of its own, never 0-dim.

    What is trained in units of its own size, a scale above all, is the parameter `relative_scale`; the attribute
    `scale` and the `state_dict` have the scale itself.
    """

    _ops = torch_ops
    _inferable_base = BasePyTorchInferableQuantizer

    gradient_came: Tensor
    _counted: tuple[str, ...] = ()

    def initialize_quantization(
        self, tensor_shape: Sequence[int] | None, name: str | None, layer: Any
    ) -> dict[str, Any]:
        """See `MethodQuantizer.initialize_quantization`.

        Args:
            tensor_shape: shape of a weight.
            name: prefix for the names of the variables.
            layer: the wrapper or holder.
        """
        # Defined here, so that the variables are found where they stand (see the base).
        result = super().initialize_quantization(tensor_shape, name, layer)
        if not self._counted and (counted := tuple(self._next_step())):
            self.register_buffer("gradient_came", torch_ops.state_tensor(np.ones(1, np.float32)), persistent=False)
            for index, key in enumerate(counted):
                self.register_buffer(_NOW.format(index), self._variable(key).clone(), persistent=False)
            self._counted = counted
        return result

    # The module's call, not the abstract one.
    __call__ = nn.Module.__call__

    def forward(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Quantized `inputs`, differentiable: same shape and dtype.

        Args:
            inputs: floating point; float16 and bfloat16 are computed in float32.
            training: whether the call is a step of training; the mode of the module where it is not given.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: per channel, `inputs` has another number of channels; the quantizer has no state yet.
        """
        result: Tensor = self._quantized(inputs, self.training if training is None else training)
        return result

    @property
    def takes_pending(self) -> bool:
        """Whether inputs may be `Pending`: for methods of this package, which compute by `ops` alone."""
        return all(cls.__module__.startswith(_PACKAGE) for cls in (type(self), type(self.method)))

    def regularization(self, weight: Tensor | None = None) -> Tensor | None:
        """See `MethodQuantizer.regularization`; of whole tensors where a model is sharded."""
        result: Tensor | None = super().regularization(None if weight is None else whole(weight))
        return result

    def convert2inferable(self) -> Any:
        """The inferable quantizer with what was learned, on the same device."""
        return super().convert2inferable().to(self._variable(next(iter(self._state()))).device)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return self._description()

    def _at_this_step(self, values: Tensor, learned: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if not self._counted:
            return values, learned
        self._begin_step()
        # Counters as they are now: the next step writes over them, perhaps before this one's backward pass.
        counted = {key: _kept_copy(torch_ops.cast_like(self._now(key), values)) for key in self._counted}
        trained = next((key for key, value in learned.items() if value.requires_grad), None)
        if trained is None:
            return steps.telling(values, self.gradient_came), {**learned, **counted}
        return values, {**learned, **counted, trained: steps.telling(learned[trained], self.gradient_came)}

    def _begin_step(self) -> None:
        """Move the counters if a gradient came back since they have moved; keep what they were for this step."""
        begins, after = steps.begins(self.gradient_came), self._next_step()
        with torch.no_grad():
            for key, value in after.items():
                counter, now = self._variable(key), self._now(key)
                now.copy_(torch.where(begins, counter, now))
                counter.copy_(torch.where(begins, value, counter))
            self.gradient_came.mul_(torch.where(begins, 0.0, 1.0))

    def _now(self, key: str) -> Tensor:
        """A counter at this step; its state is that of the next."""
        result: Tensor = getattr(self, _NOW.format(self._counted.index(key)))
        return result

    def _new_variable(self, key: str, learned: Learned, trainable: bool, prefix: str | None, layer: Any) -> Tensor:
        tensor = torch_ops.state_tensor(learned.value)
        if trainable and learned.unit is not None:
            return self._add_relative_parameter(key, tensor, torch_ops.state_tensor(learned.unit))
        if trainable:
            self.register_parameter(key, nn.Parameter(tensor))
        else:
            self.register_buffer(key, tensor)
        result: Tensor = getattr(self, key)
        return result

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._counted:
            # A state ends a step: who loads it, and who goes on without, begin the next one alike.
            self.gradient_came.fill_(1.0)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if self._counted:
            self.gradient_came.fill_(1.0)

    def _variable(self, key: str) -> Tensor:
        return self._relative_number(key) if key in self._relative else whole(getattr(self, key))

    def _as_array(self, variable: Tensor) -> Any:
        return variable.detach().cpu().numpy()

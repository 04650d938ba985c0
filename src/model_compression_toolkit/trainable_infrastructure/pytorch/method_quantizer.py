# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Binds the training methods to PyTorch: one quantizer class for all, weights and activations."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.pending import ComputesForBackwardHooks
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from model_compression_toolkit.trainable_infrastructure.common.method_quantizer import MethodQuantizer
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned
from model_compression_toolkit.trainable_infrastructure.pytorch.base_pytorch_quantizer import (
    BasePytorchTrainableQuantizer,
)
from model_compression_toolkit.trainable_infrastructure.pytorch.relative_state import RelativeStateModule, whole

__all__ = ["PytorchMethodQuantizer"]

_PACKAGE = f"{__name__.partition('.')[0]}."


@torch.library.custom_op("model_compression_toolkit::kept_copy", mutates_args=())
def _kept_copy(x: Tensor) -> Tensor:
    """A copy that a compiled backward pass cannot make anew, as it may a clone: `x` has moved by then."""
    return x.clone()


@_kept_copy.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class PytorchMethodQuantizer(
    ComputesForBackwardHooks, MethodQuantizer, RelativeStateModule, BasePytorchTrainableQuantizer
):
    """A quantizer that a `Method` trains; its state is parameters and buffers of its own, never 0-dim.

    What is trained in units of its own size, a scale above all, is the parameter `relative_scale`; the attribute
    `scale` and the `state_dict` have the scale itself.
    """

    _ops = torch_ops
    _inferable_base = BasePyTorchInferableQuantizer

    # Defined here, so that the variables are found where they stand (see the base).
    initialize_quantization = MethodQuantizer.initialize_quantization
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

    def _kept(self, learned: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: _kept_copy(learned[key]) for key in moved}

    def _new_variable(self, key: str, learned: Learned, trainable: bool, prefix: str | None, layer: Any) -> Tensor:
        tensor = torch_ops.state_tensor(learned.value)
        if trainable and learned.unit is not None:
            return self.add_relative_parameter(key, tensor, torch_ops.state_tensor(learned.unit))
        if trainable:
            self.register_parameter(key, nn.Parameter(tensor))
        else:
            self.register_buffer(key, tensor)
        result: Tensor = getattr(self, key)
        return result

    def _variable(self, key: str) -> Tensor:
        return self.relative_number(key) if key in self._relative else whole(getattr(self, key))

    def _as_array(self, variable: Tensor) -> Any:
        return variable.detach().cpu().numpy()

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for key, value in values.items():
                self._variable(key).copy_(value)

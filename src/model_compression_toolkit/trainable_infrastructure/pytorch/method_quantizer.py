# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Binds a training method to PyTorch: one quantizer class for all methods, weights and activations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mct_quantizers.common import arithmetic
from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.common.registry import get_inferable_quantizer_class
from mct_quantizers.common.validation import check_channels
from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from mct_quantizers.pytorch.quantizers.base import Float32StateModule
from model_compression_toolkit.trainable_infrastructure.methods.method import method_class


class PytorchMethodQuantizer(BaseInferableQuantizer, Float32StateModule):
    """A quantizer in training. Its state is what the method learns: parameters and buffers of shape (1,) or (C,).

    Args:
        training_method: name of a registered method.
        quantization_target: weights or activations.
        quantization_method: the grid.
        params: the calibrated grid.
        x_shape: shape of a weight; None for an activation.

    Raises:
        ValueError: no such method, or it does not train that grid.
    """

    def __init__(
        self,
        training_method: str,
        quantization_target: QuantizationTarget,
        quantization_method: QuantizationMethod,
        params: QuantParams,
        x_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.method = method_class(training_method)(quantization_method)
        self.quantization_target = quantization_target
        self.initial_params = params
        self._state_names: list[str] = []
        for name, learned in self.method.parameters(params, x_shape).items():
            tensor = torch.tensor(learned.value)
            self._state_names.append(name)
            if learned.trainable:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    @property
    def params(self) -> QuantParams:
        """The grid that the quantizer would freeze to now."""
        learned = {name: getattr(self, name).detach().cpu().numpy() for name in self._state_names}
        return self.method.freeze(learned, self.initial_params)

    def forward(self, inputs: Tensor) -> Tensor:
        """Quantized `inputs`, differentiable: same shape and dtype.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: per channel, `inputs` has another number of channels.
        """
        torch_ops.check_floating_point(inputs)
        params = self.initial_params
        check_channels(inputs.shape, params.axis, params.scale.size)
        aligned = broadcast_shape(inputs.dim(), params.axis)
        learned = {name: getattr(self, name).view(aligned) for name in self._state_names}
        result: Tensor = self.method.quantize(inputs, learned, params, torch_ops)
        return result

    def quantize(self, inputs: Tensor) -> Tensor:
        """Integer codes of `inputs` on the grid that the quantizer would freeze to now: int32, same shape.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: NaN in `inputs`, or another number of channels.
        """
        codes: Tensor = arithmetic.quantize(inputs.detach(), self.params, torch_ops)
        return codes

    def convert2inferable(self) -> Any:
        """The inferable quantizer on the learned grid, on the same device."""
        cls = get_inferable_quantizer_class(
            self.quantization_target, self.method.quantization_method, BasePyTorchInferableQuantizer
        )
        device = next(tensor.device for tensor in (*self.parameters(), *self.buffers()))
        return cls.from_params(self.params).to(device)

    def extra_repr(self) -> str:
        """What `print` shows."""
        grid, params = self.method.quantization_method.name, self.initial_params
        return f"{self.method.name}, {grid}, num_bits={params.num_bits}, axis={params.axis}"

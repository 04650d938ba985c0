# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Batch norm: folded exactly into the layer before it, or trained along and folded at the end."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mct_quantizers.common.quant_params import FloatArray
from mct_quantizers.pytorch.attribute_forwarding import ForwardsAttributes
from mct_quantizers.pytorch.pending import ComputesForBackwardHooks, batch_norm_before_quantization
from model_compression_toolkit.core.pytorch.data import to_float64
from model_compression_toolkit.core.pytorch.operators import weight_axis
from model_compression_toolkit.core.pytorch.unwrapping import plan_inside

STATISTICS_FROZEN = "statistics_frozen"
"""Name of the flag in the state of a live batch norm."""

Layer = Any
"""An `nn.Module` with `weight` and `bias`."""
Norm = Any
"""A batch norm, or a `LiveBatchNorm`."""


class LiveBatchNorm(ComputesForBackwardHooks, ForwardsAttributes):
    """A batch norm in quantization-aware training. Its statistics can be frozen.

    One that will be folded counts by the magnitude of its factor, so that folding never flips the sign of a weight's
    integers; preparing a model makes all factors positive first, without changing what it computes.

    Args:
        norm: the batch norm, kept as it is: eps, momentum, statistics, synchronization.
        folds: whether it will be folded when training ends.

    Attributes:
        is_before_quantization: whether in training the quantizer of the result computes it, in the same pass.
    """

    _inside: ClassVar[str] = "norm"

    def __init__(self, norm: Norm, folds: bool = True) -> None:
        super().__init__()
        self.norm: Norm = norm
        self.folds = folds
        self.is_before_quantization = False
        # The flag as a number of Python too: reading a tensor in every step would wait for its device.
        self._is_frozen = False
        # In floating point, because averages of models truncate integers.
        self.register_buffer(STATISTICS_FROZEN, torch.zeros(1, device=_device_of(norm)))

    @property
    def freeze_statistics(self) -> bool:
        """Whether training uses and keeps the running statistics; in the state as `statistics_frozen`, shape (1,)."""
        return self._is_frozen

    @freeze_statistics.setter
    def freeze_statistics(self, frozen: bool) -> None:
        self._is_frozen = bool(frozen)
        self.get_buffer(STATISTICS_FROZEN).fill_(float(frozen))
        self.norm.train(self.training and not frozen)

    def train(self, mode: bool = True) -> "LiveBatchNorm":
        """Like `nn.Module.train`; frozen statistics stay frozen."""
        super().train(mode)
        self.norm.train(mode and not self.freeze_statistics)
        return self

    def forward(self, input: Tensor) -> Tensor:
        """The normalized `input`, which has the name that it has in a batch norm."""
        # Not `abs`: its gradient is zero at zero, and a factor could never leave it.
        weight = self.norm.weight
        is_magnitude = self.folds and weight is not None
        factor = torch.where(weight >= 0, weight, -weight) if is_magnitude else weight
        if self.is_before_quantization and self.norm.training:
            pending = batch_norm_before_quantization(input, self.norm, factor)
            if pending is not None:
                return pending
        result: Tensor = functional_call(self.norm, {"weight": factor}, (input,)) if is_magnitude else self.norm(input)
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        stored = state_dict.get(prefix + STATISTICS_FROZEN)
        if isinstance(stored, Tensor) and not stored.is_meta and stored.numel() == 1:
            # An average of models of which the later ones were frozen is between 0 and 1.
            frozen = stored.item() > 0
            if frozen != self.freeze_statistics:
                self.freeze_statistics = frozen


def freeze_batch_norm_statistics(model: nn.Module) -> None:
    """From now on, training uses and keeps the running statistics of every batch norm; factors still train.

    Freezing towards the end of training lets the weights settle on the statistics that will be folded
    (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2).

    Args:
        model: a model that `prepare_qat` returned, or a module with it inside.

    Raises:
        ValueError: there is no model in quantization-aware training.
    """
    live = [module for module in model.modules() if isinstance(module, LiveBatchNorm)]
    if not live:
        # Nothing to freeze is fine in a quantized model only.
        plan_inside(model)
    for norm in live:
        norm.freeze_statistics = True


def can_fold(norm: Norm) -> bool:
    """Whether a batch norm is an affine map in evaluation: it has running statistics."""
    return getattr(norm, "running_mean", None) is not None


def affine_of(norm: Norm) -> tuple[FloatArray, FloatArray]:
    """Factor and shift of each channel in evaluation, float64, shape (C,): `y = factor · x + shift`.

    Of a live batch norm the factors are the magnitudes that training used.
    """
    is_live = isinstance(norm, LiveBatchNorm) and norm.folds
    if is_live:
        norm = norm.norm

    def numpy(tensor: Tensor | None, default: float) -> FloatArray:
        if tensor is None:
            return np.full(norm.running_mean.shape, default)
        return to_float64(tensor)

    mean, variance = numpy(norm.running_mean, 0.0), numpy(norm.running_var, 1.0)
    weight = np.abs(numpy(norm.weight, 1.0)) if is_live else numpy(norm.weight, 1.0)
    factor = weight / np.sqrt(variance + norm.eps)
    return factor, numpy(norm.bias, 0.0) - mean * factor


@torch.no_grad()
def fold_batch_norm(layer: Layer, norm: Norm) -> None:
    """Make `layer` compute what `layer` followed by `norm` computes in evaluation, in place.

    The products are computed in float64 and rounded once.
    """
    factor, shift = affine_of(norm)
    weight = to_float64(layer.weight)
    folded = weight * _along_outputs(factor, layer, weight.shape)
    layer.weight.copy_(torch.from_numpy(folded))
    set_bias(layer, folded_bias(layer, factor, shift), layer.weight)


def folded_bias(layer: Layer, factor: FloatArray, shift: FloatArray) -> FloatArray:
    """Bias of `layer` once `y = factor · x + shift` is folded into it, float64, shape (C,)."""
    bias = 0.0 if layer.bias is None else to_float64(layer.bias)
    return bias * factor + shift


def set_bias(layer: Layer, bias: FloatArray, like: Tensor) -> None:
    """Give `layer` the bias `bias`, in the dtype and on the device of `like`."""
    value = torch.as_tensor(bias, dtype=like.dtype, device=like.device)
    layer.register_parameter("bias", nn.Parameter(value, requires_grad=like.requires_grad))


@torch.no_grad()
def make_factors_positive(layer: Layer, norm: Norm) -> None:
    """Flip weights and statistics of the channels whose factor is negative; what is computed stays the same."""
    if norm.weight is None:
        return
    sign = torch.where(norm.weight < 0, -1.0, 1.0).to(norm.weight.dtype)
    aligned = _along_outputs(to_float64(sign), layer, tuple(layer.weight.shape))
    layer.weight.mul_(torch.as_tensor(aligned, dtype=layer.weight.dtype, device=layer.weight.device))
    if layer.bias is not None:
        layer.bias.mul_(sign.to(layer.bias))
    norm.running_mean.mul_(sign)
    norm.weight.mul_(sign)


def _device_of(norm: Norm) -> torch.device | None:
    """The device of a batch norm; None for one without tensors."""
    return next((tensor.device for tensor in (*norm.parameters(), *norm.buffers())), None)


def _along_outputs(values: FloatArray, layer: Layer, shape: tuple[int, ...]) -> FloatArray:
    """One number for each output channel, shaped to multiply the weight of `layer`."""
    axis = weight_axis(layer)
    groups = getattr(layer, "groups", 1)
    if axis == 1:
        # Transposed: (inputs, outputs / groups, …), the inputs of a group in a row.
        per_group = values.reshape(groups, -1)
        rows = np.repeat(per_group, shape[0] // groups, axis=0)
        return rows.reshape(shape[0], shape[1], *([1] * (len(shape) - 2)))
    return values.reshape(-1, *([1] * (len(shape) - 1)))

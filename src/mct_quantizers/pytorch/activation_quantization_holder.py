# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The layer that quantizes an activation."""

from typing import Any

from torch import Tensor

from mct_quantizers.common.constants import ACTIVATION_HOLDER_QUANTIZER
from mct_quantizers.common.quantizer_dispatch import checked_holder_quantizer, inferable_of, takes_training
from mct_quantizers.common.validation import checked_bool
from mct_quantizers.pytorch.fast_paths import refuse_fast_paths
from mct_quantizers.pytorch.parameter_creation import CreatesParameters
from mct_quantizers.pytorch.pending import ComputesForBackwardHooks, computed


class PytorchActivationQuantizationHolder(ComputesForBackwardHooks, CreatesParameters):
    """Quantizes its input with the quantizer it holds.

    Args:
        activation_holder_quantizer: an activation quantizer, inferable or trainable.

    Raises:
        TypeError: the quantizer is not callable.
    """

    activation_holder_quantizer: Any

    def __init__(self, activation_holder_quantizer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_quantizer(activation_holder_quantizer)
        refuse_fast_paths(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Quantized `inputs`: same shape and dtype."""
        quantizer = self.activation_holder_quantizer
        # Others may compute by what does not ask pending tensors for their values.
        inputs = inputs if getattr(quantizer, "takes_pending", False) else computed(inputs)
        result: Tensor = quantizer(inputs, training=self.training) if self._takes_training else quantizer(inputs)
        return result

    def convert_to_inferable_quantizers(self) -> None:
        """Replace a trainable quantizer by what it froze to. An inferable quantizer stays as it is."""
        quantizer = inferable_of(self.activation_holder_quantizer)
        if quantizer is not self.activation_holder_quantizer:
            self.set_quantizer(quantizer)

    def set_quantizer(self, quantizer: Any) -> None:
        """Quantize with `quantizer` from now on.

        Raises:
            TypeError: `quantizer` is no quantizer.
        """
        checked_holder_quantizer(quantizer)
        # Before anything is changed: it may raise.
        self._initialize(ACTIVATION_HOLDER_QUANTIZER, quantizer, None, f"{ACTIVATION_HOLDER_QUANTIZER}_out")
        # torch refuses a plain object in the place of a module.
        self._modules.pop(ACTIVATION_HOLDER_QUANTIZER, None)
        self.activation_holder_quantizer = quantizer
        self._takes_training = takes_training(quantizer)


class _BypassableHolder(PytorchActivationQuantizationHolder):
    """A holder that can let its input through.

    Args:
        activation_holder_quantizer: an activation quantizer, inferable or trainable.
        quantization_bypass: whether the input goes through unquantized.

    Raises:
        TypeError: the quantizer is no quantizer, or `quantization_bypass` is no bool.
    """

    def __init__(self, activation_holder_quantizer: Any, quantization_bypass: bool = False, **kwargs: Any) -> None:
        super().__init__(activation_holder_quantizer, **kwargs)
        self.quantization_bypass = checked_bool("quantization_bypass", quantization_bypass)

    def forward(self, inputs: Tensor) -> Tensor:
        """Quantized `inputs`, or `inputs` itself."""
        return computed(inputs) if self.quantization_bypass else super().forward(inputs)


class PytorchFLNActivationQuantizationHolder(_BypassableHolder):
    """Holds the quantizer of a tensor inside a fused operation, where a runtime does not quantize it: can be bypassed.

    Args:
        activation_holder_quantizer: an activation quantizer, inferable or trainable.
        quantization_bypass: whether the input goes through unquantized.
    """


class PytorchPreservingActivationQuantizationHolder(_BypassableHolder):
    """Holds the quantizer of a tensor that keeps the grid of its input (pooling, reshaping): can be bypassed.

    Args:
        activation_holder_quantizer: an activation quantizer, inferable or trainable.
        quantization_bypass: whether the input goes through unquantized.
    """

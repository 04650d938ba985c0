# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The layer that quantizes an activation."""

from collections.abc import Mapping
from typing import Any, Self

import keras

from mct_quantizers._version import __version__
from mct_quantizers.common.constants import ACTIVATION_HOLDER_QUANTIZER, MCTQ_VERSION, TRAINING
from mct_quantizers.common.quantizer_dispatch import checked_holder_quantizer, inferable_of, takes_training
from mct_quantizers.common.validation import checked_bool
from mct_quantizers.keras.quantizer_record import RecordsQuantizers
from mct_quantizers.keras.quantizers.base import PACKAGE, deserialized

Tensor = Any


@keras.saving.register_keras_serializable(PACKAGE)
class KerasActivationQuantizationHolder(RecordsQuantizers):
    """Quantizes its input with the quantizer it holds; the input is never cast before.

    Args:
        activation_holder_quantizer: an activation quantizer, inferable or trainable.
        **kwargs: arguments of every Keras layer (`name`, `dtype`, …).

    Raises:
        TypeError: the quantizer is not callable.
    """

    def __init__(self, activation_holder_quantizer: Any, **kwargs: Any) -> None:
        checked_holder_quantizer(activation_holder_quantizer)
        mctq_version = kwargs.pop(MCTQ_VERSION, __version__)
        # Nothing is cast, whatever the policy: neither the input nor what a trainable quantizer learns.
        dtype = keras.dtype_policies.get(kwargs.pop("dtype", None)).variable_dtype
        super().__init__(**{"autocast": False, "dtype": dtype, **kwargs})
        self.supports_masking = True
        self.mctq_version = mctq_version
        self.set_quantizer(activation_holder_quantizer)

    def build(self, input_shape: Any = None) -> None:
        """Let the quantizer create its variables."""
        self._initialize(self.activation_holder_quantizer, input_shape)
        super().build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Quantized `inputs`: same shape and dtype.

        Args:
            inputs: floating point.
            training: whether the call is a step of training.

        Raises:
            TypeError: `training` is no bool.
        """
        training = training is not None and checked_bool(TRAINING, training)
        quantizer = self.activation_holder_quantizer
        return quantizer(inputs, training=training) if self._takes_training else quantizer(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return input_shape

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Shape and dtype of the input."""
        del training
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def convert_to_inferable_quantizers(self) -> "KerasActivationQuantizationHolder | None":
        """Replace a trainable quantizer by what it froze to.

        The variables of the trainable quantizer stay on this holder, where Keras does not let go of them, so what is to
        be saved is the holder that is returned.

        Returns:
            A new holder without these variables; None where the quantizer is inferable already.
        """
        quantizer = inferable_of(self.activation_holder_quantizer)
        if quantizer is self.activation_holder_quantizer:
            return None
        self.set_quantizer(quantizer)
        return type(self)(**{**self.get_config(), ACTIVATION_HOLDER_QUANTIZER: quantizer})

    def set_quantizer(self, quantizer: Any) -> None:
        """Quantize with `quantizer` from now on; what is compiled already keeps the former one.

        Raises:
            TypeError: `quantizer` is no quantizer.
        """
        checked_holder_quantizer(quantizer)
        if self.built:
            # Before anything is changed: it may raise.
            self._initialize(quantizer)
        self.activation_holder_quantizer = quantizer
        self._takes_training = takes_training(quantizer)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, the quantizer as a Keras configuration."""
        quantizer = keras.saving.serialize_keras_object(self.activation_holder_quantizer)
        return {**super().get_config(), ACTIVATION_HOLDER_QUANTIZER: quantizer, MCTQ_VERSION: self.mctq_version}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """The holder whose `get_config` was `config`. Quantizer classes of the user's own are found by their names."""
        quantizer = deserialized(config[ACTIVATION_HOLDER_QUANTIZER], custom_objects)
        return cls(**{**config, ACTIVATION_HOLDER_QUANTIZER: quantizer})

    def _quantizers_by_name(self) -> Mapping[str, Any]:
        return {ACTIVATION_HOLDER_QUANTIZER: self.activation_holder_quantizer}

    def _initialize(self, quantizer: Any, input_shape: Any = None) -> None:
        quantizer.initialize_quantization(input_shape, f"{ACTIVATION_HOLDER_QUANTIZER}_out", self)


class _BypassableHolder(KerasActivationQuantizationHolder):
    """A holder that can let its input through.

    Args:
        activation_holder_quantizer: an activation quantizer, inferable or trainable.
        quantization_bypass: whether the input goes through unquantized.
        **kwargs: arguments of every Keras layer (`name`, `dtype`, …).

    Raises:
        TypeError: the quantizer is no quantizer, or `quantization_bypass` is no bool.
    """

    def __init__(self, activation_holder_quantizer: Any, quantization_bypass: bool = False, **kwargs: Any) -> None:
        quantization_bypass = checked_bool("quantization_bypass", quantization_bypass)
        super().__init__(activation_holder_quantizer, **kwargs)
        self.quantization_bypass = quantization_bypass

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Quantized `inputs`, or `inputs` itself."""
        return inputs if self.quantization_bypass else super().call(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, the quantizer as a Keras configuration."""
        return {**super().get_config(), "quantization_bypass": self.quantization_bypass}


@keras.saving.register_keras_serializable(PACKAGE)
class KerasFLNActivationQuantizationHolder(_BypassableHolder):
    """Holds the quantizer of a tensor inside a fused operation, where a runtime does not quantize it: can be bypassed.

    Args:
        activation_holder_quantizer: an activation quantizer, inferable or trainable.
        quantization_bypass: whether the input goes through unquantized.
        **kwargs: arguments of every Keras layer (`name`, `dtype`, …).
    """


@keras.saving.register_keras_serializable(PACKAGE)
class KerasPreservingActivationQuantizationHolder(_BypassableHolder):
    """Holds the quantizer of a tensor that keeps the grid of its input (pooling, reshaping): can be bypassed.

    Args:
        activation_holder_quantizer: an activation quantizer, inferable or trainable.
        quantization_bypass: whether the input goes through unquantized.
        **kwargs: arguments of every Keras layer (`name`, `dtype`, …).
    """

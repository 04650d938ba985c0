# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Binds the training methods to Keras: one quantizer class for all, weights and activations."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras

from mct_quantizers.common import arithmetic
from mct_quantizers.keras import ops as keras_ops
from mct_quantizers.keras.quantizers import BaseKerasInferableQuantizer
from model_compression_toolkit.trainable_infrastructure.common.method_quantizer import MethodQuantizer
from model_compression_toolkit.trainable_infrastructure.keras.base_keras_quantizer import BaseKerasTrainableQuantizer
from model_compression_toolkit.trainable_infrastructure.methods.method import Learned

__all__ = ["KerasMethodQuantizer"]

Tensor = Any


class KerasMethodQuantizer(MethodQuantizer, BaseKerasTrainableQuantizer):
    """A quantizer that a `Method` trains; its state is variables of the layer that carries it, never 0-dim.

    What is trained in units of its own size, a scale above all, is two variables: `relative_scale` and `scale_unit`.
    """

    _ops = keras_ops
    _inferable_base = BaseKerasInferableQuantizer
    _layer: Any = None
    _units: Mapping[str, Any] = MappingProxyType({})

    def __call__(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Quantized `inputs`, differentiable: same shape and dtype.

        What the method adds to the loss goes to the layer's losses.

        Args:
            inputs: floating point; float16 and bfloat16 are computed in float32.
            training: whether the call is a step of training.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: per channel, `inputs` has another number of channels; the quantizer has no state yet.
        """
        inputs = keras_ops.as_tensor(inputs)
        result = self._quantized(inputs, bool(training))
        if training:
            self._assign(self._next_step())
        if training and self._layer is not None:
            # After the counters have moved, as in PyTorch, where the training loop adds it after the call.
            penalty = self.regularization(inputs if self.method.is_weight else None)
            if penalty is not None:
                self._layer.add_loss(penalty)
        return result

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._description()})"

    def initialize_quantization(
        self, tensor_shape: Sequence[int] | None, name: str | None, layer: Any
    ) -> dict[str, Any]:
        """Make the state, once, as variables of `layer`.

        Args:
            tensor_shape: shape of a weight.
            name: prefix for the names of the variables.
            layer: the wrapper or holder; None makes variables that no layer knows.

        Raises:
            ValueError: the state belongs to another layer.
        """
        if self._layer is not None and self._layer is not layer:
            raise ValueError(
                f"{self!r} has its variables on the layer {self._layer.name!r}, which trains and saves them: give the "
                f"layer {getattr(layer, 'name', layer)!r} a quantizer of its own."
            )
        return super().initialize_quantization(tensor_shape, name, layer)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments as plain values."""
        return {**super().get_config(), **self.method_arguments}

    def _new_variable(self, key: str, learned: Learned, trainable: bool, prefix: str | None, layer: Any) -> Any:
        self._layer = layer
        if not trainable or learned.unit is None:
            return self._added(f"{prefix}_{key}", learned.value, trainable)
        self._units = {**self._units, key: self._added(f"{prefix}_{key}_unit", learned.unit, False)}
        return self._added(f"{prefix}_relative_{key}", learned.value / learned.unit, True)

    def _added(self, name: str, value: Any, trainable: bool) -> Any:
        arguments = {
            "shape": value.shape,
            "dtype": str(value.dtype),
            "initializer": lambda shape, dtype: keras.ops.convert_to_tensor(value, dtype),
            "trainable": trainable,
            "autocast": False,
            "name": name,
        }
        return keras.Variable(**arguments) if self._layer is None else self._layer.add_weight(**arguments)

    def _variable(self, key: str) -> Tensor:
        value, unit = keras_ops.as_tensor(self.get_quantizer_variable(key)), self._units.get(key)
        return value if unit is None else arithmetic.in_units(value, keras_ops.as_tensor(unit), keras_ops)

    def _as_array(self, variable: Tensor) -> Any:
        return keras.ops.convert_to_numpy(variable)

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for key, value in values.items():
            self.get_quantizer_variable(key).assign(value)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What Keras does for the conformance checks, on each of its backends."""

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mct_quantizers.common.quantizer_dispatch import frozen_weight_of, takes_training
from mct_quantizers.keras import ops
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantizers import BaseKerasInferableQuantizer
from model_compression_toolkit.core.keras.package import PACKAGE
from model_compression_toolkit.trainable_infrastructure.common.conformance.cases import Array
from model_compression_toolkit.trainable_infrastructure.common.conformance.report import ConformanceReport
from model_compression_toolkit.trainable_infrastructure.common.conformance.run import run_checks
from model_compression_toolkit.trainable_infrastructure.common.conformance.wing import Output, TrainingCall
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerConfig,
)
from model_compression_toolkit.trainable_infrastructure.keras.load_model import keras_load_quantized_model
from model_compression_toolkit.trainable_infrastructure.keras.quantize_wrapper import KerasTrainableQuantizationWrapper

__all__ = ["KerasWing", "check_class"]

Tensor = Any
_BACKEND = keras.config.backend()
_WEIGHT = "kernel"


def check_class(
    cls: type, quantization_config: TrainableQuantizerConfig | None, arguments: Mapping[str, Any]
) -> ConformanceReport:
    """`check_quantizer` for a Keras class."""
    return run_checks(cls, KerasWing(), quantization_config, arguments)


@keras.saving.register_keras_serializable(PACKAGE)
class GivesItsWeight(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A layer whose result is its weight, whatever the input: a wrapper around it gives the quantized weight.

    Args:
        shape: shape of the weight.
        **kwargs: arguments of every Keras layer (`name`, `dtype`, …).
    """

    def __init__(self, shape: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def build(self, input_shape: Any = None) -> None:
        """Make the weight."""
        self.kernel = self.add_weight(name=_WEIGHT, shape=self.shape)
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        """The weight."""
        del inputs
        return ops.as_tensor(self.kernel)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "shape": self.shape}


class KerasWing:
    """The checks' view of Keras; see `Wing`."""

    name = f"Keras ({_BACKEND})"
    channels_first = False
    inferable_base: type = BaseKerasInferableQuantizer
    compile_equals = {
        "tensorflow": "tf.function equals eager",
        "jax": "jax.jit equals eager",
    }.get(_BACKEND, "model.predict equals a call")
    # On torch Keras trains without compiling.
    compiles_training = _BACKEND != "torch"

    def carry(self, quantizer: Any, values: Array, is_weight: bool) -> Any:
        """See `Wing.carry`."""
        if is_weight:
            wrapper = KerasTrainableQuantizationWrapper(GivesItsWeight(values.shape), {_WEIGHT: quantizer})
            wrapper.build((None, 1))
            wrapper.layer.kernel.assign(values)
            return wrapper
        holder = KerasActivationQuantizationHolder(quantizer)
        holder.build((None, *values.shape[1:]))
        return holder

    def call(self, quantizer: Any, values: Array, training: bool | None = None, dtype: str = "float32") -> Output:
        """See `Wing.call`."""
        output = _called(quantizer, keras.ops.cast(_tensor(values), dtype), training)
        return Output(_array(output), keras.backend.standardize_dtype(output.dtype))

    def input_after(self, quantizer: Any, values: Array, training: bool) -> Array:
        """See `Wing.input_after`."""
        tensor = _tensor(values)
        _called(quantizer, tensor, training if takes_training(quantizer) else None)
        return _array(tensor)

    def run(self, carrier: Any, values: Array, training: bool = False, compiled: bool = False) -> Array:
        """See `Wing.run`."""
        inputs = _inputs(carrier, values)
        if not compiled:
            return _array(carrier(inputs, training=training))
        if _BACKEND == "tensorflow":
            import tensorflow as tf

            return _array(tf.function(lambda inputs: carrier(inputs, training=training))(inputs))
        if _BACKEND == "jax":
            import jax

            trainable, rest = ([item.value for item in items] for items in _variables_of(carrier))
            function = jax.jit(lambda *arguments: carrier.stateless_call(*arguments, training=training)[0])
            return _array(function(trainable, rest, inputs))
        return np.asarray(_model(carrier, values).predict(_array(inputs), batch_size=len(inputs), verbose=0))

    def train(self, carrier: Any, values: Array, upstream: Array, compiled: bool = False) -> TrainingCall:
        """See `Wing.train`."""
        inputs, weights = _inputs(carrier, values), _tensor(upstream)
        gradients = {"tensorflow": _tensorflow_gradients, "jax": _jax_gradients}.get(_BACKEND, _torch_gradients)
        output, to_inputs, to_variables = gradients(carrier, inputs, weights, compiled)
        arrays = {id(item): array for item, array in zip(carrier.trainable_variables, to_variables, strict=True)}
        to_input = arrays[id(carrier.layer.kernel)] if _is_wrapper(carrier) else to_inputs
        own = {name: arrays[id(variable)] for name, variable in self.variables(carrier).items()}
        return TrainingCall(output, to_input, own)

    def variables(self, carrier: Any) -> dict[str, Any]:
        """See `Wing.variables`."""
        return _named(carrier, carrier.trainable_variables)

    def change(self, variable: Any, update: Callable[[Array], Array]) -> None:
        """See `Wing.change`."""
        variable.assign(update(_array(variable)))

    def is_trainable(self, variable: Any) -> bool:
        """See `Wing.is_trainable`."""
        return isinstance(variable, keras.Variable) and bool(variable.trainable)

    def state(self, carrier: Any) -> dict[str, Array]:
        """See `Wing.state`."""
        return {name: _array(variable) for name, variable in _named(carrier, carrier.variables).items()}

    def float_weight(self, carrier: Any) -> Array | None:
        """See `Wing.float_weight`."""
        return _array(carrier.layer.kernel) if _is_wrapper(carrier) else None

    def frozen_weight(self, quantizer: Any, values: Array) -> Array:
        """See `Wing.frozen_weight`."""
        return _array(frozen_weight_of(quantizer, _tensor(values)))

    def codes(self, quantizer: Any, values: Array) -> Array:
        """See `Wing.codes`."""
        return _array(quantizer.quantize(_tensor(values)))

    def copies(self, carrier: Any, values: Array) -> Iterator[tuple[str, Any]]:
        """See `Wing.copies`."""
        quantizer = _quantizer_of(carrier)
        if isinstance(quantizer, BaseKerasInferableQuantizer):
            twin = self.carry(copy.deepcopy(quantizer), values, _is_wrapper(carrier))
            yield "copy.deepcopy", twin
        model = _model(carrier, values)
        with keras.saving.custom_object_scope(_objects(quantizer)):
            clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        yield "keras.models.clone_model", clone.layers[-1]

    def reloaded(self, carrier: Any, fresh: Callable[[], Any], values: Array) -> Any:
        """See `Wing.reloaded`; a Keras file makes the fresh one by itself."""
        del fresh
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            _model(carrier, values).save(path)
            return keras_load_quantized_model(path, _objects(_quantizer_of(carrier))).layers[-1]

    def converted(self, carrier: Any) -> tuple[Any, Any]:
        """See `Wing.converted`."""
        converted = carrier.convert_to_inferable_quantizers()
        carrier = carrier if converted is None else converted
        return carrier, _quantizer_of(carrier)

    def seeded(self) -> contextlib.AbstractContextManager[Any]:
        """See `Wing.seeded`; Keras cannot put a seed back that it was given."""
        return contextlib.nullcontext()


def _tensorflow_gradients(carrier: Any, inputs: Tensor, weights: Tensor, compiled: bool) -> Any:
    import tensorflow as tf

    def call(inputs: Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = carrier(inputs, training=True)
            total = keras.ops.sum(output * weights)
        targets = [inputs, *(item.value for item in carrier.trainable_variables)]
        return output, tape.gradient(total, targets)

    output, found = (tf.function(call) if compiled else call)(inputs)
    arrays = [None if item is None else _array(tf.convert_to_tensor(item)) for item in found]
    return _array(output), arrays[0], arrays[1:]


def _jax_gradients(carrier: Any, inputs: Tensor, weights: Tensor, compiled: bool) -> Any:
    import jax

    trainable, rest = _variables_of(carrier)

    def total(values: Any, inputs: Tensor, others: Any) -> Any:
        output, moved = carrier.stateless_call(values, others, inputs, training=True)
        return keras.ops.sum(output * weights), (output, moved)

    gradient = jax.grad(total, argnums=(0, 1), has_aux=True)
    (to_values, to_inputs), (output, moved) = (jax.jit(gradient) if compiled else gradient)(
        [item.value for item in trainable], inputs, [item.value for item in rest]
    )
    for variable, value in zip(rest, moved, strict=True):
        variable.assign(value)
    return _array(output), _array(to_inputs), [_array(item) for item in to_values]


def _torch_gradients(carrier: Any, inputs: Tensor, weights: Tensor, compiled: bool) -> Any:
    # Training on this backend is eager: there is no compiled function to compare with.
    del compiled
    import torch

    leaf = inputs.clone().requires_grad_()
    # What a layer gets in a model is no leaf.
    output = carrier(leaf.clone(), training=True)
    targets = [leaf, *(item.value for item in carrier.trainable_variables)]
    found: Any = [None] * len(targets)
    if output.requires_grad:
        found = torch.autograd.grad(output, targets, weights, allow_unused=True)
    arrays = [None if item is None else _array(item) for item in found]
    return _array(output), arrays[0], arrays[1:]


def _called(quantizer: Any, tensor: Tensor, training: bool | None) -> Tensor:
    return quantizer(tensor) if training is None else quantizer(tensor, training=training)


def _is_wrapper(carrier: Any) -> bool:
    return isinstance(carrier, keras.layers.Wrapper)


def _quantizer_of(carrier: Any) -> Any:
    return carrier.weights_quantizers[_WEIGHT] if _is_wrapper(carrier) else carrier.activation_holder_quantizer


def _inputs(carrier: Any, values: Array) -> Tensor:
    return _tensor(np.zeros((1, 1), np.float32) if _is_wrapper(carrier) else values)


def _model(carrier: Any, values: Array) -> keras.Model:
    inputs = keras.Input((1,) if _is_wrapper(carrier) else values.shape[1:])
    return keras.Model(inputs, carrier(inputs))


def _objects(quantizer: Any) -> dict[str, Any]:
    return {type(quantizer).__name__: type(quantizer)}


def _variables_of(carrier: Any) -> tuple[list[Any], list[Any]]:
    return carrier.trainable_variables, carrier.non_trainable_variables


def _named(carrier: Any, variables: list[Any]) -> dict[str, Any]:
    """Variables without the float weight by names that are the same in a copy of the carrier."""
    weight = carrier.layer.kernel if _is_wrapper(carrier) else None
    own = [variable for variable in variables if variable is not weight]
    names = [variable.name for variable in own]
    return {
        name if names.count(name) == 1 else f"{name} ({index})": variable
        for index, (name, variable) in enumerate(zip(names, own, strict=True))
    }


def _tensor(values: Array) -> Tensor:
    # A copy: on torch's side the tensor would share its memory with the array.
    return keras.ops.convert_to_tensor(np.array(values))


def _array(tensor: Tensor) -> Array:
    value = ops.as_tensor(tensor)
    half = keras.backend.standardize_dtype(value.dtype) in ("float16", "bfloat16")
    # NumPy has no bfloat16. A copy: the tensor may change later.
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(value, "float32") if half else value))

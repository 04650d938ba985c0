# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The layer that quantizes the weights of the layer it wraps."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import keras
import numpy as np

from mct_quantizers._version import __version__
from mct_quantizers.common.constants import (
    IS_INPUT_AS_LIST,
    LAYER,
    MCTQ_VERSION,
    OP_CALL_ARGS,
    OP_CALL_KWARGS,
    TRAINING,
    WEIGHTS_QUANTIZERS,
    WEIGHTS_VALUES,
)
from mct_quantizers.common.quantizer_dispatch import frozen_weight_of, inferable_of, takes_training
from mct_quantizers.common.validation import checked_bool
from mct_quantizers.common.weight_cache import WeightCache
from mct_quantizers.common.wrapped_weights import (
    WeightKey,
    check_has_quantize,
    check_replacement,
    check_wrapped_weights,
    parameter_name,
    with_positional_weights,
)
from mct_quantizers.keras import ops
from mct_quantizers.keras.function_layer import FunctionLayer
from mct_quantizers.keras.quantizer_record import RecordsQuantizers
from mct_quantizers.keras.quantizers.base import PACKAGE, BaseKerasInferableQuantizer, deserialized

Tensor = Any


class _Field(NamedTuple):
    """Where a weight stands.

    Attributes:
        owners: attributes that lead from the wrapped layer to the layer inside it that has the weight.
        name: field of that layer.
    """

    owners: tuple[str, ...]
    name: str

    def place(self, layer: keras.layers.Layer) -> tuple[Any, str]:
        """The layer that has the weight, and the name of its field."""
        return functools.reduce(getattr, self.owners, layer), self.name


class _Wrapped:
    """What a wrapper knows of its weights: plain, because Keras replaces the containers of a layer."""

    def __init__(
        self,
        quantizers: dict[WeightKey, Any],
        fields: "dict[WeightKey, _Field]",
        values: dict[int, Any],
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> None:
        self.quantizers, self.fields, self.values = quantizers, fields, values
        self.op_call_args, self.op_call_kwargs = args, kwargs
        self.takes_training = {key: takes_training(quantizer) for key, quantizer in quantizers.items()}
        self.cache = WeightCache(ops.snapshot, ops.is_unchanged, ops.is_concrete)


@keras.saving.register_keras_serializable(PACKAGE)
class KerasQuantizationWrapper(RecordsQuantizers, keras.layers.Wrapper):
    """Runs `layer` with quantized weights; the float weights stay variables of the layer.

    A weight is named either by its attribute (`"kernel"`; of a layer inside the layer `"cell.kernel"`) or, for a
    function, by its position among the call's inputs.
    The quantized value stands on the wrapped layer only while the layer runs: outside a call read `layer.kernel`
    (float) or `wrapper.get_quantized_weights()`.

    Weights are quantized in their own dtype and cast to the layer's compute dtype afterwards (mixed precision). Outside
    of training and of compiled functions the values of inferable quantizers are computed once and kept until the weight
    changes.

    Args:
        layer: a layer, or a function when weights are positional (see `FunctionLayer` for what can be saved).
        weights_quantizers: quantizer of each weight, by attribute name or by position. Of a variable's path such as
            `"dense/kernel:0"` the leaf counts.
        weight_values: value of each positional weight, a tensor or an array.
        op_call_args: arguments that follow the inputs at every call; for a layer only tensors, for a function anything.
        op_call_kwargs: keyword arguments of every call; those given at call time win.
        is_inputs_as_list: whether the inputs go to the function as one list.
        **kwargs: arguments of every Keras layer (`name`, `dtype`, …).

    Raises:
        TypeError: `layer` is no layer or function, keys of mixed or wrong type, a weight that is no tensor.
        ValueError: an attribute that a built layer does not have (else `build` says so), positional values that do not
            match the quantizers.
    """

    def __init__(
        self,
        layer: keras.layers.Layer | Callable[..., Any],
        weights_quantizers: Mapping[Any, Any],
        weight_values: Mapping[int, Any] | None = None,
        op_call_args: Sequence[Any] | None = None,
        op_call_kwargs: Mapping[str, Any] | None = None,
        is_inputs_as_list: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_arguments(layer, weights_quantizers, weight_values)
        self_version = kwargs.pop(MCTQ_VERSION, __version__)
        if not isinstance(layer, keras.layers.Layer):
            layer = FunctionLayer(layer)
        quantizers = {_leaf(key): weights_quantizers[key] for key in sorted(weights_quantizers)}
        if len(quantizers) != len(weights_quantizers):
            raise ValueError(f"`weights_quantizers` must name each weight once. Received: {list(weights_quantizers)}")
        fields = _fields_of(layer, quantizers) if layer.built else {}
        # The wrapper casts nothing, whatever the policy: weights are quantized in their own dtype, and inputs are the
        # wrapped layer's concern.
        dtype = keras.dtype_policies.get(kwargs.pop("dtype", None)).variable_dtype
        super().__init__(layer, **{"autocast": False, "dtype": dtype, **kwargs})
        self.supports_masking = layer.supports_masking
        self.is_inputs_as_list = is_inputs_as_list
        self.mctq_version = self_version
        self._layer_takes_training = takes_training(layer)
        # Keras tracks what it finds in fields: the variables of quantizers that are layers are the wrapper's.
        self._quantizer_layers = [item for item in quantizers.values() if isinstance(item, keras.layers.Layer)]
        self._wrapped = _Wrapped(
            quantizers, fields, dict(weight_values or {}), list(op_call_args or []), dict(op_call_kwargs or {})
        )

    @property
    def weights_quantizers(self) -> dict[WeightKey, Any]:
        """Quantizer of each weight, by attribute name or by position."""
        return self._wrapped.quantizers

    @property
    def weight_values(self) -> dict[int, Any]:
        """Initial value of each positional weight."""
        return self._wrapped.values

    @property
    def op_call_args(self) -> list[Any]:
        """Arguments that follow the inputs at every call."""
        return self._wrapped.op_call_args

    @property
    def op_call_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of every call."""
        return self._wrapped.op_call_kwargs

    @property
    def is_weights_quantization(self) -> bool:
        """Whether any weight is quantized."""
        return self.num_weights_quantizers > 0

    @property
    def num_weights_quantizers(self) -> int:
        """Number of quantized weights."""
        return len(self.weights_quantizers)

    def build(self, input_shape: Any = None) -> None:
        """Build the wrapped layer, then let the quantizers create their variables.

        Args:
            input_shape: shape or shapes of the inputs, without the positional weights.

        Raises:
            ValueError: an attribute is no variable of the layer.
        """
        super().build(self._shapes_with_weights(input_shape))
        self._wrapped.fields = _fields_of(self.layer, self.weights_quantizers)
        for key, quantizer in self.weights_quantizers.items():
            if isinstance(key, int):
                value = keras.ops.convert_to_numpy(self.weight_values[key])
                weight = self.add_weight(
                    name=parameter_name(key),
                    shape=value.shape,
                    dtype=keras.backend.standardize_dtype(value.dtype),
                    initializer=lambda shape, dtype, value=value: keras.ops.convert_to_tensor(value, dtype),
                    trainable=False,
                    autocast=False,
                )
                setattr(self, parameter_name(key), weight)
            quantizer.initialize_quantization(self._float_weight(key).shape, _prefix(key), self)

    def call(self, inputs: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """The wrapped layer's result with quantized weights.

        Args:
            inputs: input or list of inputs of the layer, without the positional weights.
            training: whether the call is a step of training.
            **kwargs: keyword arguments of the layer.

        Raises:
            TypeError: `training` is no bool.
        """
        training = None if training is None else checked_bool(TRAINING, training)
        quantized = {key: self._quantized(key, bool(training)) for key in self.weights_quantizers}
        keywords = {**self.op_call_kwargs, **kwargs}
        if self._layer_takes_training:
            keywords[TRAINING] = training
        if self.weight_values:
            values = with_positional_weights(inputs if isinstance(inputs, (list, tuple)) else [inputs], quantized)
            if self.is_inputs_as_list:
                return self.layer(values, *self.op_call_args, **keywords)
            return self.layer(*values, *self.op_call_args, **keywords)
        # The attributes of some layers are properties over fields: the field is exchanged, for the time of the call.
        kept = {key: self._float_weight(key) for key in quantized}
        try:
            self._place(quantized)
            return self.layer(inputs, *self.op_call_args, **keywords)
        finally:
            self._place(kept)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Shape and dtype of the wrapped layer's result."""
        # Keras takes a product with a number for sparse, on which most layers cannot be tried.
        args, kwargs = keras.tree.map_structure(_dense, (args, kwargs))
        spec = super().compute_output_spec(*args, **kwargs)
        if isinstance(self.layer, FunctionLayer):
            return spec
        # On torch a symbolic call does not see that the layer casts.
        dtype = self.layer.compute_dtype

        def cast(tensor: Any) -> Any:
            is_float = keras.backend.is_float_dtype(tensor.dtype)
            return keras.KerasTensor(tensor.shape, dtype=dtype if is_float else tensor.dtype)

        return keras.tree.map_structure(cast, spec)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of the wrapped layer's result."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_weights_vars(self) -> list[tuple[WeightKey, keras.Variable, Any]]:
        """Key, float variable and quantizer of each quantized weight, of a wrapper that is built."""
        return [(key, self._float_weight(key), quantizer) for key, quantizer in self.weights_quantizers.items()]

    def get_quantized_weights(self) -> dict[WeightKey, Tensor]:
        """Quantized value of each weight in inference, of a wrapper that is built."""
        return {key: self._compute(key, self._float_value(key), training=False) for key in self.weights_quantizers}

    def get_integer_weights(self) -> dict[WeightKey, Tensor]:
        """Integer codes of each weight: int32, shape of the weight. Not inside a compiled function.

        Raises:
            TypeError: a quantizer of the user's own has no `quantize`.
        """
        check_has_quantize(self.weights_quantizers)
        return {key: quantizer.quantize(self._float_value(key)) for key, quantizer in self.weights_quantizers.items()}

    def convert_to_inferable_quantizers(self) -> "KerasQuantizationWrapper | None":
        """Replace each trainable quantizer by what it froze to.

        The variables of trainable quantizers stay on this wrapper, where Keras does not let go of them, so what is to
        be saved is the wrapper that is returned.

        Returns:
            A new wrapper around a copy of the layer, with its weights and without the variables of the trainable
            quantizers; None where all quantizers are inferable already.
        """
        return self._converted(type(self))

    def _converted(self, wrapper_class: "type[KerasQuantizationWrapper]") -> "KerasQuantizationWrapper | None":
        frozen = {key: inferable_of(quantizer) for key, quantizer in self.weights_quantizers.items()}
        changed = [key for key, quantizer in frozen.items() if quantizer is not self.weights_quantizers[key]]
        if not changed:
            return None
        for key in changed:
            if self.built:
                self.freeze_weight(key)
            self.set_quantizer(key, frozen[key])
        layer = self.layer
        if not isinstance(layer, FunctionLayer):
            layer = type(layer).from_config(layer.get_config())
            if self.layer.built:
                # Of its own inputs: a layer may be built for several, the wrapper knows the first.
                layer.build_from_config(self.layer.get_build_config())
        wrapper = wrapper_class(
            layer,
            frozen,
            self.weight_values,
            self.op_call_args,
            self.op_call_kwargs,
            self.is_inputs_as_list,
            **keras.layers.Layer.get_config(self),
        )
        if self.built:
            wrapper.build_from_config(self.get_build_config())
            wrapper.layer.set_weights(self.layer.get_weights())
            for key in self.weight_values:
                wrapper._float_weight(key).assign(self._float_value(key))
        return wrapper

    def freeze_weight(self, key: WeightKey) -> None:
        """Give the weight `key` the value to which what its quantizer freezes to is applied.

        Most quantizers leave the weight as it is. The result of the wrapper in evaluation stays the same once the
        quantizer is frozen.
        """
        weight = self._float_value(key)
        value = frozen_weight_of(self.weights_quantizers[key], weight)
        if value is not weight:
            self._float_weight(key).assign(value)

    def set_quantizer(self, key: WeightKey, quantizer: Any) -> None:
        """Quantize the weight `key` with `quantizer` from now on; what is compiled already keeps the former one.

        Args:
            key: name or position of a weight that is quantized.
            quantizer: the new quantizer. On a wrapper that is built it cannot create variables.

        Raises:
            TypeError: `quantizer` is no quantizer.
            ValueError: no weight `key` is quantized.
        """
        check_replacement(key, quantizer, self.weights_quantizers)
        if self.built:
            # Before anything is changed: it may raise.
            quantizer.initialize_quantization(self._float_weight(key).shape, _prefix(key), self)
        self._wrapped.cache.drop()
        self._wrapped.quantizers[key] = quantizer
        self._wrapped.takes_training[key] = takes_training(quantizer)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, layer and quantizers as Keras configurations."""
        serialize = keras.saving.serialize_keras_object
        config = {
            **super().get_config(),
            WEIGHTS_QUANTIZERS: {str(key): serialize(value) for key, value in self.weights_quantizers.items()},
            OP_CALL_ARGS: serialize(self.op_call_args),
            OP_CALL_KWARGS: serialize(self.op_call_kwargs),
            IS_INPUT_AS_LIST: self.is_inputs_as_list,
            MCTQ_VERSION: self.mctq_version,
        }
        if self.weight_values:
            values = {key: keras.ops.convert_to_numpy(value) for key, value in self.weight_values.items()}
            config[WEIGHTS_VALUES] = {str(key): serialize(value) for key, value in values.items()}
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """The wrapper whose `get_config` was `config`. Quantizer classes of the user's own are found by their names."""
        config = dict(config)
        restored = functools.partial(deserialized, custom_objects=custom_objects)
        layer = restored(config.pop(LAYER))
        quantizers = {_key(key): restored(value) for key, value in config.pop(WEIGHTS_QUANTIZERS).items()}
        values = {int(key): restored(value) for key, value in config.pop(WEIGHTS_VALUES, {}).items()}
        args, kwargs = restored(config.pop(OP_CALL_ARGS, [])), restored(config.pop(OP_CALL_KWARGS, {}))
        return cls(layer, quantizers, values or None, args, kwargs, **config)

    def _quantizers_by_name(self) -> Mapping[str, Any]:
        return {str(key): quantizer for key, quantizer in self.weights_quantizers.items()}

    def _place(self, values: Mapping[WeightKey, Any]) -> None:
        for key, value in values.items():
            # Past Keras, which would keep a list of what it sees.
            owner, name = self._wrapped.fields[key].place(self.layer)
            object.__setattr__(owner, name, value)

    def _shapes_with_weights(self, input_shape: Any) -> Any:
        """What the wrapped layer is built for: the shapes of the inputs, with those of the positional weights."""
        if not self.weight_values or input_shape is None:
            return input_shape
        is_single = not input_shape or not isinstance(input_shape[0], (list, tuple))
        shapes = {key: tuple(value.shape) for key, value in self.weight_values.items()}
        return with_positional_weights([input_shape] if is_single else input_shape, shapes)

    def _float_weight(self, key: WeightKey) -> keras.Variable:
        variable: keras.Variable | None = None
        if isinstance(key, int):
            variable = getattr(self, parameter_name(key), None)
        elif key in self._wrapped.fields:
            variable = getattr(*self._wrapped.fields[key].place(self.layer))
        if variable is None:
            raise ValueError(f"The wrapper must be built, by a call or by `build`, before it has weight {key!r}.")
        return variable

    def _float_value(self, key: WeightKey) -> Tensor:
        return ops.as_tensor(self._float_weight(key))

    def _compute(self, key: WeightKey, weight: Tensor, training: bool) -> Tensor:
        quantizer = self.weights_quantizers[key]
        value = quantizer(weight, training=training) if self._wrapped.takes_training[key] else quantizer(weight)
        return keras.ops.cast(value, self.layer.compute_dtype)

    def _quantized(self, key: WeightKey, training: bool) -> Tensor:
        weight = self._float_value(key)
        # Only what is frozen can be kept.
        if training or not isinstance(self.weights_quantizers[key], BaseKerasInferableQuantizer):
            return self._compute(key, weight, training)
        return self._wrapped.cache.fetch(key, [weight], lambda: self._compute(key, weight, training))


def _check_arguments(layer: Any, weights_quantizers: Any, weight_values: Any) -> None:
    if not callable(layer):
        raise TypeError(f"`layer` must be a Keras layer or a function. Received: layer={layer!r}")
    if isinstance(layer, KerasQuantizationWrapper):
        raise ValueError("`layer` is wrapped already; name all its weights in one wrapper, or use `set_quantizer`.")
    check_wrapped_weights(weights_quantizers, weight_values, _is_tensor)
    if not isinstance(layer, keras.layers.Layer) and any(isinstance(key, str) for key in weights_quantizers):
        raise TypeError(
            "`layer` must be a Keras layer when weights are named; a function has positional weights. "
            f"Received: layer={layer!r}"
        )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (np.ndarray, keras.Variable)) or keras.ops.is_tensor(value)


def _dense(leaf: Any) -> Any:
    """A symbolic tensor of the same shape and dtype that is not sparse; anything else as it is."""
    return keras.KerasTensor(leaf.shape, leaf.dtype) if isinstance(leaf, keras.KerasTensor) and leaf.sparse else leaf


def _prefix(key: WeightKey) -> str:
    """What the names of a quantizer's variables begin with; torch takes no dots in names."""
    return parameter_name(key).replace(".", "_")


def _leaf(key: WeightKey) -> WeightKey:
    return key.rpartition("/")[2].partition(":")[0] if isinstance(key, str) else key


def _key(text: str) -> WeightKey:
    return int(text) if text.isdigit() else text


def _fields_of(layer: keras.layers.Layer, keys: Iterable[WeightKey]) -> dict[WeightKey, _Field]:
    """Where each variable stands: in the field of the weight's own name, or in the one behind its property."""
    fields: dict[WeightKey, _Field] = {}
    for key in keys:
        if isinstance(key, int):
            continue
        *owners, weight = key.split(".")
        owner = functools.reduce(lambda inner, name: getattr(inner, name, None), owners, layer)
        own = {} if owner is None else vars(owner)
        found = [name for name in (weight, f"_{weight}") if isinstance(own.get(name), keras.Variable)]
        if not found:
            raise ValueError(
                f"`weights_quantizers` must name variables of the layer. Received: {key!r}, which "
                f"{type(layer).__name__} does not have; it has {sorted(variable.name for variable in layer.variables)}"
            )
        fields[key] = _Field(tuple(owners), found[0])
    return fields

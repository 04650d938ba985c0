# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A model whose own code runs, with other layers in it: how a model is quantized that is no graph of calls."""

from collections.abc import Mapping
from typing import Any, Self

import keras

from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.metadata import MetadataLayer, get_metadata, keep_metadata
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from mct_quantizers.keras.quantizers.base import deserialized
from model_compression_toolkit.core.keras.graph import by_name, first_by_position
from model_compression_toolkit.core.keras.package import PACKAGE
from model_compression_toolkit.core.keras.sublayers import config_of, replace_layers, sublayers

Layer = Any
_HOLDER, _LAYER = "holder", "layer"


@keras.saving.register_keras_serializable(PACKAGE)
class Replacement(keras.layers.Layer):
    """Stands where a layer of the user's stood. Attributes that it lacks are those of the layer.

    Args:
        layer: the layer that is called instead, such as a `KerasQuantizationWrapper`.
        holder: quantizes the first input; None leaves it as it is.
        **kwargs: arguments of every Keras layer.
    """

    def __init__(self, layer: Layer, holder: KerasActivationQuantizationHolder | None = None, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        self.supports_masking = True
        self.layer, self.holder = layer, holder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A call of the layer; the user's code may give also the first argument by its name, as in `sequences=x`."""
        args, kwargs = first_by_position(self._inside.call, args, kwargs)
        return super().__call__(*args, **kwargs)

    def build(self, *shapes: Any, **named: Any) -> None:
        """Nothing: layer and holder are built when they are called, or were before; the user's code may build again."""

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's result for quantized `inputs`; arguments as of the layer."""
        quantized = inputs if self.holder is None else self.holder(inputs)
        return self.layer(quantized, **by_name(self._inside, (inputs, *args), kwargs))

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of the layer's result."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, layer and holder as Keras configurations."""
        serialize = keras.saving.serialize_keras_object
        holder = None if self.holder is None else serialize(self.holder)
        return {**super().get_config(), _LAYER: serialize(self.layer), _HOLDER: holder}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """The layer whose `get_config` was `config`."""
        layer = deserialized(config[_LAYER], custom_objects)
        holder = None if config[_HOLDER] is None else deserialized(config[_HOLDER], custom_objects)
        return cls(**{**config, _LAYER: layer, _HOLDER: holder})

    @property
    def _inside(self) -> Layer:
        """The layer of the user's."""
        return self.layer.layer if isinstance(self.layer, KerasQuantizationWrapper) else self.layer

    def __getattr__(self, name: str) -> Any:
        """An attribute of the layer, such as `units`."""
        # On torch layers are modules, which stand elsewhere.
        fields = {**vars(self), **vars(self).get("_modules", {})}
        if name in fields:
            return fields[name]
        if name.startswith("_") or _LAYER not in fields:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        layer = fields[_LAYER]
        return getattr(layer if hasattr(layer, name) else layer.layer, name)


@keras.saving.register_keras_serializable(PACKAGE)
class LayerwiseModel(keras.Model):
    """Runs the code of `model` with some of its layers replaced. Its `.keras` file holds both.

    Args:
        model: a new model of the user's class, not built; it is changed.
        replaced: layers by the places where they stand from now on, see `sublayers`.
        **kwargs: arguments of every Keras model.

    Raises:
        ValueError: the model has no layer at one of the places.
    """

    replaced: dict[str, Layer]
    inputs_like: Any
    """Number of each input in the structure of the inputs of the first call, and shape and dtype of each."""

    def __init__(self, model: keras.Model, replaced: Mapping[str, Layer], **kwargs: Any) -> None:
        super().__init__(**{"name": model.name, **kwargs})
        self.metadata_layer = MetadataLayer()
        self.model = replace_layers(model, replaced)
        # Past Keras, which would list the layers of the model a second time.
        object.__setattr__(self, "replaced", dict(replaced))
        object.__setattr__(self, "inputs_like", None)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The outputs of the user's code for `inputs`."""
        if self.inputs_like is None:
            object.__setattr__(self, "inputs_like", _described(inputs))
        return self.model(inputs, training=training)

    def build(self, input_shape: Any = None) -> None:
        """Nothing: the layers are built when the user's code calls them."""

    def keep_in_checkpoints(self) -> None:
        """Have TensorFlow's checkpoints hold the whole model, once it is built."""
        if keras.backend.backend() == "tensorflow":
            from mct_quantizers.keras.tensorflow_checkpoint import checkpointed

            self.checkpointed = checkpointed(self.replaced, self.weights)

    def get_build_config(self) -> dict[str, Any]:
        """What `build_from_config` takes."""
        layers = {path: layer.get_build_config() for path, layer in sublayers(self.model) if layer.built}
        return {"inputs": self.inputs_like, "layers": layers}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build every layer: run the code on zeros, then build what it did not reach."""
        structure, tensors = config["inputs"]
        inputs = [keras.ops.zeros(shape, dtype) for shape, dtype in tensors]
        self(keras.tree.map_structure(lambda number: inputs[number], structure), training=False)
        for path, layer in sublayers(self.model):
            if not layer.built and config["layers"].get(path):
                layer.build_from_config(config["layers"][path])
        self.keep_in_checkpoints()

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, the user's model and the replaced layers as Keras configurations."""
        serialize = keras.saving.serialize_keras_object
        model = serialize(self.model)
        for built in ("build_config", "compile_config"):
            # Layers can be replaced in a model only before it is built.
            model.pop(built, None)
        model["config"] = serialize(config_of(self.model))
        replaced = {path: serialize(layer) for path, layer in self.replaced.items()}
        return {
            "name": self.name,
            "trainable": self.trainable,
            "model": model,
            "replaced": replaced,
            "metadata": get_metadata(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        """The model whose `get_config` was `config`, not built."""
        model = deserialized(config["model"], custom_objects)
        replaced = {path: deserialized(layer, custom_objects) for path, layer in config["replaced"].items()}
        config = {**config, "model": model, "replaced": replaced}
        metadata = config.pop("metadata", None)
        layerwise = cls(**config)
        if metadata:
            keep_metadata(layerwise, metadata)
        return layerwise


def _described(inputs: Any) -> Any:
    tensors = [
        ([1 if size is None else size for size in x.shape], keras.backend.standardize_dtype(x.dtype))
        for x in keras.tree.flatten(inputs)
    ]
    return keras.tree.pack_sequence_as(inputs, list(range(len(tensors)))), tensors

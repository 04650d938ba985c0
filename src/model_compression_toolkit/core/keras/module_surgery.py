# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Making a quantized model of one that is seen layer by layer, and freezing it."""

from collections.abc import Callable
from typing import Any

import keras

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.core.keras.batch_norm import LiveBatchNormalization, live_batch_norm
from model_compression_toolkit.core.keras.layer_state import copy_state
from model_compression_toolkit.core.keras.layerwise_model import LayerwiseModel, Replacement
from model_compression_toolkit.core.keras.module_capture import CapturedModules, copied
from model_compression_toolkit.core.keras.sublayers import sublayers

Layer = Any
QuantizerFactory = Callable[[TensorPlan], Any]


def quantize_layers(
    captured: CapturedModules,
    plan: QuantizationPlan,
    sample: Any,
    wrapper_class: type[KerasQuantizationWrapper],
    weight_quantizer: QuantizerFactory,
    activation_quantizer: QuantizerFactory,
) -> LayerwiseModel:
    """A model that runs the user's code with quantized layers; arguments as of `apply_plan`.

    In training its batch norms are live, so that their statistics can be frozen.
    """
    layers = dict(sublayers(captured.model))
    weights: dict[str, dict[str, Any]] = {}
    holders: dict[str, KerasActivationQuantizationHolder] = {}
    for tensor in plan.quantized():
        path = tensor.site.layer
        if path not in layers:
            raise ValueError(f"The model has no layer {path!r}: the plan belongs to another model.")
        if tensor.is_weight:
            weights.setdefault(path, {})[tensor.site.tensor] = weight_quantizer(tensor)
        else:
            holders[path] = KerasActivationQuantizationHolder(activation_quantizer(tensor))
    replaced: dict[str, Layer] = {}
    for path in dict.fromkeys([*weights, *holders]):
        layer = _copied_layer(layers[path], path)
        quantizers = weights.get(path)
        if quantizers:
            layer = wrapper_class(layer, quantizers, name=layer.name, trainable=layer.trainable)
        replaced[path] = Replacement(layer, holders.get(path), name=layer.name, trainable=layer.trainable)
    if wrapper_class is not KerasQuantizationWrapper:
        for path, layer in layers.items():
            if type(layer) is keras.layers.BatchNormalization:
                replaced[path] = Replacement(live_batch_norm(layer, folds=False), name=layer.name)
    return _assembled(captured.model, replaced, lambda model: captured.run(model, sample))


def frozen_layers(model: LayerwiseModel) -> LayerwiseModel:
    """A copy of a trained model, whose layers have inferable quantizers; the model is not changed."""
    copy: LayerwiseModel = LayerwiseModel.from_config(model.get_config())
    copy.build_from_config(model.get_build_config())
    copy.set_weights(model.get_weights())
    replaced: dict[str, Layer] = {}
    for path, layer in copy.replaced.items():
        inner, holder = layer.layer, layer.holder
        if isinstance(inner, LiveBatchNormalization):
            inner = inner.plain()
        elif isinstance(inner, KerasQuantizationWrapper):
            inner = inner.convert_to_inferable_quantizers() or inner
        if holder is not None:
            holder = holder.convert_to_inferable_quantizers() or holder
        replaced[path] = Replacement(inner, holder, name=layer.name)
    config = model.get_build_config()
    return _assembled(copy.model, replaced, lambda frozen: frozen.build_from_config(config))


def names_of_layers(plan: QuantizationPlan) -> dict[str, str]:
    """The place of the layer that stands for each quantized tensor."""
    return {tensor.name: tensor.site.layer for tensor in plan.quantized()}


def quantizer_of_layer(model: LayerwiseModel, tensor: TensorPlan) -> Any:
    """The quantizer of a quantized tensor."""
    layer = model.replaced[tensor.site.layer]
    if tensor.site.target is QuantizationTarget.Weights:
        return layer.layer.weights_quantizers[tensor.site.tensor]
    return layer.holder.activation_holder_quantizer


def _assembled(model: keras.Model, replaced: dict[str, Layer], build: Callable[[Any], Any]) -> LayerwiseModel:
    """A built model of the code and weights of `model`, with replaced layers, which keep their weights."""
    assembled = LayerwiseModel(copied(model, "The model"), replaced)
    build(assembled)
    copy_state(model, assembled.model, tuple(replaced))
    assembled.keep_in_checkpoints()
    return assembled


def _copied_layer(layer: Layer, path: str) -> Layer:
    """A built copy of a layer with its weights."""
    copy = copied(layer, f"The layer {path!r}")
    copy.build_from_config(layer.get_build_config())
    copy_state(layer, copy)
    return copy

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Making a quantized model of a captured one: wrapping layers, inserting holders. Nothing decides here."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.metadata import add_metadata, get_metadata
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.quantization_plan import FrozenParams, QuantizationPlan, TensorPlan
from model_compression_toolkit.core.keras.batch_norm import (
    affine_of,
    folded_bias,
    kernel_name,
    kernel_of,
    with_bias,
)
from model_compression_toolkit.core.keras.capture import Captured, plain_name, unique_name
from model_compression_toolkit.core.keras.data import Batch
from model_compression_toolkit.core.keras.graph import Call, Value, by_name, forget_calls, rebuild
from model_compression_toolkit.core.keras.layerwise_model import LayerwiseModel
from model_compression_toolkit.core.keras.module_capture import CapturedModules
from model_compression_toolkit.core.keras.module_surgery import names_of_layers, quantize_layers, quantizer_of_layer
from model_compression_toolkit.core.keras.running import run_copy
from model_compression_toolkit.core.keras.unquantized import check_assembled

HOLDER_SUFFIX = "activation_holder_quantizer"
_PLAN, _NAMES = "quantization_plan", "layer_names"

QuantizerFactory = Callable[[TensorPlan], Any]


def apply_plan(
    captured: Captured | CapturedModules,
    plan: QuantizationPlan,
    sample: Batch,
    wrapper_class: type[KerasQuantizationWrapper],
    weight_quantizer: QuantizerFactory,
    activation_quantizer: QuantizerFactory,
) -> keras.Model:
    """Wrap the layers and insert the holders of a calibrated plan.

    Args:
        captured: the captured model, batch norms treated as the plan says; it is changed.
        plan: the plan, its tensors with parameters.
        sample: inputs of the model.
        wrapper_class: class of the wrappers.
        weight_quantizer: makes the quantizer of a weight.
        activation_quantizer: makes the quantizer of an activation.

    Returns:
        The quantized model; `plan_of` gives its plan.

    Raises:
        ValueError: the plan belongs to another model; what was assembled computes something else than the user's model.
    """
    if isinstance(captured, CapturedModules):
        layerwise = quantize_layers(captured, plan, sample, wrapper_class, weight_quantizer, activation_quantizer)
        check_assembled(layerwise, captured.reference, lambda model: captured.run(model, sample))
        return set_plan(layerwise, plan, names_of_layers(plan))
    quantizers: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for tensor in plan.quantized(QuantizationTarget.Weights):
        layer = tensor.site.layer
        if layer not in captured.copies:
            raise ValueError(f"The model has no layer {layer!r}: the plan belongs to another model.")
        quantizers.setdefault(layer, {})[tensor.site.tensor] = weight_quantizer(tensor)
        names[tensor.name] = captured.copies[layer].name
    taken = {operation.name for operation in captured.copies.values()}
    holders: dict[Value, KerasActivationQuantizationHolder] = {}
    for tensor in plan.quantized(QuantizationTarget.Activation):
        name = unique_name(f"{plain_name(tensor.site.layer)}_{HOLDER_SUFFIX}", taken)
        holder = KerasActivationQuantizationHolder(activation_quantizer(tensor), name=name)
        holders[captured.value(tensor.site.layer)] = holder
        names[tensor.name] = name
    operations = dict(captured.copies)
    for path, of_layer in quantizers.items():
        layer = captured.copies[path]
        constants = _constants_of([call for call in captured.graph.calls if call.path == path])
        operations[path] = wrapper_class(
            layer, of_layer, op_call_kwargs=constants, name=layer.name, trainable=layer.trainable
        )
    forget_calls(operations.values())
    model = rebuild(
        captured.graph,
        lambda call, args, kwargs: _run(call, operations[call.path], args, kwargs),
        lambda value, tensor: holders[value](tensor) if value in holders else tensor,
    )
    check_assembled(model, captured.reference, lambda model: run_copy(model, sample))
    for norm, path in plan.batch_norms.items():
        names[path] = captured.copies[path].name
        if norm in plan.live_batch_norms:
            names[norm] = captured.copies[norm].name
    return set_plan(model, plan, names)


def plan_of(model: keras.Model) -> QuantizationPlan:
    """The plan of a quantized model; also of one that `keras_load_quantized_model` loaded.

    Raises:
        ValueError: the model has none.
    """
    values = get_metadata(model).get(_PLAN)
    if values is None:
        raise ValueError(
            "`model` must be a model that `quantize` or `prepare_qat` returned, or one of a file that "
            "`keras_load_quantized_model` loaded, or a copy of one. Received: one without a plan. "
            "`keras.models.clone_model` leaves the plan out: use `copy.deepcopy`"
        )
    return QuantizationPlan.from_dict(values)


def set_plan(model: keras.Model, plan: QuantizationPlan, names: Mapping[str, str]) -> keras.Model:
    """Keep `plan` with the model and in its `.keras` file.

    Args:
        model: the quantized model; it is changed and returned.
        plan: its plan.
        names: name of the layer that stands for each quantized tensor and batch norm of the plan.
    """
    return add_metadata(model, {**get_metadata(model), _PLAN: plan.to_dict(), _NAMES: dict(names)})


def names_of(model: keras.Model) -> dict[str, str]:
    """Name of the layer that stands for each quantized tensor and batch norm of the model's plan."""
    return dict(get_metadata(model)[_NAMES])


def quantizer_of(model: keras.Model, tensor: TensorPlan) -> Any:
    """The quantizer of a quantized tensor of a quantized model."""
    if isinstance(model, LayerwiseModel):
        return quantizer_of_layer(model, tensor)
    return quantizer_in(model.get_layer(names_of(model)[tensor.name]), tensor)


def quantizer_in(layer: Any, tensor: TensorPlan) -> Any:
    """The quantizer of a quantized tensor, on the layer that stands for it."""
    return layer.weights_quantizers[tensor.site.tensor] if tensor.is_weight else layer.activation_holder_quantizer


def fold_live_batch_norm(wrapper: KerasQuantizationWrapper, norm: Any) -> KerasQuantizationWrapper:
    """A wrapper that computes what `wrapper`, followed by `norm`, computes in evaluation; the integers are the same.

    The factor of each channel goes into its scale, or its threshold of a table; a factor of zero becomes the smallest
    number that float32 holds.

    Args:
        wrapper: a built layer with inferable quantizers, per channel; it is not changed.
        norm: the batch norm.
    """
    key = kernel_name(wrapper.layer)
    factor, shift = affine_of(norm)
    former = wrapper.weights_quantizers[key]
    smallest = np.finfo(np.float32).tiny
    params: FrozenParams
    if isinstance(former.params, LookupTable):
        params = dataclasses.replace(former.params, threshold=np.maximum(former.params.threshold * factor, smallest))
    else:
        params = former.params.replace_scale(np.maximum(former.params.scale * factor, smallest))
    quantizer = type(former).from_params(params)
    codes = former.quantize(kernel_of(wrapper.layer))
    layer = with_bias(wrapper.layer)
    kernel_of(layer).assign(quantizer.dequantize(codes))
    layer.bias.assign(folded_bias(layer, factor, shift))
    config = keras.layers.Layer.get_config(wrapper)
    folded = type(wrapper)(layer, {**wrapper.weights_quantizers, key: quantizer}, **config)
    folded.build_from_config(wrapper.get_build_config())
    return folded


def _run(call: Call, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The results of an operation; a wrapper takes what follows its layer's first input by name."""
    if not isinstance(operation, KerasQuantizationWrapper):
        return operation(*args, **kwargs)
    keywords = by_name(call.operation, args, kwargs)
    return operation(args[0], **{name: item for name, item in keywords.items() if name not in operation.op_call_kwargs})


def _constants_of(calls: list[Call]) -> dict[str, Any]:
    """The constants among the arguments of a layer that also takes tensors by name: Keras does not mix both.

    Raises:
        ValueError: they differ from call to call.
    """
    found: list[dict[str, Any]] = []
    for call in calls:
        keywords = by_name(call.operation, call.args, call.kwargs)
        constants = {name: item for name, item in keywords.items() if not _holds_tensors(item)}
        found.append(constants if len(constants) < len(keywords) else {})
    if any(constants != found[0] for constants in found):
        raise ValueError(
            f"The layer {calls[0].path!r} is called with tensors by name and different constants: {found}. Leave it in "
            f"float: Rule(name={calls[0].path!r}, quantize=False)"
        )
    return found[0]


def _holds_tensors(item: Any) -> bool:
    return any(isinstance(leaf, Value) for leaf in keras.tree.flatten(item))

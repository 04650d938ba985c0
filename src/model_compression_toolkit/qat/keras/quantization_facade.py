# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training of Keras models: prepare, train with `fit` or any loop, finalize."""

from collections.abc import Callable
from typing import Any

import keras

from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from mct_quantizers.keras.quantize_wrapper import KerasQuantizationWrapper
from model_compression_toolkit.core.common.batches import num_batches
from model_compression_toolkit.core.common.core_config import CoreConfig, read_core_config
from model_compression_toolkit.core.common.interface import UserInformation, refuse_unsupported
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.core.keras.batch_norm import LiveBatchNormalization, fold_batch_norm, with_bias
from model_compression_toolkit.core.keras.capture import built_copies
from model_compression_toolkit.core.keras.flow import capture_and_plan
from model_compression_toolkit.core.keras.graph import forget_calls, rebuild
from model_compression_toolkit.core.keras.layerwise_model import LayerwiseModel
from model_compression_toolkit.core.keras.module_surgery import frozen_layers, quantizer_of_layer
from model_compression_toolkit.core.keras.random_state import preserved_random_state
from model_compression_toolkit.core.keras.reading import graph_of
from model_compression_toolkit.core.keras.surgery import (
    apply_plan,
    fold_live_batch_norm,
    names_of,
    plan_of,
    quantizer_in,
    quantizer_of,
    set_plan,
)
from model_compression_toolkit.ptq.keras.calibration import calibrate
from model_compression_toolkit.qat.common.freezing import check_in_training, frozen_plan
from model_compression_toolkit.qat.common.qat_config import (
    DEFAULT_METHOD,
    INTERFACE_METHOD,
    QATConfig,
    completed,
    with_methods,
)
from model_compression_toolkit.qat.keras.quantization_builder import SELECTION
from model_compression_toolkit.trainable_infrastructure.keras.quantize_wrapper import KerasTrainableQuantizationWrapper


@preserved_random_state()
def prepare_qat(
    model: keras.Model, data: Any, config: QuantizationConfig | None = None, qat_config: QATConfig | None = None
) -> keras.Model:
    """Make a model that trains with quantization in the loop. Compile and train it as any model, then `finalize` it.

    Args:
        model: the trained float model, built; it is not changed.
        data: representative inputs for calibration: a tensor, an array, an iterable of batches, or a function that
            returns one.
        config: what is quantized and how wide; 8 bits by default.
        qat_config: the training methods; LSQ for those that it leaves out.

    Returns:
        A model that is not compiled.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: unusable data, a model that is not built, is quantized already or has nothing to quantize.
    """
    methods = completed(qat_config, DEFAULT_METHOD)
    config = QuantizationConfig() if config is None else config
    if isinstance(config, QuantizationConfig):
        config = SELECTION.with_batch_norm(config, methods)
    captured, plan, sample, batches = capture_and_plan(model, data, config, train=True)
    plan = with_methods(calibrate(captured, plan, batches, num_batches(data)), methods)

    def quantizer(tensor: TensorPlan) -> Any:
        return SELECTION.quantizer_for(tensor, methods)

    return apply_plan(captured, plan, sample, KerasTrainableQuantizationWrapper, quantizer, quantizer)


@preserved_random_state()
def finalize(model: keras.Model) -> keras.Model:
    """Freeze a trained model: learned grids become inferable quantizers, live batch norms are folded.

    Args:
        model: a model that `prepare_qat` returned, trained, or one of its file; it is not changed.

    Returns:
        The quantized model. It computes what `model` computes in evaluation; folding changes no integer code.

    Raises:
        ValueError: the model is not in quantization-aware training, or finalized already.
    """
    plan, names = plan_of(model), names_of(model)
    check_in_training({tensor.name: quantizer_of(model, tensor) for tensor in plan.quantized()})
    if isinstance(model, LayerwiseModel):
        layerwise = frozen_layers(model)
        layerwise.trainable = False
        inferable = {tensor.name: quantizer_of_layer(layerwise, tensor) for tensor in plan.quantized()}
        return set_plan(layerwise, frozen_plan(plan, inferable), names)
    graph = graph_of(model)
    copies = built_copies(graph)
    for path, operation in copies.items():
        if isinstance(operation, (KerasQuantizationWrapper, KerasActivationQuantizationHolder)):
            # None where its quantizers are frozen already.
            copies[path] = operation.convert_to_inferable_quantizers() or operation
        elif isinstance(operation, LiveBatchNormalization) and not operation.folds:
            copies[path] = operation.plain()
    for norm in plan.live_batch_norms:
        layer, norm_layer = names[plan.batch_norms[norm]], names[norm]
        if isinstance(copies[layer], KerasQuantizationWrapper):
            copies[layer] = fold_live_batch_norm(copies[layer], copies[norm_layer])
        else:
            copies[layer] = with_bias(copies[layer])
            fold_batch_norm(copies[layer], copies[norm_layer])
        graph.bypass(norm_layer)
    forget_calls(copies.values())
    frozen = rebuild(graph, lambda call, args, kwargs: copies[call.path](*args, **kwargs))
    frozen.trainable = False
    inferable = {tensor.name: quantizer_in(copies[names[tensor.name]], tensor) for tensor in plan.quantized()}
    return set_plan(frozen, frozen_plan(plan, inferable), names)


def keras_quantization_aware_training_init_experimental(
    in_model: keras.Model,
    representative_data_gen: Callable[[], Any],
    target_resource_utilization: Any = None,
    core_config: CoreConfig | QuantizationConfig | None = None,
    qat_config: QATConfig | None = None,
    target_platform_capabilities: Any = None,
) -> tuple[keras.Model, UserInformation, dict[str, Any]]:
    """`prepare_qat` under the name and arguments of the interface.

    Args:
        in_model: the float model; it is not changed.
        representative_data_gen: function that returns an iterable of batches, each a list of inputs.
        target_resource_utilization: not supported yet; must be None.
        core_config: a `CoreConfig` of the interface, or a `QuantizationConfig`.
        qat_config: the training methods; STE for those that it leaves out.
        target_platform_capabilities: not supported yet; must be None.

    Returns:
        The model to train, information about it, and an empty dictionary: no custom objects are needed to load it.

    Raises:
        NotImplementedError: an argument that is not supported yet is given.
        TypeError: an argument of the wrong type.
        ValueError: unusable data or model.
    """
    refuse_unsupported(
        target_resource_utilization=target_resource_utilization,
        target_platform_capabilities=target_platform_capabilities,
    )
    methods = completed(qat_config, INTERFACE_METHOD)
    prepared = prepare_qat(in_model, representative_data_gen, read_core_config(core_config), methods)
    return prepared, UserInformation(plan_of(prepared)), {}


def keras_quantization_aware_training_finalize_experimental(in_model: keras.Model) -> keras.Model:
    """`finalize` under the name of the interface: a new model.

    Raises:
        ValueError: the model is not in quantization-aware training, or finalized already.
    """
    return finalize(in_model)

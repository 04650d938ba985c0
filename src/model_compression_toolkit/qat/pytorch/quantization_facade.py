# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training of PyTorch models: prepare, train with any loop, finalize."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.common.quantizer_dispatch import inferable_of
from mct_quantizers.pytorch.copying import copy_of
from model_compression_toolkit.core.common.batches import num_batches
from model_compression_toolkit.core.common.core_config import CoreConfig, read_core_config
from model_compression_toolkit.core.common.interface import UserInformation, refuse_unsupported
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import FrozenParams, QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.batch_norm import fold_batch_norm
from model_compression_toolkit.core.pytorch.flow import capture_and_plan
from model_compression_toolkit.core.pytorch.surgery import (
    apply_plan,
    bypass_layer,
    fold_live_batch_norm,
    leave_to_quantizers,
    plan_of,
    quantizer_of,
    replace_quantizer,
    set_plan,
    unwrap_batch_norms,
    wrapper_of,
)
from model_compression_toolkit.core.pytorch.tied_weights import keep_names_of_tied_weights, without_broken_ties
from model_compression_toolkit.core.pytorch.unwrapping import unwrapped
from model_compression_toolkit.ptq.pytorch.calibration import calibrate
from model_compression_toolkit.qat.common.freezing import check_in_training, frozen_plan, params_of
from model_compression_toolkit.qat.common.qat_config import (
    DEFAULT_METHOD,
    INTERFACE_METHOD,
    QATConfig,
    completed,
    with_methods,
)
from model_compression_toolkit.qat.pytorch.quantization_builder import SELECTION


def prepare_qat(
    model: nn.Module, data: Any, config: QuantizationConfig | None = None, qat_config: QATConfig | None = None
) -> nn.Module:
    """Make a model that trains with quantization in the loop. Train it with any loop, then `finalize` it.

    Args:
        model: the trained float model; it is not changed.
        data: representative inputs for calibration: a tensor, an array, an iterable of batches, or a function that
            returns one.
        config: what is quantized and how wide; 8 bits by default.
        qat_config: the training methods; LSQ for those that it leaves out.

    Returns:
        A model in training mode.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: unusable data, a model that is quantized already or has nothing to quantize.
    """
    methods = completed(qat_config, DEFAULT_METHOD)
    config = QuantizationConfig() if config is None else config
    if isinstance(config, QuantizationConfig):
        config = SELECTION.with_batch_norm(config, methods)
    captured, plan, batches = capture_and_plan(model, data, config, train=True)
    plan = with_methods(calibrate(captured, plan, batches, num_batches(data)), methods)

    def quantizer(tensor: TensorPlan) -> Any:
        return SELECTION.quantizer_for(tensor, methods)

    prepared = apply_plan(captured, plan, quantizer, quantizer)
    leave_to_quantizers(prepared)
    # A `train` of the user's own may return nothing.
    prepared.train()
    return prepared


def finalize(model: nn.Module) -> nn.Module:
    """Freeze a trained model: learned grids become inferable quantizers, live batch norms are folded.

    Args:
        model: a model that `prepare_qat` returned, trained, also inside of DistributedDataParallel, DataParallel,
            AveragedModel or `torch.compile`; it is not changed.

    Returns:
        The quantized model in evaluation mode. It computes what `model` computes in evaluation; folding changes no
        integer code.

    Raises:
        ValueError: the model is not in quantization-aware training, or finalized already.
    """
    return _finalize_in_place(copy_of(unwrapped(model)))


def pytorch_quantization_aware_training_init_experimental(
    in_model: nn.Module,
    representative_data_gen: Callable[[], Any],
    target_resource_utilization: Any = None,
    core_config: CoreConfig | QuantizationConfig | None = None,
    qat_config: QATConfig | None = None,
    target_platform_capabilities: Any = None,
) -> tuple[nn.Module, UserInformation]:
    """`prepare_qat` under the name and arguments of the interface.

    Args:
        in_model: the float model; it is not changed.
        representative_data_gen: function that returns an iterable of batches, each a list of inputs.
        target_resource_utilization: not supported yet; must be None.
        core_config: a `CoreConfig` of the interface, or a `QuantizationConfig`.
        qat_config: the training methods; STE for those that it leaves out.
        target_platform_capabilities: not supported yet; must be None.

    Returns:
        The model to train and information about it.

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
    return prepared, UserInformation(plan_of(prepared))


def pytorch_quantization_aware_training_finalize_experimental(in_model: nn.Module) -> nn.Module:
    """`finalize` under the name of the interface: changes and returns `in_model` itself.

    Raises:
        ValueError: the model is not in quantization-aware training, or finalized already.
    """
    return _finalize_in_place(unwrapped(in_model))


def _finalize_in_place(model: nn.Module) -> nn.Module:
    plan = plan_of(model)
    trained = {tensor.name: quantizer_of(model, tensor) for tensor in plan.quantized()}
    check_in_training(trained)
    inferable = {name: inferable_of(quantizer) for name, quantizer in trained.items()}
    frozen = {name: params_of(quantizer) for name, quantizer in inferable.items()}
    model.eval()
    for tensor in plan.quantized(QuantizationTarget.Weights):
        wrapper_of(model, tensor.site.layer).freeze_weight(tensor.site.tensor)
    for name, params in _fold_live(model, plan, frozen).items():
        device = next(inferable[name].buffers()).device
        inferable[name] = type(inferable[name]).from_params(params).to(device)
    unwrap_batch_norms(model)
    for tensor in plan.quantized():
        replace_quantizer(model, tensor, inferable[tensor.name])
    keep_names_of_tied_weights(model)
    set_plan(model, without_broken_ties(frozen_plan(plan, inferable), model))
    # Once more, for the new quantizers.
    model.eval()
    return model


def _fold_live(
    model: nn.Module, plan: QuantizationPlan, frozen: Mapping[str, FrozenParams | None]
) -> dict[str, FrozenParams]:
    folded: dict[str, FrozenParams] = {}
    for norm_name in plan.live_batch_norms:
        layer_name = plan.batch_norms[norm_name]
        weight_name = f"{layer_name}.weight"
        params = frozen.get(weight_name)
        if params is not None:
            folded[weight_name] = fold_live_batch_norm(model, norm_name, layer_name, params)
        else:
            fold_batch_norm(model.get_submodule(layer_name), model.get_submodule(norm_name))
        bypass_layer(model, norm_name)
    return folded

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training of PyTorch models: prepare, train with any loop, finalize."""

import copy
import dataclasses
from collections.abc import Callable
from itertools import chain
from typing import Any

from torch import nn

from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.core.common.interface import UserInformation, refuse_unsupported
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan, TensorPlan
from model_compression_toolkit.core.pytorch.batch_norm import fold_batch_norm
from model_compression_toolkit.core.pytorch.data import num_batches
from model_compression_toolkit.core.pytorch.flow import capture_and_plan
from model_compression_toolkit.core.pytorch.surgery import (
    apply_plan,
    bypass_layer,
    fold_live_batch_norm,
    plan_of,
    quantizer_of,
    replace_quantizer,
    set_plan,
    unwrap_batch_norms,
)
from model_compression_toolkit.ptq.pytorch.calibration import calibrate
from model_compression_toolkit.ptq.pytorch.quantization_facade import inferable_quantizer
from model_compression_toolkit.qat.common.qat_config import QATConfig
from model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizer import PytorchMethodQuantizer

MODERN_METHODS = QATConfig(weight_training_method="LSQ", activation_training_method="LSQ")


def prepare_qat(
    model: nn.Module, data: Any, config: QuantizationConfig | None = None, qat_config: QATConfig | None = None
) -> nn.Module:
    """Make a model that trains with quantization in the loop. Train it with any loop, then `finalize` it.

    Args:
        model: the trained float model; it is not changed.
        data: representative inputs for calibration: a tensor, an array, an iterable of batches, or a function that
            returns one.
        config: what is quantized and how wide; 8 bits by default.
        qat_config: the training methods; LSQ by default.

    Returns:
        A model in training mode.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: unusable data, a model that is quantized already or has nothing to quantize.
    """
    methods = qat_config or MODERN_METHODS
    if not isinstance(methods, QATConfig):
        raise TypeError(f"`qat_config` must be a QATConfig. Received: {type(methods).__name__}")
    captured, plan, batches = capture_and_plan(model, data, config or QuantizationConfig(), train=True)
    plan = calibrate(captured, plan, batches, num_batches(data))

    def quantizer(tensor: TensorPlan) -> PytorchMethodQuantizer:
        method = methods.weight_training_method if tensor.is_weight else methods.activation_training_method
        return _trainable_quantizer(tensor, method)

    return apply_plan(captured, plan, quantizer, quantizer).train()


def finalize(model: nn.Module) -> nn.Module:
    """Freeze a trained model: learned grids become inferable quantizers, live batch norms are folded.

    Args:
        model: a model that `prepare_qat` returned, trained; it is not changed.

    Returns:
        The quantized model in evaluation mode. It computes what `model` computes in evaluation; folding changes no
        integer code.

    Raises:
        ValueError: the model is not in quantization-aware training, or finalized already.
    """
    return _finalize_in_place(copy.deepcopy(model))


def pytorch_quantization_aware_training_init_experimental(
    in_model: nn.Module,
    representative_data_gen: Callable[[], Any],
    target_resource_utilization: Any = None,
    core_config: QuantizationConfig | None = None,
    qat_config: QATConfig | None = None,
    target_platform_capabilities: Any = None,
) -> tuple[nn.Module, UserInformation]:
    """`prepare_qat` under the name and arguments of the interface.

    Args:
        in_model: the float model; it is not changed.
        representative_data_gen: function that returns an iterable of batches, each a list of inputs.
        target_resource_utilization: not supported yet; must be None.
        core_config: a `QuantizationConfig`.
        qat_config: the training methods; STE by default.
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
    prepared = prepare_qat(in_model, representative_data_gen, core_config, qat_config or QATConfig())
    return prepared, UserInformation(plan_of(prepared))


def pytorch_quantization_aware_training_finalize_experimental(in_model: nn.Module) -> nn.Module:
    """`finalize` under the name of the interface: changes and returns `in_model` itself.

    Raises:
        ValueError: the model is not in quantization-aware training, or finalized already.
    """
    return _finalize_in_place(in_model)


def _trainable_quantizer(tensor: TensorPlan, method: str) -> PytorchMethodQuantizer:
    config, params = tensor.calibrated()
    shape = tensor.site.shape if tensor.is_weight else None
    return PytorchMethodQuantizer(method, tensor.site.target, config.method, params, shape)


def _finalize_in_place(model: nn.Module) -> nn.Module:
    plan = plan_of(model)
    trained = {tensor.name: quantizer_of(model, tensor) for tensor in plan.quantized()}
    if not any(callable(getattr(quantizer, "convert2inferable", None)) for quantizer in trained.values()):
        raise ValueError("`model` must be in quantization-aware training. Received: a model that is finalized already")
    frozen = {name: quantizer.params for name, quantizer in trained.items()}
    model.eval()
    frozen.update(_fold_live(model, plan, frozen))
    unwrap_batch_norms(model)
    plan = dataclasses.replace(plan.with_params(frozen), live_batch_norms=())
    for tensor in plan.quantized():
        device = next(chain(trained[tensor.name].parameters(), trained[tensor.name].buffers())).device
        replace_quantizer(model, tensor, inferable_quantizer(tensor).to(device))
    set_plan(model, plan)
    # Once more, for the new quantizers.
    return model.eval()


def _fold_live(model: nn.Module, plan: QuantizationPlan, frozen: dict[str, QuantParams]) -> dict[str, QuantParams]:
    folded = {}
    for norm_name in plan.live_batch_norms:
        layer_name = plan.batch_norms[norm_name]
        weight_name = f"{layer_name}.weight"
        if weight_name in frozen:
            folded[weight_name] = fold_live_batch_norm(model, norm_name, layer_name, frozen[weight_name])
        else:
            fold_batch_norm(model.get_submodule(layer_name), model.get_submodule(norm_name))
        bypass_layer(model, norm_name)
    return folded

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization of PyTorch models."""

from collections.abc import Callable
from typing import Any

from torch import nn

from mct_quantizers.common.registry import get_built_in_quantizer_class
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from model_compression_toolkit.core.common.batches import num_batches
from model_compression_toolkit.core.common.core_config import CoreConfig
from model_compression_toolkit.core.common.interface import UserInformation, refuse_unsupported, with_information
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import TensorPlan, inferable_method
from model_compression_toolkit.core.pytorch.flow import capture_and_plan
from model_compression_toolkit.core.pytorch.surgery import apply_plan, plan_of
from model_compression_toolkit.ptq.pytorch.calibration import calibrate


def quantize(model: nn.Module, data: Any, config: QuantizationConfig | None = None) -> nn.Module:
    """Quantize a trained model without training it further.

    Args:
        model: the float model; it is not changed.
        data: representative inputs: a tensor, an array, an iterable of batches, or a function that returns one.
        config: what to do; 8-bit weights and activations by default.

    Returns:
        The quantized model in evaluation mode; `plan_of` tells what was quantized.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: unusable data, a model that is quantized already or has nothing to quantize.
    """
    config = QuantizationConfig() if config is None else config
    captured, plan, batches = capture_and_plan(model, data, config, train=False)
    plan = calibrate(captured, plan, batches, num_batches(data))
    quantized = apply_plan(captured, plan, inferable_quantizer, inferable_quantizer)
    # An `eval` of the user's own may return nothing.
    quantized.eval()
    return quantized


def inferable_quantizer(tensor: TensorPlan) -> Any:
    """The inferable quantizer of a tensor that is calibrated, or trained and frozen.

    Raises:
        ValueError: the plan has no parameters for it.
    """
    if tensor.config is None or tensor.params is None:
        raise ValueError(f"{tensor.name} has no parameters: it is not quantized, or by a quantizer of its own.")
    method = inferable_method(tensor.params, tensor.config.method, tensor.site.target)
    cls = get_built_in_quantizer_class(tensor.site.target, method, BasePyTorchInferableQuantizer)
    return cls.from_params(tensor.params)


def pytorch_post_training_quantization(
    in_module: nn.Module,
    representative_data_gen: Callable[[], Any],
    target_resource_utilization: Any = None,
    core_config: CoreConfig | QuantizationConfig | None = None,
    target_platform_capabilities: Any = None,
) -> tuple[nn.Module, UserInformation | None]:
    """Post-training quantization under the name and arguments of the interface; see `quantize`.

    Args:
        in_module: the float model; it is not changed.
        representative_data_gen: function that returns an iterable of batches, each a list of inputs.
        target_resource_utilization: not supported yet; must be None.
        core_config: a `CoreConfig` of the interface, or a `QuantizationConfig`.
        target_platform_capabilities: not supported yet; must be None.

    Returns:
        The quantized model and information about it; with `bypass` the model itself and None.

    Raises:
        NotImplementedError: an argument that is not supported yet is given.
        TypeError: an argument of the wrong type.
        ValueError: unusable data or model.
    """
    refuse_unsupported(
        target_resource_utilization=target_resource_utilization,
        target_platform_capabilities=target_platform_capabilities,
    )
    return with_information(
        in_module, core_config, lambda config: quantize(in_module, representative_data_gen, config), plan_of
    )

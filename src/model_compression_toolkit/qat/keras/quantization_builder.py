# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which quantizer trains a tensor of a Keras model; the dictionaries may be changed."""

from typing import Any

from mct_quantizers.common.quant_info import QuantizationTarget
from mct_quantizers.keras.activation_quantization_holder import KerasActivationQuantizationHolder
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.qat.common.qat_config import QATConfig
from model_compression_toolkit.qat.common.quantizer_selection import ClassTable, QuantizerSelection, class_table
from model_compression_toolkit.trainable_infrastructure.keras.base_keras_quantizer import BaseKerasTrainableQuantizer
from model_compression_toolkit.trainable_infrastructure.keras.method_quantizers import CLASSES

__all__ = [
    "METHOD2ACTQUANTIZER",
    "METHOD2WEIGHTQUANTIZER",
    "SELECTION",
    "get_activation_quantizer_holder",
    "quantization_builder",
]

METHOD2WEIGHTQUANTIZER: ClassTable = class_table(CLASSES, QuantizationTarget.Weights)
"""Weight quantizer class of each training method and grid: what is put in here is used."""
METHOD2ACTQUANTIZER: ClassTable = class_table(CLASSES, QuantizationTarget.Activation)
"""Activation quantizer class of each training method and grid: what is put in here is used."""

SELECTION = QuantizerSelection(
    {QuantizationTarget.Weights: METHOD2WEIGHTQUANTIZER, QuantizationTarget.Activation: METHOD2ACTQUANTIZER},
    CLASSES,
    BaseKerasTrainableQuantizer,
)


def quantization_builder(
    n: TensorPlan, qat_config: QATConfig, kernel_attr: str | None = None
) -> tuple[dict[str, Any], list[Any]]:
    """The quantizers that train a calibrated tensor.

    Args:
        n: its plan.
        qat_config: the training methods.
        kernel_attr: name of the weight, to check it.

    Returns:
        For a weight its quantizer by its name, and no activation quantizers; for an activation the reverse.

    Raises:
        ValueError: not calibrated, another weight than `kernel_attr`, or no quantizer class for it.
    """
    if kernel_attr not in (None, n.site.tensor):
        raise ValueError(f"`kernel_attr` must be {n.site.tensor!r}, the tensor of `n`. Received: {kernel_attr!r}")
    quantizer = SELECTION.quantizer_for(n, qat_config)
    return ({n.site.tensor: quantizer}, []) if n.is_weight else ({}, [quantizer])


def get_activation_quantizer_holder(
    n: TensorPlan, qat_config: QATConfig, holder_type: type = KerasActivationQuantizationHolder
) -> Any:
    """A holder with the quantizer that trains a calibrated activation.

    Args:
        n: its plan.
        qat_config: the training methods.
        holder_type: class of the holder.

    Raises:
        ValueError: `n` is not calibrated, or a weight.
    """
    _, quantizers = quantization_builder(n, qat_config)
    if len(quantizers) != 1:
        raise ValueError(f"`n` must be the plan of an activation. Received: {n.name}")
    return holder_type(quantizers[0])

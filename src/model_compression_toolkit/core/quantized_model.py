# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of quantized models of any framework."""

from collections.abc import Iterable
from typing import Any

from model_compression_toolkit.core.common.framework import wing_module
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan


def plan_of(model: Any) -> QuantizationPlan:
    """The plan of a quantized model: what is quantized and how, and what is not, and why.

    Args:
        model: a `torch.nn.Module` or `keras.Model` that `quantize`, `prepare_qat` or `finalize` returned.

    Raises:
        TypeError: no model.
        ValueError: the model is not quantized.
    """
    plan: QuantizationPlan = wing_module(model, "model_compression_toolkit.core.{}.surgery").plan_of(model)
    return plan


def freeze_batch_norm_statistics(model: Any) -> None:
    """From now on, training uses and keeps the running statistics of every batch norm; factors still train.

    Freezing towards the end of training lets the weights settle on the statistics that will be folded
    (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2). A Keras model that is compiled must be compiled again, with
    its optimizer: `model.compile(model.optimizer, ...)`.

    Args:
        model: a model that `prepare_qat` returned.

    Raises:
        TypeError: no model.
    """
    wing_module(model, "model_compression_toolkit.core.{}.batch_norm").freeze_batch_norm_statistics(model)


def reestimate_batch_norm_statistics(model: Any, batches: Iterable[Any]) -> None:
    """Replace the running statistics of every batch norm by the averages over `batches`.

    Args:
        model: a model in quantization-aware training; nothing else of it changes.
        batches: inputs of the model: tensors, or tuples of arguments; for Keras also arrays and dictionaries by the
            names of the inputs.

    Raises:
        TypeError: no model.
        ValueError: `batches` is empty.
    """
    wing = wing_module(model, "model_compression_toolkit.core.{}.batch_norm_statistics")
    wing.reestimate_batch_norm_statistics(model, batches)

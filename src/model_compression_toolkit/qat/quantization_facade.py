# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Quantization-aware training of models of any framework: prepare, train, finalize."""

from typing import Any

from model_compression_toolkit.core.common.framework import wing_module
from model_compression_toolkit.core.common.quantization_config import QuantizationConfig
from model_compression_toolkit.qat.common.qat_config import QATConfig

_WING = "model_compression_toolkit.qat.{}.quantization_facade"


def prepare_qat(
    model: Any, data: Any, config: QuantizationConfig | None = None, qat_config: QATConfig | None = None
) -> Any:
    """Make a model that trains with quantization in the loop. Train it as any model, then `finalize` it.

    Args:
        model: the trained float model, a `torch.nn.Module` or a `keras.Model`; it is not changed.
        data: representative inputs for calibration: a tensor, an array, an iterable of batches, or a function that
            returns one.
        config: what is quantized and how wide; 8 bits by default.
        qat_config: the training methods; LSQ for those that it leaves out.

    Returns:
        A model of the same framework: of PyTorch in training mode, of Keras to be compiled.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: unusable data, a model that is quantized already or has nothing to quantize, a Keras model that is
            not built.
    """
    return wing_module(model, _WING).prepare_qat(model, data, config, qat_config)


def finalize(model: Any) -> Any:
    """Freeze a trained model: learned grids become inferable quantizers, live batch norms are folded.

    Args:
        model: a model that `prepare_qat` returned, trained; it is not changed.

    Returns:
        The quantized model for inference. It computes what `model` computes in evaluation; folding changes no integer
        code.

    Raises:
        TypeError: no model.
        ValueError: the model is not in quantization-aware training, or finalized already.
    """
    return wing_module(model, _WING).finalize(model)

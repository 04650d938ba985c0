# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Loads Keras models with quantizers in training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from mct_quantizers.common.registry import latest_subclasses
from mct_quantizers.keras import load_model
from model_compression_toolkit.core.keras.batch_norm import LiveBatchNormalization
from model_compression_toolkit.trainable_infrastructure.keras import method_quantizers
from model_compression_toolkit.trainable_infrastructure.keras.base_keras_quantizer import BaseKerasTrainableQuantizer
from model_compression_toolkit.trainable_infrastructure.keras.quantize_wrapper import KerasTrainableQuantizationWrapper

__all__ = ["keras_load_quantized_model"]


def keras_load_quantized_model(
    filepath: str | Path, custom_objects: Mapping[str, Any] | None = None, compile: bool = True, options: Any = None
) -> keras.Model:
    """`mct_quantizers.keras_load_quantized_model` for models in training too.

    Args:
        filepath: the file, ending with .keras.
        custom_objects: other classes and functions by name.
        compile: whether to compile the model as it was when saved.
        options: not used by Keras 3; must be None.

    Returns:
        The model; training goes on where it was.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, a damaged one, one that holds code (a Lambda layer), or one with a class that
            nobody has imported.
    """
    # Those of methods that were registered since are made now.
    method_quantizers.CLASSES.make_all()
    classes = [
        *latest_subclasses(BaseKerasTrainableQuantizer),
        KerasTrainableQuantizationWrapper,
        LiveBatchNormalization,
    ]
    objects = {**{cls.__name__: cls for cls in classes}, **(custom_objects or {})}
    return load_model.keras_load_quantized_model(filepath, objects, compile=compile, options=options)

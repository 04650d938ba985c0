# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`keras_export_model`: export of Keras models under the name and arguments of the interface."""

from pathlib import Path
from typing import Any

import keras

from model_compression_toolkit.core.common.interface import refuse_unsupported
from model_compression_toolkit.exporter.common.format import ExportFormat
from model_compression_toolkit.exporter.common.serialization import (
    KerasExportSerializationFormat,
    QuantizationFormat,
    check_combination,
    check_suffix,
)
from model_compression_toolkit.exporter.keras.export_facade import export

__all__ = ["keras_export_model"]

_KERAS, _TFLITE = KerasExportSerializationFormat.KERAS, KerasExportSerializationFormat.TFLITE
_ALLOWED = {_KERAS: (QuantizationFormat.MCTQ,), _TFLITE: (QuantizationFormat.INT8,)}


def keras_export_model(
    model: keras.Model,
    save_model_path: str | Path,
    is_layer_exportable_fn: Any = None,
    serialization_format: KerasExportSerializationFormat = KerasExportSerializationFormat.KERAS,
    quantization_format: QuantizationFormat = QuantizationFormat.MCTQ,
) -> dict[str, Any]:
    """Write a frozen Keras model to a file, under the name and arguments of the interface.

    | serialization | quantization | what is written |
    |---|---|---|
    | `KERAS` | `MCTQ` | the model itself; `mct.keras_load_quantized_model` reads it |
    | `TFLITE` | `INT8` | LiteRT with 8-bit integers, as `mct.export` writes it; on the TensorFlow backend |

    Args:
        model: a model that `quantize`, `finalize` or a facade of the interface returned; it is not changed.
        save_model_path: where to write: .keras or .tflite.
        is_layer_exportable_fn: must be None: every layer is exportable.
        serialization_format: .keras or .tflite.
        quantization_format: how quantization stands in the file.

    Returns:
        An empty dictionary: no custom objects are needed to load the file.

    Raises:
        NotImplementedError: an argument that is not supported.
        TypeError: an argument of the wrong type.
        ValueError: a combination of formats that is not written; a model that is not frozen or cannot be exported.
        OSError: the file cannot be written; what was there before stays.

    Example:
        >>> import keras, numpy as np, model_compression_toolkit as mct
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> quantized = mct.quantize(model, np.random.rand(32, 4))
        >>> mct.exporter.keras_export_model(quantized, "model.keras")  # doctest: +SKIP
        {}
    """
    refuse_unsupported(is_layer_exportable_fn=is_layer_exportable_fn)
    check_combination(serialization_format, quantization_format, _ALLOWED)
    file_format = ExportFormat.KERAS if serialization_format is _KERAS else ExportFormat.LITERT
    export(model, check_suffix(save_model_path, file_format), quiet=True)
    return {}

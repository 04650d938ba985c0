# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Files that run what was trained, and the proof that they do."""

from typing import TYPE_CHECKING

from mct_quantizers import _lazy

if TYPE_CHECKING:
    from model_compression_toolkit.exporter.common.export_report import ExportReport, ParityError
    from model_compression_toolkit.exporter.common.format import ExportFormat
    from model_compression_toolkit.exporter.common.parity import ParityReport
    from model_compression_toolkit.exporter.common.serialization import (
        KerasExportSerializationFormat,
        PytorchExportSerializationFormat,
        QuantizationFormat,
    )
    from model_compression_toolkit.exporter.export_facade import export, load
    from model_compression_toolkit.exporter.keras.export_model import keras_export_model
    from model_compression_toolkit.exporter.plan_file import read_plan
    from model_compression_toolkit.exporter.pytorch.export_model import pytorch_export_model
    from model_compression_toolkit.exporter.pytorch.frozen_model import save_frozen

__all__ = [
    "ExportFormat",
    "ExportReport",
    "KerasExportSerializationFormat",
    "ParityError",
    "ParityReport",
    "PytorchExportSerializationFormat",
    "QuantizationFormat",
    "export",
    "keras_export_model",
    "load",
    "pytorch_export_model",
    "read_plan",
    "save_frozen",
]

_HERE = "model_compression_toolkit.exporter"
_LAZY = {
    "ExportFormat": f"{_HERE}.common.format",
    "ExportReport": f"{_HERE}.common.export_report",
    "ParityError": f"{_HERE}.common.export_report",
    "ParityReport": f"{_HERE}.common.parity",
    **dict.fromkeys(
        ("KerasExportSerializationFormat", "PytorchExportSerializationFormat", "QuantizationFormat"),
        f"{_HERE}.common.serialization",
    ),
    "keras_export_model": f"{_HERE}.keras.export_model",
    "pytorch_export_model": f"{_HERE}.pytorch.export_model",
    "export": f"{_HERE}.export_facade",
    "load": f"{_HERE}.export_facade",
    "read_plan": f"{_HERE}.plan_file",
    "save_frozen": f"{_HERE}.pytorch.frozen_model",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

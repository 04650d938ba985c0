# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Make quantized models: calibrate, train with quantization in the loop, export what was trained."""

from typing import TYPE_CHECKING

from mct_quantizers import _lazy
from mct_quantizers._version import __version__
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import Granularity, QuantParams
from model_compression_toolkit import _paths
from model_compression_toolkit.core.common.quantization_config import (
    BatchNorm,
    CaptureMode,
    QuantizationConfig,
    RangeSearch,
    Rule,
    TensorConfig,
)
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan
from model_compression_toolkit.qat.common.fine_tuning import FineTuning
from model_compression_toolkit.qat.common.qat_config import QATConfig, TrainingMethod
from model_compression_toolkit.trainable_infrastructure.conformance import ConformanceReport, check_quantizer

if TYPE_CHECKING:
    from model_compression_toolkit import (
        core,
        exporter,
        gptq,
        logger,
        ptq,
        qat,
        target_platform_capabilities,
        trainable_infrastructure,
    )
    from model_compression_toolkit.core.quantized_model import (
        freeze_batch_norm_statistics,
        plan_of,
        reestimate_batch_norm_statistics,
    )
    from model_compression_toolkit.exporter import ParityError, export, load, read_plan
    from model_compression_toolkit.logger import set_log_folder
    from model_compression_toolkit.ptq.keras.quantization_facade import keras_post_training_quantization
    from model_compression_toolkit.ptq.pytorch.quantization_facade import pytorch_post_training_quantization
    from model_compression_toolkit.ptq.quantization_facade import quantize
    from model_compression_toolkit.qat.fine_tuning import fine_tune
    from model_compression_toolkit.qat.quantization_facade import finalize, prepare_qat
    from model_compression_toolkit.target_platform_capabilities import (
        get_target_platform_capabilities,
        get_target_platform_capabilities_sdsp,
    )
    from model_compression_toolkit.trainable_infrastructure.keras.load_model import keras_load_quantized_model
    from model_compression_toolkit.trainable_infrastructure.pytorch.regularization import regularization_loss

__all__ = [
    "BatchNorm",
    "CaptureMode",
    "ConformanceReport",
    "FineTuning",
    "Granularity",
    "ParityError",
    "QATConfig",
    "QuantParams",
    "QuantizationConfig",
    "QuantizationMethod",
    "QuantizationPlan",
    "RangeSearch",
    "Rule",
    "TensorConfig",
    "TrainingMethod",
    "__version__",
    "check_quantizer",
    "core",
    "export",
    "exporter",
    "finalize",
    "fine_tune",
    "freeze_batch_norm_statistics",
    "get_target_platform_capabilities",
    "get_target_platform_capabilities_sdsp",
    "gptq",
    "keras_load_quantized_model",
    "keras_post_training_quantization",
    "load",
    "logger",
    "plan_of",
    "prepare_qat",
    "ptq",
    "pytorch_post_training_quantization",
    "qat",
    "quantize",
    "read_plan",
    "reestimate_batch_norm_statistics",
    "regularization_loss",
    "set_log_folder",
    "target_platform_capabilities",
    "trainable_infrastructure",
]

_PARTS = (
    "core",
    "exporter",
    "gptq",
    "logger",
    "ptq",
    "qat",
    "target_platform_capabilities",
    "trainable_infrastructure",
)
_LAZY = {
    **{part: f"model_compression_toolkit.{part}:" for part in _PARTS},
    "get_target_platform_capabilities": "model_compression_toolkit.target_platform_capabilities",
    "get_target_platform_capabilities_sdsp": "model_compression_toolkit.target_platform_capabilities",
    "set_log_folder": "model_compression_toolkit.logger",
    "keras_load_quantized_model": "model_compression_toolkit.trainable_infrastructure.keras.load_model",
    "regularization_loss": "model_compression_toolkit.trainable_infrastructure.pytorch.regularization",
    "ParityError": "model_compression_toolkit.exporter.common.export_report",
    "export": "model_compression_toolkit.exporter.export_facade",
    "load": "model_compression_toolkit.exporter.export_facade",
    "read_plan": "model_compression_toolkit.exporter.plan_file",
    "fine_tune": "model_compression_toolkit.qat.fine_tuning",
    "finalize": "model_compression_toolkit.qat.quantization_facade",
    "freeze_batch_norm_statistics": "model_compression_toolkit.core.quantized_model",
    "keras_post_training_quantization": "model_compression_toolkit.ptq.keras.quantization_facade",
    "plan_of": "model_compression_toolkit.core.quantized_model",
    "prepare_qat": "model_compression_toolkit.qat.quantization_facade",
    "pytorch_post_training_quantization": "model_compression_toolkit.ptq.pytorch.quantization_facade",
    "quantize": "model_compression_toolkit.ptq.quantization_facade",
    "reestimate_batch_norm_statistics": "model_compression_toolkit.core.quantized_model",
}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)
_paths.install()

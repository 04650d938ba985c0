# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`check_quantizer`: does a quantizer class keep what wrappers, holders, training and export rely on?"""

import importlib
import sys
from typing import Any

from model_compression_toolkit.trainable_infrastructure.common.conformance.report import (
    CheckResult,
    CheckStatus,
    ConformanceReport,
)
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)

__all__ = ["CheckResult", "CheckStatus", "ConformanceReport", "check_quantizer"]

_ROOM = "model_compression_toolkit.trainable_infrastructure"
_BASES = {
    "pytorch": (
        (f"{_ROOM}.pytorch.base_pytorch_quantizer", "BasePytorchTrainableQuantizer"),
        ("mct_quantizers.pytorch.quantizers.base", "BasePyTorchInferableQuantizer"),
    ),
    "keras": (
        (f"{_ROOM}.keras.base_keras_quantizer", "BaseKerasTrainableQuantizer"),
        ("mct_quantizers.keras.quantizers.base", "BaseKerasInferableQuantizer"),
    ),
}


def check_quantizer(
    cls: type,
    quantization_config: TrainableQuantizerWeightsConfig | TrainableQuantizerActivationConfig | None = None,
    *,
    raise_on_failure: bool = False,
    **constructor_arguments: Any,
) -> ConformanceReport:
    """Check a quantizer class, trainable or inferable, PyTorch or Keras, on the CPU, in seconds.

    Without a configuration some are made from the marks of the class: each grid with 4, 8 and 2 bits, weights per
    tensor and per channel. Of an inferable quantizer the constructor arguments that are not given are made from their
    names (`num_bits`, `threshold`, `min_range`, `max_range`, `per_channel`, `channel_axis`, `signed`, `lut_values`).

    Example:
        >>> from mct_quantizers import pytorch_quantizers
        >>> report = check_quantizer(pytorch_quantizers.WeightsSymmetricInferableQuantizer)
        >>> report.ok
        True

    Args:
        cls: the class, a subclass of one of the bases of trainable or inferable quantizers.
        quantization_config: what a trainable quantizer is constructed with.
        raise_on_failure: whether to raise when a check fails.
        **constructor_arguments: further constructor arguments.

    Returns:
        The report; `print` shows what was expected and what came.

    Raises:
        TypeError: `cls` is no quantizer class, `quantization_config` no configuration, or a constructor argument is
            missing whose meaning is not known.
        ValueError: with `raise_on_failure`, a check failed; the text is the report.
    """
    wing = _wing_of(cls)
    module = importlib.import_module(f"{_ROOM}.{wing}.conformance")
    report: ConformanceReport = module.check_class(cls, quantization_config, constructor_arguments)
    if raise_on_failure and not report.ok:
        raise ValueError(str(report))
    return report


def _wing_of(cls: Any) -> str:
    if isinstance(cls, type):
        for wing, bases in _BASES.items():
            for module, name in bases:
                # The base of a class that exists is imported; of another framework nothing need be.
                if module in sys.modules and issubclass(cls, getattr(sys.modules[module], name)):
                    return wing
    raise TypeError(
        f"`cls` must be a subclass of one of {[name for bases in _BASES.values() for _, name in bases]}. "
        f"Received: {cls!r}"
    )

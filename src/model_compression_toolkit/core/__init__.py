# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Plans, capture, and the configuration classes of the interface's `mct.core`.

`QuantizationConfig` here is the interface's, for a `CoreConfig`. The modern one is `mct.QuantizationConfig`.
"""

from mct_quantizers import _lazy

__all__ = [
    "BitWidthConfig",
    "CoreConfig",
    "DebugConfig",
    "MixedPrecisionQuantizationConfig",
    "QuantizationConfig",
    "QuantizationErrorMethod",
]

_LAZY = dict.fromkeys(__all__, "model_compression_toolkit.core.common.core_config")

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

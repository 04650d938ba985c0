# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The PyTorch wing: binds the common code to torch tensors and modules."""

from mct_quantizers import _lazy

__all__ = ["activation_quantization_holder", "metadata", "quantize_wrapper", "quantizers"]

_LAZY = {name: f"{__name__}.{name}:" for name in __all__}

__getattr__, __dir__ = _lazy.attach(__name__, _LAZY, __all__)

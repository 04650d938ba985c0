# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The Keras 3 wing: binds the common code to tensors and layers of the TensorFlow, JAX and torch backends.

Importing it registers every class with Keras: after `import mct_quantizers.keras`, `keras.saving.load_model` reads
files that hold them.
"""

from mct_quantizers.keras import activation_quantization_holder, metadata, quantize_wrapper, quantizers

__all__ = ["activation_quantization_holder", "metadata", "quantize_wrapper", "quantizers"]

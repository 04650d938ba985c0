# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The Keras 3 wing: binds the common code to tensors and layers of the TensorFlow, JAX and torch backends."""

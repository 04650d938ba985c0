# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The name under which the toolkit's classes are registered with Keras."""

PACKAGE = "model_compression_toolkit"

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Fake quantization on the CPU in native code, compiled where a compiler is at hand."""

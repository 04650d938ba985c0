# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The PyTorch wing: binds the common code to torch tensors and modules."""

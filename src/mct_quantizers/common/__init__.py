# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What both frameworks share: parameters, checks, formulas, quantizer bodies. NumPy only."""

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of what runs a model: the names of the interface. Not supported yet."""

from model_compression_toolkit.core.common.interface import not_supported_yet

__all__ = [
    "get_target_platform_capabilities",
    "get_target_platform_capabilities_sdsp",
]

_INSTEAD = "`mct.QuantizationConfig`, and leave `target_platform_capabilities` out"

get_target_platform_capabilities = not_supported_yet("get_target_platform_capabilities", _INSTEAD)
get_target_platform_capabilities_sdsp = not_supported_yet("get_target_platform_capabilities_sdsp", _INSTEAD)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of what runs a model: the names of the interface. Not supported yet."""

from typing import Any, NoReturn

from model_compression_toolkit.core.common.interface import not_supported_yet

__all__ = [
    "get_target_platform_capabilities",
    "get_target_platform_capabilities_sdsp",
]

_INSTEAD = "`mct.QuantizationConfig`, and leave `target_platform_capabilities` out"


def get_target_platform_capabilities(*args: Any, **kwargs: Any) -> NoReturn:
    """Not supported yet; the error says what to use instead.

    Raises:
        NotImplementedError: always.
    """
    del args, kwargs
    not_supported_yet("get_target_platform_capabilities", _INSTEAD)


def get_target_platform_capabilities_sdsp(*args: Any, **kwargs: Any) -> NoReturn:
    """Not supported yet; the error says what to use instead.

    Raises:
        NotImplementedError: always.
    """
    del args, kwargs
    not_supported_yet("get_target_platform_capabilities_sdsp", _INSTEAD)

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments and result of each entry of the native library. Needs no torch."""

import ctypes

__all__ = ["SIGNATURES"]

_POINTER, _SIZE, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIZES = [_SIZE] * 3
_SETTINGS = [_FLOAT] * 3 + [_INT]
SIGNATURES = {
    "forward": ([_POINTER] * 4 + _SIZES + _SETTINGS, None),
    "backward": ([_POINTER] * 6 + [_FLOAT] + _SIZES + _SETTINGS, None),
    "batch_statistics": ([_POINTER] * 4 + [_FLOAT] + _SIZES + [_INT], None),
    "normalized_forward": ([_POINTER] * 9 + [_SIZE] + _SIZES + _SETTINGS, None),
    "normalized_backward": ([_POINTER] * 11 + [_SIZE] + [_POINTER] * 3 + [_FLOAT] + _SIZES + _SETTINGS, None),
    "extremes": ([_POINTER, _SIZE, _POINTER, _INT], None),
    "histogram": ([_POINTER, _SIZE, _FLOAT, _FLOAT, _SIZE, _POINTER, _INT], None),
}

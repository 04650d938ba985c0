# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Integers of 1 to 16 bits to bytes and back: what a low-bit weight takes on disk."""

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.quant_params import integer_range
from mct_quantizers.common.validation import checked_num_bits


def packed_size(num_elements: int, num_bits: int) -> int:
    """Bytes that `num_elements` integers of `num_bits` take."""
    return (num_elements * num_bits + 7) // 8


def pack_integers(values: npt.ArrayLike, num_bits: int) -> npt.NDArray[np.uint8]:
    """Integers, low bits first, without gaps; 4 bits: low nibble first, as ONNX stores INT4.

    Args:
        values: integers of any shape that fit in `num_bits`, all signed or all unsigned.
        num_bits: 1 to 16.

    Returns:
        Bytes, uint8, shape (ceil(size · num_bits / 8),).

    Raises:
        TypeError: `values` are not integers.
        ValueError: a value does not fit.
    """
    num_bits = checked_num_bits(num_bits)
    flat = np.asarray(values).reshape(-1)
    if not np.issubdtype(flat.dtype, np.integer):
        raise TypeError(f"`values` must be integers. Received: dtype {flat.dtype}")
    low, high = integer_range(num_bits, signed=bool(flat.size and flat.min() < 0))
    if flat.size and (flat.min() < low or flat.max() > high):
        raise ValueError(
            f"`values` must be from {low} to {high} for {num_bits} bits. Received: {flat.min()} to {flat.max()}"
        )
    bits = (flat[:, np.newaxis].astype(np.int32) >> np.arange(num_bits)) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def unpack_integers(
    packed: npt.NDArray[np.uint8], num_bits: int, num_elements: int, signed: bool
) -> npt.NDArray[np.int32]:
    """The integers that `pack_integers` wrote: int32, shape (num_elements,).

    Raises:
        ValueError: `packed` has not the length that `num_elements` needs.
    """
    num_bits = checked_num_bits(num_bits)
    expected = packed_size(num_elements, num_bits)
    if packed.dtype != np.uint8 or packed.size != expected:
        raise ValueError(
            f"`packed` must hold {expected} bytes for {num_elements} integers of {num_bits} bits. "
            f"Received: {packed.size} elements of {packed.dtype}"
        )
    bits = np.unpackbits(packed, count=num_elements * num_bits, bitorder="little").reshape(num_elements, num_bits)
    weights = 1 << np.arange(num_bits)
    if signed:
        weights[-1] = -weights[-1]
    return (bits @ weights).astype(np.int32)

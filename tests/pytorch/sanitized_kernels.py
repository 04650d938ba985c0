# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A program that calls every native entry of a library built with sanitizers; its argument is the library.

Each array is an allocation of its own and exactly as large as the entry may touch. Sizes are around the lengths of
vectors and blocks. No torch: the sanitizers' own allocator has to come first in the process.
"""

import ctypes
import itertools
import sys

import numpy as np

from mct_quantizers.pytorch.native.signatures import SIGNATURES

LIBRARY = ctypes.CDLL(sys.argv[1])
for name, (arguments, result) in SIGNATURES.items():
    getattr(LIBRARY, name).argtypes, getattr(LIBRARY, name).restype = arguments, result

LENGTHS = (1, 3, 4, 7, 8, 15, 16, 17, 33, 2047, 2048, 2049, 40_000)
SIZES = [(1, 1, length) for length in LENGTHS]
SIZES += [(outer, channels, inner) for outer, channels, inner in itertools.product((1, 3, 40), (1, 5, 17), (1, 6, 35))]
SETTINGS = (-8.0, 7.0, 6.0, 2)


def floats(count, rng):
    return rng.normal(scale=3.0, size=count).astype(np.float32)


def at(array):
    return None if array is None else array.ctypes.data


def check_quantizers(sizes, rng):
    count, channels = int(np.prod(sizes)), sizes[1]
    x, y, dx, dy = (floats(count, rng) for _ in range(4))
    scale, dscale = np.abs(floats(channels, rng)) + 0.1, floats(channels, rng)
    for zero_point in (None, np.full(channels, 3.0, np.float32)):
        grid = at(scale), at(zero_point)
        LIBRARY.forward(at(x), at(y), *grid, *sizes, -8.0, 7.0, -1.0, 2)
        point = 0 if zero_point is None else np.float32(3.0)
        shaped = scale.reshape(1, -1, 1)
        expected = (np.clip(np.round(x.reshape(sizes) / shaped) + point, -8, 7) - point) * shaped
        assert np.array_equal(y, expected.ravel().astype(np.float32)), sizes
        LIBRARY.backward(at(x), at(dy), at(dx), at(scale), at(zero_point), at(dscale), 0.5, *sizes, *SETTINGS)


def check_batch_norm(sizes, rng):
    count, channels = int(np.prod(sizes)), sizes[1]
    if count // channels < 2:
        return
    x, residual, y, dx, dz, dy = (floats(count, rng) for _ in range(6))
    mean, variance, inverse, weight, bias, scale, point, dweight, dbias, dscale = (
        np.abs(floats(channels, rng)) + 0.1 for _ in range(10)
    )
    LIBRARY.batch_statistics(at(x), at(mean), at(variance), at(inverse), 1e-5, *sizes, 2)
    expected = x.reshape(sizes).astype(np.float64).mean((0, 2))
    assert np.allclose(mean, expected, rtol=1e-5, atol=1e-5), sizes
    for step, other, factor in itertools.product((0, 1), (None, residual), (None, weight)):
        shift, zero = (None if factor is None else bias), (None if other is None else point)
        inputs = at(mean), at(inverse), at(factor), at(shift), at(scale), at(zero), step
        LIBRARY.normalized_forward(at(x), at(other), at(y), *inputs, *sizes, *SETTINGS)
        LIBRARY.normalized_backward(
            at(x), at(other), at(dy), at(dx), at(dz), *inputs, at(dweight), at(dbias), at(dscale), 0.5, *sizes,
            *SETTINGS,
        )  # fmt: skip


def check_statistics(count, rng):
    x, ends, counts = floats(count, rng), np.empty(2, np.float32), np.zeros(64)
    LIBRARY.extremes(at(x), count, at(ends), 2)
    assert ends.tolist() == [x.min(), x.max()]
    special = x.copy()
    special[:4] = [np.nan, np.inf, -np.inf, 0.0][: len(special[:4])]
    for values in (x, special):
        counts[:] = 0
        LIBRARY.histogram(at(values), count, -2.0, 5.0, 64, at(counts), 2)
        assert counts.sum() == count


for shape in SIZES:
    check_quantizers(shape, np.random.default_rng(0))
    check_batch_norm(shape, np.random.default_rng(1))
for length in LENGTHS:
    check_statistics(length, np.random.default_rng(2))
print("every entry was called")

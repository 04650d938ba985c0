# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Histograms in native code count what torch and NumPy count."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st

from mct_quantizers.pytorch.native import histogram as module
from mct_quantizers.pytorch.native.histogram import extremes, histogram
from mct_quantizers.pytorch.native.library import native_library

needs_compiler = pytest.mark.skipif(native_library() is None, reason="there is no C++ compiler")
BINS = 4096


def values(seed, size, exponent, rectified):
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    return x.relu() if rectified else x


@needs_compiler
@given(
    seed=st.integers(0, 2**16),
    # Below and above the size from which threads share the work.
    size=st.sampled_from([1, 7, 511, 513, 40_000, 100_003]),
    exponent=st.integers(-20, 20),
    rectified=st.booleans(),
    # With zero inside and outside.
    shift=st.sampled_from([-5.0, 0.0, 5.0]),
    margin=st.sampled_from([-0.3, 0.0, 1.5]),
)
def test_counts_are_those_of_torch(seed, size, exponent, rectified, shift, margin):
    x = values(seed, size, exponent, rectified) + shift * 10.0**exponent
    width = float(x.max() - x.min()) or 10.0**exponent
    low, high = float(x.min()) - margin * width, float(x.max()) + margin * width
    if low >= high:
        low, high = high - width, low + width
    expected = torch.histc(x.clamp(low, high), BINS, low, high).double()
    assert torch.equal(histogram(x, low, high, BINS), expected)


@pytest.mark.parametrize("layout", ["rows", "columns", "gaps", "float64"])
def test_every_value_is_counted_once_however_it_lies(layout):
    x = torch.linspace(-1, 1, 24 * 100).reshape(24, 100)
    if layout == "columns":
        x = x.t()
    elif layout == "gaps":
        x = x[:, ::2]
    elif layout == "float64":
        x = x.double()
    # 8 bins of width 0.25: the edges are exact, and so is NumPy's choice of the bin.
    expected, _ = np.histogram(x.numpy(), bins=8, range=(-1.0, 1.0))
    np.testing.assert_array_equal(histogram(x, -1.0, 1.0, 8), expected)


@needs_compiler
def test_counts_do_not_depend_on_the_number_of_threads():
    x, threads = values(0, 300_000, 0, False), torch.get_num_threads()
    counts = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            counts.append(histogram(x, -4.0, 4.0, BINS))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(counts[0], counts[1])
    assert torch.equal(counts[0], counts[2])


def test_without_a_compiler_torch_counts(monkeypatch):
    x = values(1, 5000, 0, True)
    native = histogram(x, 0.0, 3.0, 64)
    monkeypatch.setattr(module, "native_library", lambda: None)
    np.testing.assert_array_equal(histogram(x, 0.0, 3.0, 64), native)


@needs_compiler
@given(
    seed=st.integers(0, 2**16),
    # Around the lengths of vectors and blocks, and the size from which threads share the work.
    size=st.sampled_from([1, 3, 15, 16, 17, 2047, 2049, 40_000, 100_003]),
    special=st.sampled_from([None, float("nan"), float("inf"), float("-inf"), -0.0]),
)
def test_extremes_are_those_of_torch(seed, size, special):
    x = values(seed, size, 0, rectified=False)
    if special is not None:
        x[seed % size] = special
    expected = torch.stack(torch.aminmax(x))
    torch.testing.assert_close(torch.tensor(extremes(x)), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("x", [torch.arange(12.0).reshape(3, 4)[:, 1::2], torch.arange(12.0, dtype=torch.float64)])
def test_extremes_of_other_tensors(x):
    assert extremes(x) == (float(x.min()), float(x.max()))

# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.quant_params import from_range


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)],
)
def test_compute_dtype_is_at_least_float32(dtype, expected):
    assert numpy_ops.to_compute_dtype(np.zeros(3, dtype)).dtype == expected


def test_bfloat16_is_computed_in_float32_and_returned():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert numpy_ops.to_compute_dtype(np.zeros(3, ml_dtypes.bfloat16)).dtype == np.float32
    params = from_range(-1.1, 2.3, 5)
    x = np.random.default_rng(1).normal(0, 1, 1000).astype(ml_dtypes.bfloat16)
    outputs = arithmetic.fake_quantize(x, params, numpy_ops)
    assert outputs.dtype == ml_dtypes.bfloat16
    single = arithmetic.fake_quantize(x.astype(np.float32), params, numpy_ops)
    np.testing.assert_array_equal(outputs, single.astype(ml_dtypes.bfloat16))


def test_divide_follows_ieee_without_warnings():
    x, y = np.array([1e38, 1e-38, np.inf], np.float32), np.array([1e-38, 1e38, 1.0], np.float32)
    np.testing.assert_array_equal(numpy_ops.divide(x, y), [np.inf, 0.0, np.inf])


def test_clip_keeps_nan():
    np.testing.assert_array_equal(numpy_ops.clip(np.array([np.nan, -9.0, 9.0]), -1, 1), [np.nan, -1, 1])

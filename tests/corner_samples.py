# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Grids, and inputs that reach every corner of them."""

import numpy as np

from mct_quantizers.common.quant_params import QuantParams, from_range, from_threshold

NUM_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
LOW, HIGH = (-1.7, -0.3, -2.9, 0.4), (0.9, 2.2, -0.6, 1.9)


def grid(kind: str, num_bits: int, axis: int | None = None) -> QuantParams:
    """`kind`: symmetric, unsigned, power_of_two or uniform; per channel there are four channels."""
    if kind == "uniform":
        return from_range(
            LOW if axis is not None else LOW[0], HIGH if axis is not None else HIGH[0], num_bits, axis=axis
        )
    threshold = (2.0, 0.25, 8.0, 1.0) if kind == "power_of_two" else (1.3, 0.31, 7.7, 0.9)
    return from_threshold(threshold if axis is not None else threshold[0], num_bits, kind != "unsigned", axis=axis)


def corners(params: QuantParams, random: int = 20_000) -> np.ndarray:
    """float32, shape (channels, n): random values, every level and tie with its neighbours, bounds, special values."""
    generator = np.random.default_rng(params.num_bits)
    rows = []
    tiny = np.finfo(np.float32).tiny
    special = [0.0, -0.0, 1e-45, -1e-45, tiny, -tiny, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]
    for scale, zero_point in zip(params.scale, params.zero_point, strict=True):
        steps = np.arange(params.quant_min - 3, params.quant_max + 4, 0.5) - zero_point
        exact = (steps * scale).astype(np.float32)
        width = scale * (params.quant_max - params.quant_min)
        rows.append(
            np.concatenate(
                [
                    generator.normal(0, width * 0.6, random),
                    generator.uniform(-width, width, random),
                    exact,
                    np.nextafter(exact, np.float32(-np.inf)),
                    np.nextafter(exact, np.float32(np.inf)),
                    special,
                ]
            ).astype(np.float32)
        )
    return np.stack(rows)

// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// A vector of elements through fake quantization, with the codes of the NumPy reference: division by the scale, ties to
// even, NaN stays NaN.

#pragma once

#include "vectors.h"

// What all elements of a tensor share. The quantizer may compute a ReLU along: clip to [floor, ceiling], whose ends get
// no gradient.
struct Range {
  Vector low, high, floor, ceiling;

  // A negative `ceiling` is no ReLU.
  Range(float low_, float high_, float ceiling_) : low(all(low_)), high(all(high_)) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    floor = all(ceiling_ < 0.0f ? -infinity : 0.0f);
    ceiling = all(ceiling_ < 0.0f ? infinity : ceiling_);
  }

  Vector rectified(Vector x) const { return clip(x, floor, ceiling); }
  Mask passes(Vector x) const { return (x > floor) & (x < ceiling); }
};

// Without a zero point -0.0 is added, which changes no number: zero keeps its sign.
inline Vector negated_shift(Vector shift) { return shift == 0.0f ? all(-0.0f) : -shift; }

struct Grid {
  Vector scale, shift, unshift;

  Grid(const float* scales, const float* zero_points, Channels channels)
      : scale(channels.of(scales)),
        shift(zero_points == nullptr ? all(-0.0f) : channels.of(zero_points)),
        unshift(negated_shift(shift)) {}
};

struct Place {
  Vector ratio, position, clipped;

  Place(Vector x, const Grid& grid, const Range& range)
      : ratio(x / grid.scale),
        position(round_even(ratio) + grid.shift),
        clipped(clip(position, range.low, range.high)) {}

  // Ends included; NaN equals nothing and counts as outside.
  Mask inside() const { return position == clipped; }
  Vector value(const Grid& grid) const { return (clipped + grid.unshift) * grid.scale; }
  // The derivative of the value by the scale (LSQ, equation 3).
  Vector slope(const Grid& grid) const { return (clipped + grid.unshift) - masked(ratio, inside()); }
};

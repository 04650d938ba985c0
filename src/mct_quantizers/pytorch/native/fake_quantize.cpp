// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// Fake quantization in one pass over memory, forward and backward. Tensors are seen as (outer, channels, inner), of
// which `channels` share a scale each; a tensor with one scale is (1, 1, inner).

#include "fake_quantize.h"

extern "C" {

// `zero_point` may be null: then it is zero everywhere. A negative `ceiling` is none.
void forward(const float* x, float* y, const float* scale, const float* zero_point, int64_t outer, int64_t channels,
             int64_t inner, float low, float high, float ceiling, int threads) {
  const Range range(low, high, ceiling);
  Layout{outer, channels, inner}.for_pieces(threads, [=](const Piece& piece) INLINE {
    const Grid grid(scale, zero_point, piece.channels);
    piece.for_elements([&](int64_t place, int64_t count) INLINE {
      store(y + place, Place(range.rectified(load(x + place, count)), grid, range).value(grid), count);
    });
  });
}

// `zero_point` may be null. `dscale` gets one number for each channel, multiplied by `factor`.
void backward(const float* x, const float* dy, float* dx, const float* scale, const float* zero_point, float* dscale,
              float factor, int64_t outer, int64_t channels, int64_t inner, float low, float high, float ceiling,
              int threads) {
  const Range range(low, high, ceiling);
  const Layout layout{outer, channels, inner};
  // In float32 for each piece, in float64 over all of them.
  std::vector<float> of_pieces(channels * layout.in_channel());
  float* const sums = of_pieces.data();
  layout.for_pieces(threads, [=](const Piece& piece) INLINE {
    const Grid grid(scale, zero_point, piece.channels);
    Vector sum{};
    piece.for_elements([&](int64_t place, int64_t count) INLINE {
      const Vector source = load(x + place, count), gradient = load(dy + place, count);
      const Place p(range.rectified(source), grid, range);
      store(dx + place, masked(gradient, p.inside() & range.passes(source)), count);
      sum += p.slope(grid) * gradient;
    });
    piece.put(sum, sums);
  });
  const std::vector<double> totals = layout.totals(sums);
  for (int64_t c = 0; c < channels; ++c) dscale[c] = static_cast<float>(totals[c] * factor);
}
}

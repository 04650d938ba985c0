// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// Fake quantization in one pass over memory, forward and backward. Tensors are seen as (outer, channels, inner), of
// which `channels` share a scale each; a tensor with one scale is (1, 1, inner).

#include "fake_quantize.h"

namespace {

// What goes to the scale; writes what goes to x.
inline Vector backward_vector(const float* x, const float* dy, float* dx, int64_t length, const Grid& grid,
                              const Range& range) {
  const Vector source = load(x, length), gradient = load(dy, length);
  const Place p(range.rectified(source), grid, range);
  store(dx, masked(gradient, p.inside() & range.passes(source)), length);
  return p.slope(grid) * gradient;
}

}  // namespace

extern "C" {

// `zero_point` may be null: then it is zero everywhere. A negative `ceiling` is none.
void forward(const float* x, float* y, const float* scale, const float* zero_point, int64_t outer, int64_t channels,
             int64_t inner, float low, float high, float ceiling, int threads) {
  const Range range(low, high, ceiling);
  const auto run = [=](const Grid& grid, int64_t place, int64_t length) INLINE {
    store(y + place, Place(range.rectified(load(x + place, length)), grid, range).value(grid), length);
  };
  if (inner == 1) {
    for_row_blocks(outer, channels, threads, [=](const Rows& rows) INLINE {
      const Grid grid(scale, zero_point, rows.channels);
      for (int64_t row = rows.first; row < rows.end; ++row)
        run(grid, row * channels + rows.channels.first, rows.channels.count);
    });
    return;
  }
  for_blocks(outer, channels, inner, threads, [=](const Block& block) INLINE {
    const Grid grid(scale, zero_point, {block.channel, 1});
    for_vectors(block.length, [&](int64_t first, int64_t length) INLINE { run(grid, block.start + first, length); });
  });
}

// `zero_point` may be null. `dscale` gets one number for each channel, multiplied by `factor`.
void backward(const float* x, const float* dy, float* dx, const float* scale, const float* zero_point, float* dscale,
              float factor, int64_t outer, int64_t channels, int64_t inner, float low, float high, float ceiling,
              int threads) {
  const Range range(low, high, ceiling);
  const auto run = [=](const Grid& grid, int64_t place, int64_t length) INLINE {
    return backward_vector(x + place, dy + place, dx + place, length, grid, range);
  };
  // In float32 for each block, in float64 over all of them.
  const int64_t blocks = inner == 1 ? row_blocks_of(outer, channels) : outer, in_run = inner == 1 ? 1 : blocks_of(inner);
  std::vector<float> parts(blocks * channels * in_run);
  float* const sums = parts.data();
  if (inner == 1) {
    for_row_blocks(outer, channels, threads, [=](const Rows& rows) INLINE {
      const Grid grid(scale, zero_point, rows.channels);
      Vector sum{};
      for (int64_t row = rows.first; row < rows.end; ++row)
        sum += run(grid, row * channels + rows.channels.first, rows.channels.count);
      store(sums + rows.index * channels + rows.channels.first, sum, rows.channels.count);
    });
  } else {
    for_blocks(outer, channels, inner, threads, [=](const Block& block) INLINE {
      const Grid grid(scale, zero_point, {block.channel, 1});
      Vector sum{};
      for_vectors(block.length, [&](int64_t first, int64_t length) INLINE {
        sum += run(grid, block.start + first, length);
      });
      sums[block.index] = sum_of(sum);
    });
  }
  std::vector<double> totals(channels);
  const float* sum = sums;
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t channel = 0; channel < channels; ++channel)
      for (int64_t part = 0; part < in_run; ++part) totals[channel] += *sum++;
  for (int64_t c = 0; c < channels; ++c) dscale[c] = static_cast<float>(totals[c] * factor);
}
}

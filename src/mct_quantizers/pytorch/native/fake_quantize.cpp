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
  const bool parallel = outer * channels * inner >= kParallel;
  if (inner == 1) {
#pragma omp parallel for if (parallel) num_threads(threads)
    for (int64_t row = 0; row < outer; ++row) {
      for_vectors(channels, [&](int64_t first, int64_t length) {
        const Grid grid(scale, zero_point, {first, length});
        const int64_t start = row * channels + first;
        store(y + start, Place(range.rectified(load(x + start, length)), grid, range).value(grid), length);
      });
    }
    return;
  }
  const int64_t blocks = blocks_of(inner);
#pragma omp parallel for if (parallel) num_threads(threads)
  for (int64_t piece = 0; piece < outer * channels * blocks; ++piece) {
    const int64_t row = piece / blocks, block = piece % blocks, start = row * inner + block * kBlock;
    const Grid grid(scale, zero_point, {row % channels, 1});
    const float* source = x + start;
    float* target = y + start;
    for_vectors(length_of(inner, block), [=](int64_t first, int64_t length) {
      store(target + first, Place(range.rectified(load(source + first, length)), grid, range).value(grid), length);
    });
  }
}

// `zero_point` may be null. `dscale` gets one number for each channel, multiplied by `factor`.
void backward(const float* x, const float* dy, float* dx, const float* scale, const float* zero_point, float* dscale,
              float factor, int64_t outer, int64_t channels, int64_t inner, float low, float high, float ceiling,
              int threads) {
  const Range range(low, high, ceiling);
  const bool parallel = outer * channels * inner >= kParallel;
  std::vector<double> totals(channels);
  if (inner == 1) {
    const int64_t height = rows_in_block(channels), blocks = (outer + height - 1) / height;
    std::vector<float> sums(blocks * channels);
#pragma omp parallel for if (parallel) num_threads(threads)
    for (int64_t block = 0; block < blocks; ++block) {
      for_vectors(channels, [&](int64_t first, int64_t length) {
        const Grid grid(scale, zero_point, {first, length});
        Vector sum{};
        for (int64_t row = block * height; row < std::min(outer, (block + 1) * height); ++row) {
          const int64_t start = row * channels + first;
          sum += backward_vector(x + start, dy + start, dx + start, length, grid, range);
        }
        store(sums.data() + block * channels + first, sum, length);
      });
    }
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t c = 0; c < channels; ++c) totals[c] += sums[block * channels + c];
  } else {
    const int64_t blocks = blocks_of(inner), pieces = outer * channels * blocks;
    std::vector<float> sums(pieces);
#pragma omp parallel for if (parallel) num_threads(threads)
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t row = piece / blocks, block = piece % blocks, start = row * inner + block * kBlock;
      const Grid grid(scale, zero_point, {row % channels, 1});
      const float *source = x + start, *gradient = dy + start;
      float* target = dx + start;
      Vector sum{};
      for_vectors(length_of(inner, block), [=, &sum](int64_t first, int64_t length) {
        sum += backward_vector(source + first, gradient + first, target + first, length, grid, range);
      });
      sums[piece] = sum_of(sum);
    }
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t row = c; row < outer * channels; row += channels)
        for (int64_t block = 0; block < blocks; ++block) totals[c] += sums[row * blocks + block];
  }
  for (int64_t c = 0; c < channels; ++c) dscale[c] = static_cast<float>(totals[c] * factor);
}
}

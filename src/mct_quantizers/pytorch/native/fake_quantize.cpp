// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// Fake quantization in one pass over memory, forward and backward, with the codes of the NumPy reference: division by
// the scale, ties to even, NaN stays NaN. Tensors are seen as (outer, channels, inner), of which `channels` share a
// scale each; a tensor with one scale is (1, 1, inner). With a `ceiling` that is not negative values are first clipped
// to [0, ceiling], and those at or beyond the ends get no gradient: ReLU (infinity) and ReLU6. Compile without
// -ffast-math and with -ffp-contract=off.

#include <cmath>
#include <cstdint>

namespace {

// Elements at once, at most; they are summed in float32 before their sum goes into a float64 one. Sums do not depend on
// the threads.
constexpr int64_t kBlock = 2048;
// Below this many elements threads cost more than they bring.
constexpr int64_t kParallel = 32768;

struct Grid {
  float scale, zero_point, low, high, ceiling;
};

struct Place {
  float ratio, position, clipped;
};

// Comparisons with NaN are false: NaN goes through these and the others.
template <bool kRectified>
inline float rectify(float x, const Grid& grid) {
  if (!kRectified) return x;
  x = x < 0.0f ? 0.0f : x;
  return x > grid.ceiling ? grid.ceiling : x;
}

// Without a zero point nothing is added: zero keeps its sign.
template <bool kShifted>
inline Place place(float x, const Grid& grid) {
  const float ratio = x / grid.scale;
  float position = std::nearbyint(ratio);
  if (kShifted) position += grid.zero_point;
  float clipped = position < grid.low ? grid.low : position;
  clipped = clipped > grid.high ? grid.high : clipped;
  return {ratio, position, clipped};
}

template <bool kShifted>
inline float value(float clipped, const Grid& grid) {
  return (kShifted ? clipped - grid.zero_point : clipped) * grid.scale;
}

// The derivative of a quantized value by the scale (LSQ, equation 3).
template <bool kShifted>
inline float slope(const Place& p, const Grid& grid) {
  return (kShifted ? p.clipped - grid.zero_point : p.clipped) - (p.position == p.clipped ? p.ratio : 0.0f);
}

// Whether the gradient goes through. Without a short cut: a loop with branches does not vectorize.
template <bool kRectified>
inline bool rectifier_passes(float x, const Grid& grid) {
  return !kRectified || ((x > 0.0f) & (x < grid.ceiling));
}

template <bool kShifted, bool kRectified>
inline void forward_run(const float* x, float* y, int64_t count, Grid grid) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    y[i] = value<kShifted>(place<kShifted>(rectify<kRectified>(x[i], grid), grid).clipped, grid);
  }
}

template <bool kShifted>
inline float backward_plain(const float* x, const float* dy, float* dx, int64_t count, const Grid& grid) {
  float sum = 0.0f;
  if (dx == nullptr) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) sum += slope<kShifted>(place<kShifted>(x[i], grid), grid) * dy[i];
    return sum;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const Place p = place<kShifted>(x[i], grid);
    dx[i] = p.position == p.clipped ? dy[i] : 0.0f;
    sum += slope<kShifted>(p, grid) * dy[i];
  }
  return sum;
}

// At most kBlock elements.
template <bool kShifted, bool kRectified>
inline float backward_run(const float* x, const float* dy, float* dx, int64_t count, const Grid& grid) {
  if (!kRectified) return backward_plain<kShifted>(x, dy, dx, count, grid);
  // Loops of their own, in the cache: of one loop the compiler makes branches.
  float rectified[kBlock];
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) rectified[i] = rectify<kRectified>(x[i], grid);
  const float sum = backward_plain<kShifted>(rectified, dy, dx, count, grid);
  if (dx != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) dx[i] = rectifier_passes<kRectified>(x[i], grid) ? dx[i] : 0.0f;
  }
  return sum;
}

inline Grid grid_of(const float* scale, const float* zero_point, int64_t channel, float low, float high,
                    float ceiling) {
  return {scale[channel], zero_point == nullptr ? 0.0f : zero_point[channel], low, high, ceiling};
}

inline int64_t blocks_of(int64_t inner) { return (inner + kBlock - 1) / kBlock; }

inline int64_t length_of(int64_t inner, int64_t block) {
  const int64_t left = inner - block * kBlock;
  return left < kBlock ? left : kBlock;
}

template <bool kShifted, bool kRectified>
void forward_all(const float* x, float* y, const float* scale, const float* zero_point, int64_t outer, int64_t channels,
             int64_t inner, float low, float high, float ceiling, int threads) {
  const bool parallel = outer * channels * inner >= kParallel;
  if (inner == 1) {
#pragma omp parallel for if (parallel) num_threads(threads)
    for (int64_t row = 0; row < outer; ++row) {
      const float* source = x + row * channels;
      float* target = y + row * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const Grid grid = grid_of(scale, zero_point, c, low, high, ceiling);
        target[c] = value<kShifted>(place<kShifted>(rectify<kRectified>(source[c], grid), grid).clipped, grid);
      }
    }
    return;
  }
  const int64_t blocks = blocks_of(inner);
#pragma omp parallel for if (parallel) num_threads(threads)
  for (int64_t piece = 0; piece < outer * channels * blocks; ++piece) {
    const int64_t row = piece / blocks, block = piece % blocks, start = row * inner + block * kBlock;
    const Grid grid = grid_of(scale, zero_point, row % channels, low, high, ceiling);
    forward_run<kShifted, kRectified>(x + start, y + start, length_of(inner, block), grid);
  }
}

template <bool kShifted, bool kRectified>
void backward_all(const float* x, const float* dy, float* dx, const float* scale, const float* zero_point, float* sums,
              float* dscale, int64_t outer, int64_t channels, int64_t inner, float low, float high,
              float ceiling, int threads) {
  const bool parallel = outer * channels * inner >= kParallel;
  if (inner == 1) {
    const int64_t blocks = blocks_of(outer);
#pragma omp parallel for if (parallel) num_threads(threads)
    for (int64_t block = 0; block < blocks; ++block) {
      float* of_block = sums + block * channels;
      for (int64_t c = 0; c < channels; ++c) of_block[c] = 0.0f;
      for (int64_t row = block * kBlock; row < block * kBlock + length_of(outer, block); ++row) {
        const float *source = x + row * channels, *gradient = dy + row * channels;
        float* target = dx == nullptr ? nullptr : dx + row * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
          const Grid grid = grid_of(scale, zero_point, c, low, high, ceiling);
          const Place p = place<kShifted>(rectify<kRectified>(source[c], grid), grid);
          const bool inside = (p.position == p.clipped) & rectifier_passes<kRectified>(source[c], grid);
          if (target != nullptr) target[c] = inside ? gradient[c] : 0.0f;
          of_block[c] += slope<kShifted>(p, grid) * gradient[c];
        }
      }
    }
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0.0;
      for (int64_t block = 0; block < blocks; ++block) total += sums[block * channels + c];
      dscale[c] = static_cast<float>(total);
    }
    return;
  }
  const int64_t blocks = blocks_of(inner);
#pragma omp parallel for if (parallel) num_threads(threads)
  for (int64_t piece = 0; piece < outer * channels * blocks; ++piece) {
    const int64_t row = piece / blocks, block = piece % blocks, start = row * inner + block * kBlock;
    const Grid grid = grid_of(scale, zero_point, row % channels, low, high, ceiling);
    float* target = dx == nullptr ? nullptr : dx + start;
    sums[piece] = backward_run<kShifted, kRectified>(x + start, dy + start, target, length_of(inner, block), grid);
  }
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0.0;
    for (int64_t row = c; row < outer * channels; row += channels)
      for (int64_t block = 0; block < blocks; ++block) total += sums[row * blocks + block];
    dscale[c] = static_cast<float>(total);
  }
}

}  // namespace

extern "C" {

// How many float32 numbers `backward` needs for its sums.
int64_t num_sums(int64_t outer, int64_t channels, int64_t inner) {
  return inner == 1 ? blocks_of(outer) * channels : outer * channels * blocks_of(inner);
}

// `zero_point` may be null: then it is zero everywhere. A negative `ceiling` is none.
void forward(const float* x, float* y, const float* scale, const float* zero_point, int64_t outer, int64_t channels,
             int64_t inner, float low, float high, float ceiling, int threads) {
  auto run = zero_point == nullptr ? (ceiling >= 0.0f ? forward_all<false, true> : forward_all<false, false>)
                                   : (ceiling >= 0.0f ? forward_all<true, true> : forward_all<true, false>);
  run(x, y, scale, zero_point, outer, channels, inner, low, high, ceiling, threads);
}

// `zero_point` and `dx` may be null. `sums` has room for `num_sums` numbers; `dscale` gets one for each channel.
void backward(const float* x, const float* dy, float* dx, const float* scale, const float* zero_point, float* sums,
              float* dscale, int64_t outer, int64_t channels, int64_t inner, float low, float high, float ceiling,
              int threads) {
  auto run = zero_point == nullptr ? (ceiling >= 0.0f ? backward_all<false, true> : backward_all<false, false>)
                                   : (ceiling >= 0.0f ? backward_all<true, true> : backward_all<true, false>);
  run(x, dy, dx, scale, zero_point, sums, dscale, outer, channels, inner, low, high, ceiling, threads);
}
}

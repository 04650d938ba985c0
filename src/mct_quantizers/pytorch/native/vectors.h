// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// Vectors of the compiler (GCC, Clang), because a loop that is left to it to vectorize may stay one of single elements;
// and how tensors are divided into pieces. Compile without -ffast-math, with -ffp-contract=off.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <omp.h>

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif
// Of lambdas: left to itself, the compiler calls them, and hands over what they capture in memory.
#define INLINE __attribute__((always_inline))

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int32_t Mask __attribute__((vector_size(kLanes * 4)));

// Elements at once, at most; they are summed in float32 before their sum goes into a float64 one. Sums do not depend on
// the threads.
constexpr int64_t kBlock = 2048;
// Below this many elements threads cost more than they bring.
constexpr int64_t kParallel = 32768;

// Subtracted from: an addition would change the sign of -0.0.
inline Vector all(float x) { return x - Vector{}; }

#if defined(__AVX512F__)
inline __mmask16 first_lanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
#elif defined(__AVX__)
inline __m256i first_lanes(int64_t count) {
  static const int32_t bits[2 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits + kLanes - count));
}
#endif

// The first `count` elements, and zeros.
inline Vector load(const float* x, int64_t count = kLanes) {
  Vector v{};
  if (count == kLanes) {
    std::memcpy(&v, x, sizeof v);
  } else {
#if defined(__AVX512F__)
    v = reinterpret_cast<Vector>(_mm512_maskz_loadu_ps(first_lanes(count), x));
#elif defined(__AVX__)
    v = reinterpret_cast<Vector>(_mm256_maskload_ps(x, first_lanes(count)));
#else
    for (int64_t l = 0; l < count; ++l) v[l] = x[l];
#endif
  }
  return v;
}

inline void store(float* y, Vector v, int64_t count = kLanes) {
  if (count == kLanes) {
    std::memcpy(y, &v, sizeof v);
  } else {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(y, first_lanes(count), reinterpret_cast<__m512>(v));
#elif defined(__AVX__)
    _mm256_maskstore_ps(y, first_lanes(count), reinterpret_cast<__m256>(v));
#else
    for (int64_t l = 0; l < count; ++l) y[l] = v[l];
#endif
  }
}

// Stores the numbers that differ from `common` one behind the other, and anything behind them; their count.
inline int64_t store_others(int32_t* y, Mask numbers, int32_t common) {
#if defined(__AVX512F__)
  const __m512i v = reinterpret_cast<__m512i>(numbers);
  const __mmask16 others = _mm512_cmpneq_epi32_mask(v, _mm512_set1_epi32(common));
  _mm512_storeu_si512(y, _mm512_maskz_compress_epi32(others, v));
  return __builtin_popcount(others);
#else
  int64_t count = 0;
  for (int64_t l = 0; l < kLanes; ++l) {
    y[count] = numbers[l];
    count += numbers[l] != common;
  }
  return count;
#endif
}

// To the nearest integer, ties to even.
inline Vector round_even(Vector x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(_mm512_roundscale_ps(reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX__)
  return reinterpret_cast<Vector>(_mm256_round_ps(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__SSE4_1__)
  return reinterpret_cast<Vector>(_mm_round_ps(reinterpret_cast<__m128>(x), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int64_t l = 0; l < kLanes; ++l) x[l] = std::nearbyint(x[l]);
  return x;
#endif
}

// Comparisons with NaN are false: NaN goes through.
inline Vector clip(Vector x, Vector low, Vector high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// `x` where the mask has its bits, 0 elsewhere.
inline Vector masked(Vector x, Mask mask) { return reinterpret_cast<Vector>(reinterpret_cast<Mask>(x) & mask); }

inline int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

inline int64_t length_of(int64_t count, int64_t block) {
  const int64_t left = count - block * kBlock;
  return left < kBlock ? left : kBlock;
}

// Calls `step(first, length)` for the vectors of a run, the last of which may not be full.
template <class Step>
INLINE inline void for_vectors(int64_t count, Step step) {
  int64_t first = 0;
  for (; first + kLanes <= count; first += kLanes) step(first, kLanes);
  if (first < count) step(first, count - first);
}

// A part of the elements of one channel that lie behind each other.
struct Block {
  int64_t index, channel, start, length;
};

// Calls `step(block)` for the blocks of a tensor whose channels do not lie innermost. Steps are copied for each thread,
// so what they capture by value stays in registers; runs may be short, so none of them costs a division.
template <class Step>
inline void for_blocks(int64_t outer, int64_t channels, int64_t inner, int threads, Step step) {
  const int64_t in_run = blocks_of(inner), count = outer * channels * in_run;
#pragma omp parallel if (outer * channels * inner >= kParallel) num_threads(threads) firstprivate(step)
  {
    const int64_t thread = omp_get_thread_num(), share = omp_get_num_threads();
    const int64_t end = count * (thread + 1) / share;
    int64_t index = count * thread / share, run = index / in_run, part = index % in_run, channel = run % channels;
    for (; index < end; ++index) {
      step(Block{index, channel, run * inner + part * kBlock, length_of(inner, part)});
      if (++part < in_run) continue;
      part = 0;
      ++run;
      if (++channel == channels) channel = 0;
    }
  }
}

// One number for each channel, of which there is a vector: of one channel everywhere, or of neighbouring channels.
struct Channels {
  int64_t first, count;

  Vector of(const float* numbers) const { return count == 1 ? all(numbers[first]) : load(numbers + first, count); }
};

// Rows from `first` to before `end`, and a vector of channels of them.
struct Rows {
  int64_t index, first, end;
  Channels channels;
};

// Rows in a block where channels lie innermost: as much as stays in the cache.
inline int64_t rows_in_block(int64_t channels) { return std::max<int64_t>(16, 8192 / channels); }

inline int64_t row_blocks_of(int64_t outer, int64_t channels) {
  const int64_t height = rows_in_block(channels);
  return (outer + height - 1) / height;
}

// Calls `step(rows)` for the blocks of rows of a tensor whose channels lie innermost; see `for_blocks`.
template <class Step>
inline void for_row_blocks(int64_t outer, int64_t channels, int threads, Step step) {
  const int64_t height = rows_in_block(channels), blocks = row_blocks_of(outer, channels);
#pragma omp parallel for if (outer * channels >= kParallel) num_threads(threads) firstprivate(step)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t start = block * height, end = std::min(outer, start + height);
    for_vectors(channels, [&](int64_t first, int64_t count) INLINE {
      step(Rows{block, start, end, {first, count}});
    });
  }
}

inline float sum_of(Vector lanes) {
  typedef float Four __attribute__((vector_size(16)));
  Four parts[kLanes / 4];
  std::memcpy(parts, &lanes, sizeof lanes);
  Four sum = parts[0];
  for (int64_t part = 1; part < kLanes / 4; ++part) sum += parts[part];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

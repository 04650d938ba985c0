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

inline float sum_of(Vector lanes) {
  typedef float Four __attribute__((vector_size(16)));
  Four parts[kLanes / 4];
  std::memcpy(parts, &lanes, sizeof lanes);
  Four sum = parts[0];
  for (int64_t part = 1; part < kLanes / 4; ++part) sum += parts[part];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// One number for each channel, of which there is a vector: of one channel everywhere, or of neighbouring channels.
struct Channels {
  int64_t first, count;

  Vector of(const float* numbers) const { return count == 1 ? all(numbers[first]) : load(numbers + first, count); }
};

// Elements of one channel that lie behind each other, or, where channels lie innermost, of neighbouring channels in
// several rows.
struct Piece {
  int64_t index, start, rows, stride, length;
  Channels channels;

  // Calls `step(place, count)` for the vectors of elements.
  template <class Step>
  INLINE void for_elements(Step step) const {
    for (int64_t row = 0; row < rows; ++row)
      for_vectors(length, [&](int64_t first, int64_t count) INLINE { step(start + row * stride + first, count); });
  }

  // Writes what was summed over the elements of each channel.
  void put(Vector sum, float* sums) const {
    if (channels.count == 1) {
      sums[index] = sum_of(sum);
    } else {
      store(sums + index, sum, channels.count);
    }
  }
};

// How a tensor lies in memory around its channels.
struct Layout {
  int64_t outer, channels, inner;

  bool is_parallel() const { return outer * channels * inner >= kParallel; }
  // Pieces of a channel: in a run of its elements, and of all of them.
  int64_t in_run() const { return inner == 1 ? 1 : blocks_of(inner); }
  int64_t in_channel() const { return inner == 1 ? (outer + height() - 1) / height() : outer * in_run(); }

  // Calls `step(piece)` for all of a tensor. Steps are copied for each thread, so what they capture by value stays in
  // registers.
  template <class Step>
  void for_pieces(int threads, Step step) const {
    if (inner == 1) {
      for_rows(threads, step);
    } else {
      for_blocks(threads, step);
    }
  }

  // Adds up what pieces put down, for each channel.
  std::vector<double> totals(const float* sums) const {
    std::vector<double> result(channels);
    for (int64_t group = 0; group < in_channel() / in_run(); ++group)
      for (int64_t channel = 0; channel < channels; ++channel)
        for (int64_t part = 0; part < in_run(); ++part) result[channel] += *sums++;
    return result;
  }

 private:
  // Rows at once: as much as stays in the cache.
  int64_t height() const { return std::max<int64_t>(16, 8192 / channels); }

  template <class Step>
  void for_rows(int threads, Step step) const {
    const int64_t blocks = in_channel(), most = height();
#pragma omp parallel for if (is_parallel()) num_threads(threads) firstprivate(step)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t row = block * most, rows = std::min(most, outer - row);
      for_vectors(channels, [&](int64_t first, int64_t count) INLINE {
        step(Piece{block * channels + first, row * channels + first, rows, channels, count, {first, count}});
      });
    }
  }

  // Runs may be short: none of them costs a division.
  template <class Step>
  void for_blocks(int threads, Step step) const {
    const int64_t run_length = inner, all_channels = channels, parts = in_run(), count = channels * in_channel();
#pragma omp parallel if (is_parallel()) num_threads(threads) firstprivate(step)
    {
      const int64_t thread = omp_get_thread_num(), share = omp_get_num_threads(), end = count * (thread + 1) / share;
      int64_t index = count * thread / share, run = index / parts, part = index % parts, channel = run % all_channels;
      for (; index < end; ++index) {
        const int64_t length = length_of(run_length, part);
        step(Piece{index, run * run_length + part * kBlock, 1, 0, length, {channel, 1}});
        if (++part < parts) continue;
        part = 0;
        ++run;
        if (++channel == all_channels) channel = 0;
      }
    }
  }
};

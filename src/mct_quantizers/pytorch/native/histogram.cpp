// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// Counts of values in bins of equal width, with the bins of torch.histc: (x - low) * bins / (high - low), rounded down,
// in float32. Values outside, and NaN, go to a bin at an end. And the smallest and largest of all values.

#include "vectors.h"

namespace {

// Values whose bins are computed at once, which vectorizes.
constexpr int64_t kChunk = 512;
// Tables that take turns: the same bin, often zero, comes again before the last addition to it is done.
constexpr int kTables = 4;

// The first elements, and the very first in the place of others.
inline Vector filled(const float* x, int64_t count) {
  Vector v = all(x[0]);
  for (int64_t l = 1; l < count; ++l) v[l] = x[l];
  return v;
}

}  // namespace

extern "C" {

// Adds the counts of `x` to `counts`.
void histogram(const float* x, int64_t count, float low, float high, int64_t bins, double* counts, int threads) {
  const float width = high - low, scale = static_cast<float>(bins), last = static_cast<float>(bins - 1);
#pragma omp parallel if (count >= kParallel) num_threads(threads)
  {
    std::vector<uint32_t> tables(kTables * bins, 0);
    int32_t places[kChunk];
#pragma omp for nowait
    for (int64_t start = 0; start < count; start += kChunk) {
      const int64_t length = std::min(kChunk, count - start);
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        const float place = (x[start + i] - low) * scale / width;
        // Comparisons with NaN are false: it goes to the first bin.
        const float inside = place > 0.0f ? place : 0.0f;
        places[i] = static_cast<int32_t>(inside < last ? inside : last);
      }
      for (int64_t i = 0; i < length; ++i) ++tables[(i % kTables) * bins + places[i]];
    }
#pragma omp critical
    for (int64_t i = 0; i < kTables * bins; ++i) counts[i % bins] += tables[i];
  }
}

// The smallest and the largest value; both NaN where there is one.
void extremes(const float* x, int64_t count, float* result, int threads) {
  float low = std::numeric_limits<float>::infinity(), high = -low;
  int64_t strange = 0;
#pragma omp parallel for if (count >= kParallel) num_threads(threads) reduction(min : low) reduction(max : high) \
    reduction(+ : strange)
  for (int64_t block = 0; block < blocks_of(count); ++block) {
    Vector lows = all(low), highs = all(high);
    Mask is_number = lows == lows;
    for_vectors(length_of(count, block), [&](int64_t first, int64_t length) {
      const float* run = x + block * kBlock + first;
      // Behind the end the first value again.
      const Vector v = length == kLanes ? load(run) : filled(run, length);
      lows = v < lows ? v : lows;
      highs = v > highs ? v : highs;
      is_number &= v == v;
    });
    for (int64_t l = 0; l < kLanes; ++l) {
      low = std::min(low, lows[l]);
      high = std::max(high, highs[l]);
      strange += is_number[l] == 0;
    }
  }
  result[0] = strange ? std::numeric_limits<float>::quiet_NaN() : low;
  result[1] = strange ? std::numeric_limits<float>::quiet_NaN() : high;
}
}

// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// Counts of values in bins of equal width, with the bins of torch.histc: (x - low) * bins / (high - low), rounded down,
// in float32. Values outside, and NaN, go to a bin at an end.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// Values whose bins are computed at once, which vectorizes.
constexpr int64_t kChunk = 512;
// Tables that take turns: the same bin, often zero, comes again before the last addition to it is done.
constexpr int kTables = 4;
// Below this many values threads cost more than they bring.
constexpr int64_t kParallel = 32768;

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
}

// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// Counts of values in bins of equal width, with the bins of torch.histc: (x - low) * bins / (high - low), rounded down,
// in float32. Values outside, and NaN, go to a bin at an end. And the smallest and largest of all values.

#include "vectors.h"

namespace {

// The bins of a vector of values.
struct Bins {
  Vector low, width, count, last;

  Bins(float low_, float high, int64_t bins)
      : low(all(low_)), width(all(high - low_)), count(all(static_cast<float>(bins))),
        last(all(static_cast<float>(bins - 1))) {}

  Mask of(Vector x) const {
    const Vector place = (x - low) * count / width;
    // Comparisons with NaN are false: it goes to the first bin.
    const Vector inside = place > 0.0f ? place : Vector{};
    return __builtin_convertvector(inside < last ? inside : last, Mask);
  }
};

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
  const Bins places_of(low, high, bins);
  // The bin of zero, to which half of what comes out of a ReLU belongs, is counted without additions to one place in
  // memory, each of which would wait for the one before. Zeros behind the end of a run are in it, and not counted.
  const int32_t common = places_of.of(Vector{})[0];
#pragma omp parallel if (count >= kParallel) num_threads(threads)
  {
    std::vector<uint32_t> table(bins, 0);
    int32_t places[kBlock + kLanes];
    int64_t zeros = 0;
#pragma omp for nowait
    for (int64_t block = 0; block < blocks_of(count); ++block) {
      const int64_t length = length_of(count, block);
      int64_t others = 0;
      for_vectors(length, [&](int64_t first, int64_t lanes) {
        others += store_others(places + others, places_of.of(load(x + block * kBlock + first, lanes)), common);
      });
      for (int64_t i = 0; i < others; ++i) ++table[places[i]];
      zeros += length - others;
    }
#pragma omp critical
    {
      for (int64_t i = 0; i < bins; ++i) counts[i] += table[i];
      counts[common] += static_cast<double>(zeros);
    }
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

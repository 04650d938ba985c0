// SPDX-FileCopyrightText: The quantizers-infrastructure authors
// SPDX-License-Identifier: Apache-2.0
//
// Batch norm in training, what may follow it (adding another tensor, a ReLU) and fake quantization: the statistics in
// one pass over memory, the values in another, the gradients in two. Tensors are seen as (outer, channels, inner).

#include "fake_quantize.h"

#include <numeric>

namespace {

// Count, mean and sum of squared distances from it; two of them join exactly (Chan, Golub and LeVeque 1979).
struct Moments {
  double count = 0.0, mean = 0.0, squares = 0.0;

  void add(double count_, double mean_, double squares_) {
    const double total = count + count_, distance = mean_ - mean;
    mean += distance * (count_ / total);
    squares += squares_ + distance * distance * (count * count_ / total);
    count = total;
  }
};

// Of at most kBlock elements, about a number near their mean: small numbers are summed.
inline void add_run(Moments& moments, const float* x, int64_t count) {
  Vector sum{};
  for_vectors(count, [&sum, x](int64_t first, int64_t length) { sum += load(x + first, length); });
  const float near = sum_of(sum) / static_cast<float>(count);
  float nears[kLanes];
  store(nears, all(near));
  Vector offsets{}, squares{};
  for_vectors(count, [&, x](int64_t first, int64_t length) {
    // What lies behind the end adds nothing: 0 - 0.
    const Vector offset = load(x + first, length) - load(nears, length);
    offsets += offset;
    squares += offset * offset;
  });
  const double mean_offset = static_cast<double>(sum_of(offsets)) / count;
  moments.add(count, near + mean_offset, sum_of(squares) - count * mean_offset * mean_offset);
}

// Likewise of a block of rows, for each channel.
inline void add_rows(Moments* moments, const float* x, int64_t rows, int64_t channels) {
  for_vectors(channels, [=](int64_t first, int64_t length) {
    Vector sum{}, offsets{}, squares{};
    for (int64_t row = 0; row < rows; ++row) sum += load(x + row * channels + first, length);
    const Vector near = sum / static_cast<float>(rows);
    for (int64_t row = 0; row < rows; ++row) {
      const Vector offset = load(x + row * channels + first, length) - near;
      offsets += offset;
      squares += offset * offset;
    }
    for (int64_t l = 0; l < length; ++l) {
      const double mean_offset = static_cast<double>(offsets[l]) / rows;
      moments[first + l].add(rows, near[l] + mean_offset, squares[l] - rows * mean_offset * mean_offset);
    }
  });
}

// What is the same for all elements of a channel, in arrays: y = quantize(clip(alpha · x + beta + residual)).
struct Layer {
  int64_t channels;
  const float *mean, *inverse;
  std::vector<float> alpha, beta, scale, zero_point;

  // `weight`, `bias` and `zero_point_` may be null; `scale_step` is 0 for one grid of all channels, else 1.
  Layer(int64_t channels_, const float* mean_, const float* inverse_, const float* weight, const float* bias,
        const float* scale_, const float* zero_point_, int64_t scale_step)
      : channels(channels_), mean(mean_), inverse(inverse_), alpha(channels), beta(channels), scale(channels),
        zero_point(zero_point_ == nullptr ? 0 : channels) {
    for (int64_t c = 0; c < channels; ++c) {
      alpha[c] = inverse[c] * (weight == nullptr ? 1.0f : weight[c]);
      beta[c] = (bias == nullptr ? 0.0f : bias[c]) - mean[c] * alpha[c];
      scale[c] = scale_[c * scale_step];
      if (zero_point_ != nullptr) zero_point[c] = zero_point_[c * scale_step];
    }
  }
};

// The same for the channels of a vector.
struct Part {
  Vector alpha, beta, mean;
  Grid grid;

  Part(const Layer& layer, Channels channels)
      : alpha(channels.of(layer.alpha.data())),
        beta(channels.of(layer.beta.data())),
        mean(channels.of(layer.mean)),
        grid(layer.scale.data(), layer.zero_point.empty() ? nullptr : layer.zero_point.data(), channels) {}

  Vector normalized(const float* x, const float* residual, int64_t place, int64_t length) const {
    const Vector y = load(x + place, length) * alpha + beta;
    return residual == nullptr ? y : y + load(residual + place, length);
  }
};

// What is summed over all elements of a channel: the gradient behind the batch norm, its product with the distance
// from the mean, and what goes to the scale.
struct Sums {
  Vector gradient{}, product{}, slope{};
};

// Adds to the sums, and writes the gradient behind the batch norm.
inline void backward_vector(const float* x, const float* residual, const float* dy, float* dz, int64_t place,
                            int64_t length, const Part& part, const Range& range, Sums& sums) {
  const Vector z = part.normalized(x, residual, place, length), gradient = load(dy + place, length);
  const Place p(range.rectified(z), part.grid, range);
  const Vector passed = masked(gradient, p.inside() & range.passes(z));
  store(dz + place, passed, length);
  sums.gradient += passed;
  sums.product += passed * (load(x + place, length) - part.mean);
  sums.slope += p.slope(part.grid) * gradient;
}

// The gradient to x: factor · inverse · (dz - its mean - x̂ · mean of dz · x̂) for x̂ = (x - mean) · inverse.
struct ToInput {
  std::vector<float> by_distance, constant;

  ToInput(const Layer& layer, const double* gradients, const double* products, double count)
      : by_distance(layer.channels), constant(layer.channels) {
    for (int64_t c = 0; c < layer.channels; ++c) {
      const double inverse = layer.inverse[c];
      by_distance[c] = static_cast<float>(-layer.alpha[c] * inverse * inverse * products[c] / count);
      constant[c] = static_cast<float>(-layer.alpha[c] * gradients[c] / count);
    }
  }
};

inline void to_input_vector(const float* x, const float* dz, float* dx, int64_t place, int64_t length, Vector mean,
                            Vector alpha, Vector by_distance, Vector constant) {
  const Vector distance = load(x + place, length) - mean;
  store(dx + place, alpha * load(dz + place, length) + (by_distance * distance + constant), length);
}

}  // namespace

extern "C" {

// Mean, variance over n - 1, and 1 / sqrt(variance over n + epsilon) of each channel.
void batch_statistics(const float* x, float* mean, float* variance, float* inverse, float epsilon, int64_t outer,
                      int64_t channels, int64_t inner, int threads) {
  const bool parallel = outer * channels * inner >= kParallel;
  std::vector<Moments> moments(channels);
  if (inner == 1) {
    const int64_t height = rows_in_block(channels), blocks = (outer + height - 1) / height;
    std::vector<Moments> of_blocks(blocks * channels);
#pragma omp parallel for if (parallel) num_threads(threads)
    for (int64_t block = 0; block < blocks; ++block) {
      add_rows(of_blocks.data() + block * channels, x + block * height * channels,
               std::min(height, outer - block * height), channels);
    }
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t c = 0; c < channels; ++c) {
        const Moments& of_block = of_blocks[block * channels + c];
        moments[c].add(of_block.count, of_block.mean, of_block.squares);
      }
    }
  } else {
    const int64_t blocks = blocks_of(inner);
#pragma omp parallel for if (parallel) num_threads(threads)
    for (int64_t c = 0; c < channels; ++c) {
      Moments of_channel;
      for (int64_t row = c; row < outer * channels; row += channels)
        for (int64_t block = 0; block < blocks; ++block)
          add_run(of_channel, x + row * inner + block * kBlock, length_of(inner, block));
      moments[c] = of_channel;
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<float>(moments[c].mean);
    variance[c] = static_cast<float>(moments[c].squares / (moments[c].count - 1.0));
    inverse[c] = static_cast<float>(1.0 / std::sqrt(moments[c].squares / moments[c].count + epsilon));
  }
}

// `residual`, `weight`, `bias` and `zero_point` may be null.
void normalized_forward(const float* x, const float* residual, float* y, const float* mean, const float* inverse,
                        const float* weight, const float* bias, const float* scale, const float* zero_point,
                        int64_t scale_step, int64_t outer, int64_t channels, int64_t inner, float low, float high,
                        float ceiling, int threads) {
  const Range range(low, high, ceiling);
  const Layer layer(channels, mean, inverse, weight, bias, scale, zero_point, scale_step);
  const bool parallel = outer * channels * inner >= kParallel;
  const auto run = [=](const Part& part, int64_t place, int64_t length) {
    const Place p(range.rectified(part.normalized(x, residual, place, length)), part.grid, range);
    store(y + place, p.value(part.grid), length);
  };
  if (inner == 1) {
#pragma omp parallel for if (parallel) num_threads(threads)
    for (int64_t row = 0; row < outer; ++row) {
      for_vectors(channels, [&](int64_t first, int64_t length) {
        run(Part(layer, {first, length}), row * channels + first, length);
      });
    }
    return;
  }
#pragma omp parallel for if (parallel) num_threads(threads)
  for (int64_t row = 0; row < outer * channels; ++row) {
    const Part part(layer, {row % channels, 1});
    for_vectors(inner, [&](int64_t first, int64_t length) { run(part, row * inner + first, length); });
  }
}

// `dz` gets the gradient to the residual; it may be `dx`. `dscale` gets one number for each scale, multiplied by
// `factor`.
void normalized_backward(const float* x, const float* residual, const float* dy, float* dx, float* dz,
                         const float* mean, const float* inverse, const float* weight, const float* bias,
                         const float* scale, const float* zero_point, int64_t scale_step, float* dweight, float* dbias,
                         float* dscale, float factor, int64_t outer, int64_t channels, int64_t inner, float low,
                         float high, float ceiling, int threads) {
  const Range range(low, high, ceiling);
  const Layer layer(channels, mean, inverse, weight, bias, scale, zero_point, scale_step);
  const bool parallel = outer * channels * inner >= kParallel;
  const int64_t height = inner == 1 ? rows_in_block(channels) : 1;
  const int64_t blocks = inner == 1 ? (outer + height - 1) / height : outer;
  // Gradient, product, slope of each channel in each block.
  std::vector<float> parts(3 * blocks * channels);
#pragma omp parallel for if (parallel) num_threads(threads)
  for (int64_t block = 0; block < blocks; ++block) {
    float* of_block = parts.data() + 3 * block * channels;
    if (inner == 1) {
      for_vectors(channels, [&](int64_t first, int64_t length) {
        const Part part(layer, {first, length});
        Sums sums;
        for (int64_t row = block * height; row < std::min(outer, (block + 1) * height); ++row) {
          backward_vector(x, residual, dy, dz, row * channels + first, length, part, range, sums);
        }
        store(of_block + first, sums.gradient, length);
        store(of_block + channels + first, sums.product, length);
        store(of_block + 2 * channels + first, sums.slope, length);
      });
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const Part part(layer, {c, 1});
      for (int64_t piece = 0; piece < blocks_of(inner); ++piece) {
        const int64_t start = (block * channels + c) * inner + piece * kBlock;
        Sums sums;
        for_vectors(length_of(inner, piece), [&](int64_t first, int64_t length) {
          backward_vector(x, residual, dy, dz, start + first, length, part, range, sums);
        });
        of_block[c] += sum_of(sums.gradient);
        of_block[channels + c] += sum_of(sums.product);
        of_block[2 * channels + c] += sum_of(sums.slope);
      }
    }
  }
  std::vector<double> totals(3 * channels);
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t place = 0; place < 3 * channels; ++place) totals[place] += parts[3 * block * channels + place];
  const double *gradients = totals.data(), *products = gradients + channels, *slopes = products + channels;
  for (int64_t c = 0; c < channels; ++c) {
    dweight[c] = static_cast<float>(products[c] * inverse[c]);
    dbias[c] = static_cast<float>(gradients[c]);
  }
  if (scale_step == 0) {
    dscale[0] = static_cast<float>(std::accumulate(slopes, slopes + channels, 0.0) * factor);
  } else {
    for (int64_t c = 0; c < channels; ++c) dscale[c] = static_cast<float>(slopes[c] * factor);
  }
  const ToInput to_input(layer, gradients, products, static_cast<double>(outer) * inner);
  const auto run = [&](Channels which, int64_t start, int64_t count) {
    const Vector of_mean = which.of(mean), alpha = which.of(layer.alpha.data()),
                 by_distance = which.of(to_input.by_distance.data()), constant = which.of(to_input.constant.data());
    for_vectors(count, [=](int64_t first, int64_t length) {
      to_input_vector(x, dz, dx, start + first, length, of_mean, alpha, by_distance, constant);
    });
  };
#pragma omp parallel for if (parallel) num_threads(threads)
  for (int64_t row = 0; row < (inner == 1 ? outer : outer * channels); ++row) {
    if (inner == 1) {
      for_vectors(channels, [&](int64_t first, int64_t length) {
        run({first, length}, row * channels + first, length);
      });
    } else {
      run({row % channels, 1}, row * inner, inner);
    }
  }
}
}

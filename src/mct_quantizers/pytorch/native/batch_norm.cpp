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

// Of the first `length` elements of rows, at most kBlock in all, about a number near their mean: small numbers are
// summed.
inline void add_runs(Moments& moments, const float* x, int64_t rows, int64_t stride, int64_t length) {
  const double count = static_cast<double>(rows * length);
  Vector sum{};
  for (int64_t row = 0; row < rows; ++row)
    for_vectors(length, [&](int64_t first, int64_t lanes) INLINE { sum += load(x + row * stride + first, lanes); });
  const float near = sum_of(sum) / static_cast<float>(count);
  float nears[kLanes];
  store(nears, all(near));
  Vector offsets{}, squares{};
  for (int64_t row = 0; row < rows; ++row) {
    for_vectors(length, [&](int64_t first, int64_t lanes) INLINE {
      // What lies behind the end adds nothing: 0 - 0.
      const Vector offset = load(x + row * stride + first, lanes) - load(nears, lanes);
      offsets += offset;
      squares += offset * offset;
    });
  }
  const double mean_offset = static_cast<double>(sum_of(offsets)) / count;
  moments.add(count, near + mean_offset, sum_of(squares) - count * mean_offset * mean_offset);
}

// Likewise of a block of rows, for each channel of a vector.
inline void add_rows(Moments* moments, const float* x, const Rows& rows, int64_t channels) {
  const auto [first, count] = rows.channels;
  const double height = static_cast<double>(rows.end - rows.first);
  Vector sum{}, offsets{}, squares{};
  for (int64_t row = rows.first; row < rows.end; ++row) sum += load(x + row * channels + first, count);
  const Vector near = sum / static_cast<float>(height);
  for (int64_t row = rows.first; row < rows.end; ++row) {
    const Vector offset = load(x + row * channels + first, count) - near;
    offsets += offset;
    squares += offset * offset;
  }
  for (int64_t l = 0; l < count; ++l) {
    const double mean_offset = static_cast<double>(offsets[l]) / height;
    moments[first + l].add(height, near[l] + mean_offset, squares[l] - height * mean_offset * mean_offset);
  }
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

// The same for the channels of a vector.
struct ToInputPart {
  Vector mean, alpha, by_distance, constant;

  ToInputPart(const Layer& layer, const ToInput& to_input, Channels channels)
      : mean(channels.of(layer.mean)),
        alpha(channels.of(layer.alpha.data())),
        by_distance(channels.of(to_input.by_distance.data())),
        constant(channels.of(to_input.constant.data())) {}

  void write(const float* x, const float* dz, float* dx, int64_t place, int64_t length) const {
    const Vector distance = load(x + place, length) - mean;
    store(dx + place, alpha * load(dz + place, length) + (by_distance * distance + constant), length);
  }
};

}  // namespace

extern "C" {

// Mean, variance over n - 1, and 1 / sqrt(variance over n + epsilon) of each channel.
void batch_statistics(const float* x, float* mean, float* variance, float* inverse, float epsilon, int64_t outer,
                      int64_t channels, int64_t inner, int threads) {
  std::vector<Moments> moments(channels);
  if (inner == 1) {
    const int64_t blocks = row_blocks_of(outer, channels);
    std::vector<Moments> of_blocks(blocks * channels);
    Moments* const results = of_blocks.data();
    for_row_blocks(outer, channels, threads, [=](const Rows& rows) INLINE {
      add_rows(results + rows.index * channels, x, rows, channels);
    });
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t c = 0; c < channels; ++c) {
        const Moments& of_block = of_blocks[block * channels + c];
        moments[c].add(of_block.count, of_block.mean, of_block.squares);
      }
    }
  } else {
    const int64_t blocks = blocks_of(inner), height = std::max<int64_t>(1, kBlock / inner), stride = channels * inner;
#pragma omp parallel for if (outer * channels * inner >= kParallel) num_threads(threads)
    for (int64_t c = 0; c < channels; ++c) {
      Moments of_channel;
      for (int64_t row = 0; row < outer; row += height)
        for (int64_t block = 0; block < blocks; ++block)
          add_runs(of_channel, x + (row * channels + c) * inner + block * kBlock, std::min(height, outer - row), stride,
                   length_of(inner, block));
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
  const Layer of_channels(channels, mean, inverse, weight, bias, scale, zero_point, scale_step);
  const Layer* const layer = &of_channels;
  const auto run = [=](const Part& part, int64_t place, int64_t length) INLINE {
    const Place p(range.rectified(part.normalized(x, residual, place, length)), part.grid, range);
    store(y + place, p.value(part.grid), length);
  };
  if (inner == 1) {
    for_row_blocks(outer, channels, threads, [=](const Rows& rows) INLINE {
      const Part part(*layer, rows.channels);
      for (int64_t row = rows.first; row < rows.end; ++row)
        run(part, row * channels + rows.channels.first, rows.channels.count);
    });
    return;
  }
  for_blocks(outer, channels, inner, threads, [=](const Block& block) INLINE {
    const Part part(*layer, {block.channel, 1});
    for_vectors(block.length, [&](int64_t first, int64_t length) INLINE { run(part, block.start + first, length); });
  });
}

// `dz` gets the gradient to the residual; it may be `dx`. `dscale` gets one number for each scale, multiplied by
// `factor`.
void normalized_backward(const float* x, const float* residual, const float* dy, float* dx, float* dz,
                         const float* mean, const float* inverse, const float* weight, const float* bias,
                         const float* scale, const float* zero_point, int64_t scale_step, float* dweight, float* dbias,
                         float* dscale, float factor, int64_t outer, int64_t channels, int64_t inner, float low,
                         float high, float ceiling, int threads) {
  const Range range(low, high, ceiling);
  const Layer of_channels(channels, mean, inverse, weight, bias, scale, zero_point, scale_step);
  const Layer* const layer = &of_channels;
  const auto run = [=](const Part& part, int64_t place, int64_t length, Sums& sums) INLINE {
    backward_vector(x, residual, dy, dz, place, length, part, range, sums);
  };
  // Gradient, product and slope of each channel: in float32 for each block, in float64 over all of them.
  const int64_t blocks = inner == 1 ? row_blocks_of(outer, channels) : outer, in_run = inner == 1 ? 1 : blocks_of(inner);
  const int64_t size = blocks * channels * in_run;
  std::vector<float> of_blocks(3 * size);
  float* const parts = of_blocks.data();
  if (inner == 1) {
    for_row_blocks(outer, channels, threads, [=](const Rows& rows) INLINE {
      const auto [first, count] = rows.channels;
      const Part part(*layer, rows.channels);
      Sums sums;
      for (int64_t row = rows.first; row < rows.end; ++row) run(part, row * channels + first, count, sums);
      float* const to = parts + rows.index * channels + first;
      store(to, sums.gradient, count);
      store(to + size, sums.product, count);
      store(to + 2 * size, sums.slope, count);
    });
  } else {
    for_blocks(outer, channels, inner, threads, [=](const Block& block) INLINE {
      const Part part(*layer, {block.channel, 1});
      Sums sums;
      for_vectors(block.length, [&](int64_t first, int64_t length) INLINE {
        run(part, block.start + first, length, sums);
      });
      float* const to = parts + block.index;
      to[0] = sum_of(sums.gradient);
      to[size] = sum_of(sums.product);
      to[2 * size] = sum_of(sums.slope);
    });
  }
  std::vector<double> totals(3 * channels);
  const float* of_block = parts;
  for (int64_t sum = 0; sum < 3; ++sum)
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t channel = 0; channel < channels; ++channel)
        for (int64_t part = 0; part < in_run; ++part) totals[sum * channels + channel] += *of_block++;
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
  const ToInput to_input(of_channels, gradients, products, static_cast<double>(outer) * inner);
  const ToInput* const factors = &to_input;
  if (inner == 1) {
    for_row_blocks(outer, channels, threads, [=](const Rows& rows) INLINE {
      const ToInputPart part(*layer, *factors, rows.channels);
      for (int64_t row = rows.first; row < rows.end; ++row)
        part.write(x, dz, dx, row * channels + rows.channels.first, rows.channels.count);
    });
    return;
  }
  for_blocks(outer, channels, inner, threads, [=](const Block& block) INLINE {
    const ToInputPart part(*layer, *factors, {block.channel, 1});
    for_vectors(block.length, [&](int64_t first, int64_t length) INLINE {
      part.write(x, dz, dx, block.start + first, length);
    });
  });
}
}

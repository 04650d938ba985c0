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

// Likewise of rows of neighbouring channels, for each channel.
inline void add_rows(Moments* moments, const float* x, const Piece& piece) {
  const double rows = static_cast<double>(piece.rows);
  Vector sum{}, offsets{}, squares{};
  piece.for_elements([&](int64_t place, int64_t count) INLINE { sum += load(x + place, count); });
  const Vector near = sum / static_cast<float>(rows);
  piece.for_elements([&](int64_t place, int64_t count) INLINE {
    const Vector offset = load(x + place, count) - near;
    offsets += offset;
    squares += offset * offset;
  });
  for (int64_t l = 0; l < piece.length; ++l) {
    const double mean_offset = static_cast<double>(offsets[l]) / rows;
    moments[l].add(rows, near[l] + mean_offset, squares[l] - rows * mean_offset * mean_offset);
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

// The gradient to x: factor · inverse · (dz - its mean - x̂ · mean of dz · x̂) for x̂ = (x - mean) · inverse.
struct ToInput {
  std::vector<float> by_distance, constant;

  ToInput(const Layer& layer, const std::vector<double>& gradients, const std::vector<double>& products, double count)
      : by_distance(layer.channels), constant(layer.channels) {
    for (int64_t c = 0; c < layer.channels; ++c) {
      const double inverse = layer.inverse[c];
      by_distance[c] = static_cast<float>(-layer.alpha[c] * inverse * inverse * products[c] / count);
      constant[c] = static_cast<float>(-layer.alpha[c] * gradients[c] / count);
    }
  }
};

}  // namespace

extern "C" {

// Mean, variance over n - 1, and 1 / sqrt(variance over n + epsilon) of each channel.
void batch_statistics(const float* x, float* mean, float* variance, float* inverse, float epsilon, int64_t outer,
                      int64_t channels, int64_t inner, int threads) {
  const Layout layout{outer, channels, inner};
  std::vector<Moments> moments(channels);
  if (inner == 1) {
    std::vector<Moments> of_pieces(channels * layout.in_channel());
    Moments* const results = of_pieces.data();
    layout.for_pieces(threads, [=](const Piece& piece) INLINE { add_rows(results + piece.index, x, piece); });
    for (size_t place = 0; place < of_pieces.size(); ++place) {
      const Moments& of_piece = of_pieces[place];
      moments[place % channels].add(of_piece.count, of_piece.mean, of_piece.squares);
    }
  } else {
    const int64_t blocks = blocks_of(inner), height = std::max<int64_t>(1, kBlock / inner), stride = channels * inner;
#pragma omp parallel for if (layout.is_parallel()) num_threads(threads)
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
  Layout{outer, channels, inner}.for_pieces(threads, [=](const Piece& piece) INLINE {
    const Part part(*layer, piece.channels);
    piece.for_elements([&](int64_t place, int64_t count) INLINE {
      const Place p(range.rectified(part.normalized(x, residual, place, count)), part.grid, range);
      store(y + place, p.value(part.grid), count);
    });
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
  const Layout layout{outer, channels, inner};
  // In float32 for each piece, in float64 over all of them.
  const int64_t size = channels * layout.in_channel();
  std::vector<float> of_pieces(3 * size);
  float* const sums = of_pieces.data();
  layout.for_pieces(threads, [=](const Piece& piece) INLINE {
    const Part part(*layer, piece.channels);
    Vector of_gradient{}, of_product{}, of_slope{};
    piece.for_elements([&](int64_t place, int64_t count) INLINE {
      const Vector source = load(x + place, count), gradient = load(dy + place, count);
      const Vector z = part.normalized(x, residual, place, count);
      const Place p(range.rectified(z), part.grid, range);
      const Vector passed = masked(gradient, p.inside() & range.passes(z));
      store(dz + place, passed, count);
      of_gradient += passed;
      of_product += passed * (source - part.mean);
      of_slope += p.slope(part.grid) * gradient;
    });
    piece.put(of_gradient, sums);
    piece.put(of_product, sums + size);
    piece.put(of_slope, sums + 2 * size);
  });
  const std::vector<double> gradients = layout.totals(sums), products = layout.totals(sums + size),
                            slopes = layout.totals(sums + 2 * size);
  for (int64_t c = 0; c < channels; ++c) {
    dweight[c] = static_cast<float>(products[c] * inverse[c]);
    dbias[c] = static_cast<float>(gradients[c]);
  }
  if (scale_step == 0) {
    dscale[0] = static_cast<float>(std::accumulate(slopes.begin(), slopes.end(), 0.0) * factor);
  } else {
    for (int64_t c = 0; c < channels; ++c) dscale[c] = static_cast<float>(slopes[c] * factor);
  }
  const ToInput to_input(of_channels, gradients, products, static_cast<double>(outer) * inner);
  const ToInput* const factors = &to_input;
  layout.for_pieces(threads, [=](const Piece& piece) INLINE {
    const Vector of_mean = piece.channels.of(mean), alpha = piece.channels.of(layer->alpha.data()),
                 by_distance = piece.channels.of(factors->by_distance.data()),
                 constant = piece.channels.of(factors->constant.data());
    piece.for_elements([&](int64_t place, int64_t count) INLINE {
      const Vector distance = load(x + place, count) - of_mean;
      store(dx + place, alpha * load(dz + place, count) + (by_distance * distance + constant), count);
    });
  });
}
}

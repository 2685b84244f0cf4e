// How the kernels of a norm with Mish share out work, and what they are launched with. Knows
// nothing of CUDA: a compiler for the host reads it too.
#pragma once

#include "cuda/parameters.h"

namespace mish::cuda {

enum class NormKernel { kMoments, kStatistics, kApply, kReduce, kGradients, kFinish };

/// Threads of a block.
inline constexpr int kNormThreads = 128;

/// The packs that a thread takes at most, all loads before all maths. Those of moments stay in
/// registers for the second pass. Of single elements, as many as need about as many registers.
template <NormKernel kernel, int N>
constexpr int norm_packs() {
  if (kernel == NormKernel::kMoments) return N > 1 ? 8 : 16;
  if (kernel == NormKernel::kFinish) return N > 1 ? 2 : 8;
  return N > 1 ? 4 : 8;
}
template <NormKernel kernel, int N>
inline constexpr int kNormPacks = norm_packs<kernel, N>();

/// The type of statistics and parameters, in which elements are computed.
template <class T>
struct NumberOf {
  using Number = float;
};
template <>
struct NumberOf<double> {
  using Number = double;
};
template <class T>
using Number = typename NumberOf<T>::Number;

/// Divides numbers of up to 63 bits; those below 2^31, if all are, without a division.
struct Division {
  int64_t by;
  Divisor narrow;
  bool is_narrow;

  static Division of(int64_t by, int64_t most) {
    const bool is_narrow = by < int64_t{1} << 31 && most < int64_t{1} << 31;
    return {by, Divisor::of(is_narrow ? static_cast<uint32_t>(by) : 1), is_narrow};
  }
};

/// How sets of elements are shared out. A set has `packs` packs; as many as row.by lie one behind
/// the other, then comes a gap of `gap` packs. So many `lanes` take a set: adjacent threads, their
/// number a power of two. Each takes packs `lanes` apart. Of a large set, all threads of a block
/// take one of the `parts`. Hangs on sizes alone, and so does the order of sums.
struct Cut {
  int64_t sets, set_step, packs, gap;
  Division row;
  Divisor parts;
  uint32_t lanes, log_lanes;
  int64_t packs_of_part;

  int64_t blocks() const {
    const int64_t sets_of_block = kNormThreads / lanes;
    return (sets + sets_of_block - 1) / sets_of_block * parts.divisor;
  }
};

/// The distances of a part's elements from a number near their mean: their sum, and of their
/// squares.
struct Distances {
  double centre, sum, squares;
};

/// Of a channel's part: the sums of g and of g (x - mean as a number).
struct Sums {
  double g, gu;
};

/// The numbers that make z of x: of each set, its mean as a number, 1 / sqrt(variance + eps), and
/// what the first leaves of the mean; of each channel, weight and bias, or null for ones and zeros.
template <class T>
struct Affines {
  const Number<T>*mean, *rstd, *rest, *weight, *bias;
  /// Of a row, which is a channel of a sample. With `groups`, as many channels make up a set as
  /// `of_set` divides by; else a set is a channel.
  Division channels, of_set;
  bool groups;
};

/// What the distances of parts become. The last two outputs may be null.
template <class T>
struct Statistics {
  Number<T>*mean, *rstd, *rest, *running_mean, *running_variance;
  double eps, momentum;
  /// If null, the running statistics are the ones.
  const Distances* parts;
  int64_t parts_of_set, elements_of_part, elements;
  /// How lanes share the parts of a set.
  Cut sets;
};

/// What the sums of parts become: of each set, p and q; of each channel, gradients. Any output may
/// be null.
template <class T>
struct Gradients {
  Number<T>*p, *q, *dweight, *dbias;
  const Sums* parts;
  /// Of a channel, or with groups, of a channel in each sample.
  Division parts_of_channel;
  int64_t channels_of_set;
  double elements_of_set;
  /// How lanes share the sums of a set, and those of a channel, whose blocks come behind.
  Cut sets, channels;
};

}  // namespace mish::cuda

// BatchNorm and GroupNorm out of the four kernels: how elements are shared out, and how sums
// combine. Bits hang on the shape alone, not on the threads.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/table.h"
#include "norm_kernels.h"

namespace mish::cpu {
namespace {

/// Elements that a kernel is given at most of one set of rows.
constexpr int64_t kPart = 32768;

/// Sets of rows that are alike, `set_step` elements from one to the next. Each has parts, of one
/// row if rows are long, else of several rows.
struct Sets {
  int64_t count, set_step;
  Rows rows;

  int64_t parts_of_row() const { return (rows.length + kPart - 1) / kPart; }
  int64_t rows_of_part() const { return std::max<int64_t>(1, kPart / rows.length); }
  int64_t parts() const {
    return parts_of_row() * ((rows.count + rows_of_part() - 1) / rows_of_part());
  }
  /// Its first element, counted from the first of the set.
  int64_t part_begin(int64_t part) const {
    return part / parts_of_row() * rows_of_part() * rows.step + part % parts_of_row() * kPart;
  }
  Rows part(int64_t part) const {
    const int64_t row = part / parts_of_row() * rows_of_part();
    const int64_t column = part % parts_of_row() * kPart;
    const int64_t end = part + 1 < parts() ? part_begin(part + 1) : set_step;
    return {std::min(rows_of_part(), rows.count - row), std::min(kPart, rows.length - column),
            rows.step, end - part_begin(part)};
  }
};

/// Calls first(set, i, memory) for all sets and i below `firsts`, between(set), and
/// second(set, i, memory) likewise, so that of one set nothing begins before the step before it has
/// ended. Where a set is the work of one thread, both get the same `bytes` of memory, else null.
template <class First, class Between, class Second>
void in_steps(const Parallel& parallel, int64_t sets, int64_t elements, int64_t bytes,
              int64_t firsts, const First& first, const Between& between, int64_t seconds,
              const Second& second) {
  if (sets >= 4 * parallel.threads || parallel.threads == 1) {
    // Each set by one thread, whose caches have it still when its second step begins. Of small sets
    // several at a time, since a step waits for the one before it, but not for those of others.
    const int64_t some = std::max<int64_t>(1, 2048 / elements);
    parallel.ranges((sets + some - 1) / some, some * elements, [&](int64_t from, int64_t to) {
      std::vector<char> memory(some * bytes);
      for (int64_t begin = from * some; begin < std::min(to * some, sets); begin += some) {
        const int64_t end = std::min(begin + some, sets);
        const auto of = [&](int64_t set) {
          return bytes > 0 ? &memory[(set - begin) * bytes] : nullptr;
        };
        for (int64_t set = begin; set < end; ++set) {
          for (int64_t i = 0; i < firsts; ++i) first(set, i, of(set));
        }
        for (int64_t set = begin; set < end; ++set) between(set);
        for (int64_t set = begin; set < end; ++set) {
          for (int64_t i = 0; i < seconds; ++i) second(set, i, of(set));
        }
      }
    });
    return;
  }
  if (firsts > 0) {
    parallel(sets * firsts, elements / firsts,
             [&](int64_t i) { first(i / firsts, i % firsts, nullptr); });
  }
  for (int64_t set = 0; set < sets; ++set) between(set);
  if (seconds > 0) {
    parallel(sets * seconds, elements / seconds,
             [&](int64_t i) { second(i / seconds, i % seconds, nullptr); });
  }
}

/// Where the numbers of a NormMish lie, and which belong together.
struct Plan {
  const NormMish& norm;
  /// In the order of memory: each sample by itself, or else each channel of a BatchNorm.
  const bool by_sample;
  const NormKernels& kernels = norm_kernels(norm.dtype, norm.isa);
  const NormShape& shape = norm.shape;
  const int64_t size_of = norm.dtype == DType::kDouble ? 8 : norm.dtype == DType::kFloat ? 4 : 2;
  /// The channels of each of `sets`.
  const int64_t channels = by_sample ? shape.channels / std::max<int64_t>(shape.groups, 1) : 1;
  /// What is normalised together, of a group as one row; with statistics that are given, any.
  const Sets sets = by_sample ? Sets{shape.batch * (shape.channels / channels),
                                     channels * shape.size,
                                     {1, channels * shape.size, 0}}
                              : Sets{shape.channels,
                                     shape.size,
                                     {shape.batch, shape.size, shape.channels * shape.size}};
  /// What has a weight and sums of its own: `channels` for each of `sets`.
  const Sets rows =
      by_sample ? Sets{shape.batch * shape.channels, shape.size, {1, shape.size, 0}} : sets;
  /// In how many pieces kernels get the rows of a set: parts of one channel, or several channels.
  const int64_t parts = rows.parts();
  const int64_t pieces = parts > 1 ? channels * parts : (channels + kMostApart - 1) / kMostApart;

  /// All rows of a set, where it is one piece.
  Rows rows_of_set() const {
    return by_sample ? Rows{channels, shape.size, shape.size} : rows.rows;
  }
  /// Of a set.
  int64_t elements() const { return sets.rows.count * sets.rows.length; }
  double centre(int64_t set) const {
    const double mean = norm.mean[set];
    return norm.dtype == DType::kDouble ? mean : static_cast<float>(mean);
  }
  /// Writes the statistics of a set.
  void keep(int64_t set, const Moments& moments, double eps) const {
    const double variance = moments.squares / static_cast<double>(elements());
    norm.mean[set] = moments.centre + moments.offset;
    norm.rstd[set] = 1 / std::sqrt(variance + eps);
    if (norm.variance) norm.variance[set] = variance;
  }
  /// The first channel of a set.
  int64_t channel(int64_t set) const { return set * channels % shape.channels; }
  const std::vector<double> ones = std::vector<double>(norm.weight ? 0 : shape.channels, 1);
  const std::vector<double> zeros = std::vector<double>(norm.bias ? 0 : shape.channels, 0);
  const double* const weight = norm.weight ? norm.weight : ones.data();
  const double* const bias = norm.bias ? norm.bias : zeros.data();

  /// Calls work(offset in bytes, rows, affines, whether each row has its own, index of the first
  /// sums).
  template <class Work>
  void piece(int64_t set, int64_t index, const Work& work) const {
    const int64_t skipped = parts > 1 ? index / parts : index * kMostApart;
    const int64_t count = parts > 1 ? 1 : std::min(kMostApart, channels - skipped);
    const int64_t first = set * channels + skipped, c = channel(set) + skipped;
    const int64_t part = parts > 1 ? index % parts : 0;
    Affine affines[kMostApart];
    const auto affine = [&](int64_t of, int64_t channel) -> Affine {
      const double middle = centre(of), scale = weight[channel] * norm.rstd[of];
      return {middle, scale, bias[channel] - scale * (norm.mean[of] - middle)};
    };
    if (norm.given) {
      for (int64_t j = 0; j < count; ++j) affines[j] = affine(c + j, c + j);
    } else {
      for (int64_t j = 0; j < count; ++j) affines[j] = affine(set, c + j);
    }
    Rows some = rows.part(part);
    if (by_sample && parts == 1) {
      some = {count, some.length, rows.set_step, count * rows.set_step};
    }
    work((first * rows.set_step + rows.part_begin(part)) * size_of, some, affines, by_sample,
         first * parts + part);
  }
};

template <class T>
T* shifted(T* memory, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return memory ? static_cast<Byte*>(memory) + bytes : nullptr;
}

/// A GroupNorm of small groups, or of rows that would fill few vectors each: by the kernels that
/// take a group as one row.
struct WholeGroups {
  const Plan plan;
  const NormMish& norm = plan.norm;
  const NormShape& shape = norm.shape;
  const NormKernels& kernels = plan.kernels;
  const int64_t channels = plan.channels, length = channels * shape.size;
  const int64_t stretched = kernels.stretched_size(length);
  /// Samples whose gradients for weight and bias are added up in the type of a vector.
  const int64_t run = std::clamp<int64_t>(shape.sets() / 8, 1, 16);
  const int64_t runs = (shape.batch + run - 1) / run;
  std::vector<char> weight = std::vector<char>(shape.groups * stretched);
  std::vector<char> bias = weight;

  explicit WholeGroups(const NormMish& of) : plan{of, true} {
    for (int64_t group = 0; group < shape.groups; ++group) {
      kernels.stretch(&weight[group * stretched], plan.weight + group * channels, channels,
                      shape.size);
      kernels.stretch(&bias[group * stretched], plan.bias + group * channels, channels, shape.size);
    }
  }
  static bool fit(const NormShape& shape) {
    if (shape.groups == 0) return false;
    const int64_t length = shape.channels / shape.groups * shape.size;
    return length <= 1024 || (shape.size < 64 && length <= kPart);
  }

  Affine affine(int64_t set) const {
    const double centre = plan.centre(set), r = norm.rstd[set];
    return {centre, r, -r * (norm.mean[set] - centre)};
  }
  int64_t bytes(int64_t set) const { return set * length * plan.size_of; }

  void forward(void* y, const void* x, double eps) const {
    std::vector<Moments> moments(shape.sets());
    const Rows group = {1, length, 0};
    const auto measure = [&](int64_t set, int64_t, void*) {
      kernels.moments(moments[set], shifted(x, bytes(set)), group);
    };
    const auto keep = [&](int64_t set) { plan.keep(set, moments[set], eps); };
    const auto write = [&](int64_t set, int64_t, void*) {
      const int64_t place = set % shape.groups * stretched, at = bytes(set);
      kernels.apply_group(shifted(y, at), shifted(x, at), length, &weight[place], &bias[place],
                          affine(set));
    };
    in_steps(norm.parallel, shape.sets(), length, 0, 1, measure, keep, 1, write);
  }
  void backward(void* dx, double* dweight, double* dbias, const void* dy, const void* x) const {
    std::vector<double> of_weight(runs * shape.channels), of_bias(of_weight.size());
    norm.parallel(runs * shape.groups, run * length, [&](int64_t index) {
      const int64_t group = index % shape.groups, first = index / shape.groups * run;
      const char *const w = &weight[group * stretched], *const b = &bias[group * stretched];
      std::vector<char> g(stretched), sum_weight(stretched), sum_bias(stretched);
      for (int64_t n = first; n < std::min(first + run, shape.batch); ++n) {
        const int64_t set = n * shape.groups + group, at = bytes(set);
        const void* const from = shifted(x, at);
        const Affine normal = affine(set);
        double sums[2] = {0, 0};
        kernels.reduce_group(g.data(), shifted(dy, at), from, length, w, b, normal,
                             sum_weight.data(), sum_bias.data(), sums, shape.groups * length);
        if (!dx) continue;
        const auto count = static_cast<double>(length);
        kernels.finish_group(shifted(dx, at), g.data(), from, length, normal, sums[0] / count,
                             sums[1] / count, shape.groups * length);
      }
      const int64_t c = index * channels;
      kernels.gather(&of_weight[c], sum_weight.data(), channels, shape.size);
      kernels.gather(&of_bias[c], sum_bias.data(), channels, shape.size);
    });
    for (int64_t c = 0; c < shape.channels; ++c) {
      if (dweight) dweight[c] = 0;
      if (dbias) dbias[c] = 0;
      for (int64_t part = c; part < runs * shape.channels; part += shape.channels) {
        if (dweight) dweight[c] += of_weight[part];
        if (dbias) dbias[c] += of_bias[part];
      }
    }
  }
};

}  // namespace

void NormMish::forward(void* y, const void* x, double eps) const {
  if (WholeGroups::fit(shape)) return WholeGroups(*this).forward(y, x, eps);
  const Plan plan = {*this, shape.groups > 0 || given};
  const int64_t parts = plan.sets.parts();
  std::vector<Moments> moments(given ? 0 : plan.sets.count * parts);
  const auto measure = [&](int64_t set, int64_t part, void*) {
    const int64_t at = set * plan.sets.set_step + plan.sets.part_begin(part);
    plan.kernels.moments(moments[set * parts + part], shifted(x, at * plan.size_of),
                         plan.sets.part(part));
  };
  const auto combine = [&](int64_t set) {
    if (given) return;
    Moments all = moments[set * parts];
    auto count = static_cast<double>(plan.sets.part(0).count * plan.sets.part(0).length);
    for (int64_t part = 1; part < parts; ++part) {
      const Rows rows = plan.sets.part(part);
      all = combined(all, count, moments[set * parts + part], rows.count * rows.length);
      count += static_cast<double>(rows.count * rows.length);
    }
    plan.keep(set, all, eps);
  };
  // The next set is measured when this one is written.
  const int64_t then = given || plan.elements() > kPart ? 0 : plan.sets.set_step;
  const auto write = [&](int64_t set, int64_t index, void*) {
    plan.piece(set, index, [&](int64_t at, Rows rows, const Affine* affines, bool apart, int64_t) {
      plan.kernels.apply(shifted(y, at), shifted(x, at), rows, affines, apart, then);
    });
  };
  in_steps(parallel, plan.sets.count, plan.elements(), 0, given ? 0 : parts, measure, combine,
           plan.pieces, write);
}

void NormMish::backward(void* dx, double* dweight, double* dbias, const void* dy,
                        const void* x) const {
  if (WholeGroups::fit(shape)) return WholeGroups(*this).backward(dx, dweight, dbias, dy, x);
  const bool reduces = !given || dweight || dbias;
  const Plan plan = {*this, shape.groups > 0 || !reduces};
  // What would be rounded to 16 bits is left as it is where a cache holds it, or computed again.
  const bool keeps = reduces && plan.size_of > 2;
  std::vector<double> of_g(reduces ? plan.rows.count * plan.parts : 0), of_gu(of_g.size());
  struct Line {
    double p, q;
  };
  std::vector<Line> lines(plan.sets.count);
  const auto reduce = [&](int64_t set, int64_t index, void* numbers) {
    plan.piece(
        set, index, [&](int64_t at, Rows rows, const Affine* affines, bool apart, int64_t first) {
          plan.kernels.reduce(keeps ? shifted(dx, at) : nullptr, numbers, shifted(dy, at),
                              shifted(x, at), rows, affines, apart, {&of_g[first], &of_gu[first]});
        });
  };
  const auto combine = [&](int64_t set) {
    if (!reduces) return;
    const double r = rstd[set], rest = mean[set] - plan.centre(set);
    double a = 0, b = 0;
    const int64_t c = plan.channel(set);
    double* const g = &of_g[set * plan.channels * plan.parts];
    double* const gu = &of_gu[set * plan.channels * plan.parts];
    for (int64_t j = 0; j < plan.channels; ++j) {
      // Of all parts, to the place of the first channels' first.
      g[j] = std::accumulate(g + j * plan.parts, g + (j + 1) * plan.parts, 0.0);
      gu[j] = std::accumulate(gu + j * plan.parts, gu + (j + 1) * plan.parts, 0.0) - rest * g[j];
      a += plan.weight[c + j] * g[j];
      b += plan.weight[c + j] * gu[j];
      gu[j] *= r;
    }
    if (given) return;
    const auto count = static_cast<double>(plan.elements());
    const double p = -r * r * r * b / count;
    lines[set] = {p, -r * a / count - p * rest};
  };
  const auto finish = [&](int64_t set, int64_t index, const void* numbers) {
    plan.piece(set, index, [&](int64_t at, Rows rows, const Affine* affines, bool apart, int64_t) {
      plan.kernels.finish(shifted(dx, at), shifted(dy, at), keeps, numbers, shifted(x, at), rows,
                          affines, apart, lines[set].p, lines[set].q);
    });
  };
  const bool left = reduces && dx && !keeps && plan.pieces == 1 && plan.elements() <= kPart;
  in_steps(parallel, plan.sets.count, plan.elements(),
           left ? plan.kernels.numbers_size(plan.rows_of_set()) : 0, reduces ? plan.pieces : 0,
           reduce, combine, dx ? plan.pieces : 0, finish);
  for (double* const gradient : {dweight, dbias}) {
    if (gradient) std::fill_n(gradient, shape.channels, 0);
  }
  const int64_t samples = reduces ? plan.rows.count / shape.channels : 0;
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t set = 0; set < shape.channels / plan.channels; ++set) {
      const int64_t from = (n * shape.channels + set * plan.channels) * plan.parts;
      const int64_t to = set * plan.channels;
      for (int64_t j = 0; j < plan.channels; ++j) {
        if (dweight) dweight[to + j] += of_gu[from + j];
        if (dbias) dbias[to + j] += of_g[from + j];
      }
    }
  }
}

const NormKernels& norm_kernels(DType dtype, [[maybe_unused]] Isa isa) {
  const NormTable* table = &baseline_norm_table;
#if MISH_X86_TARGETS
  if (isa == Isa::kAvx512) table = &avx512_norm_table;
  if (isa == Isa::kAvx2) table = &avx2_norm_table;
#endif
  return (*table)[static_cast<int>(dtype)];
}

}  // namespace mish::cpu

// The CUDA kernels of norms with Mish on the host, where host_cuda/ stands in for CUDA: values and
// gradients against textbook maths in long double, under every error that the approximate
// instructions may have; the same bits whatever the order of threads, and whatever the batch where
// samples are normalised by themselves.
#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "cuda/norm_kernels.cu"
#include "norm_reference.h"

namespace {

using mish::DType;
using mish::NormShape;
using mish::Op;
using mish::cuda::NormMish;
using namespace mish::test;
namespace ptx = mish::cuda::ptx;

void fail(const Case& c, const char* what) {
  if (++failures <= 50) std::printf("%s: %s\n", c.name().c_str(), what);
}

/// Statistics and parameters: floats, or doubles for fp64.
struct Memories {
  Format format;
  Memory memory;

  Memories(const Format& of, int64_t count)
      : format(of.size == 8 ? kFormats[1] : kFormats[0]), memory(format, count) {}
  Memories(const Format& of, const std::vector<double>& values)
      : Memories(of, static_cast<int64_t>(values.size())) {
    for (int64_t i = 0; i < memory.count(); ++i) memory.set(i, format.encode(values[i]));
  }
  void* get() { return memory.at(0); }
  std::vector<double> values(int64_t begin, int64_t count) {
    std::vector<double> result;
    for (int64_t i = begin; i < begin + count; ++i) {
      result.push_back(static_cast<double>(format.decode(memory.get(i))));
    }
    return result;
  }
};

/// Where tensors lie, in elements behind a multiple of 16 bytes.
struct Offsets {
  int x, dy, y, dx;
};

Memory moved(const Case& c, Memory& from, int offset) {
  Memory result(c.format, c.count() + offset);
  result.copy(from, c.count(), offset);
  return result;
}

/// A norm with what it needs in memory.
struct Setup {
  const Case& c;
  int64_t sets = c.shape.sets();
  Memories weight, bias, statistics, running_mean, running_variance;
  std::vector<uint8_t> workspace;
  NormMish norm;

  Setup(const Case& of, const Inputs& in)
      : c(of),
        weight(c.format, in.weight),
        bias(c.format, in.bias),
        statistics(c.format, 3 * sets),
        running_mean(c.format, in.mean),
        running_variance(c.format, in.variance) {
    norm = {c.shape,
            c.format.dtype,
            statistics.get(),
            c.given,
            c.affine ? weight.get() : nullptr,
            c.affine ? bias.get() : nullptr,
            nullptr,
            nullptr};
    workspace.resize(norm.workspace_size());
  }
  /// The workspace holds nothing between two calls: NaN.
  void fresh() {
    workspace.assign(workspace.size(), 0xff);
    norm.workspace = workspace.data();
  }
  void forward(void* y, const void* x, double momentum) {
    fresh();
    const bool runs = c.shape.groups == 0;
    const int error = norm.forward(y, x, c.eps, runs ? running_mean.get() : nullptr,
                                   runs ? running_variance.get() : nullptr, momentum);
    if (error != 0) fail(c, "a launch failed");
  }
  void backward(void* dx, void* dweight, void* dbias, const void* dy, const void* x) {
    fresh();
    if (norm.backward(dx, dweight, dbias, dy, x) != 0) fail(c, "a launch failed");
  }
};

/// With statistics that are given as the kernels take them: mean and variance, as numbers.
Inputs inputs(const Case& c) {
  Inputs in(c);
  if (!c.given) return in;
  for (int64_t k = 0; k < c.shape.channels; ++k) {
    in.variance[k] = static_cast<float>(1 / (in.rstd[k] * in.rstd[k]));
    in.mean[k] = static_cast<float>(in.mean[k]);
    in.rstd[k] = 1 / std::sqrt(in.variance[k] + c.eps);
  }
  return in;
}

Results compute(const Case& c, Inputs& in, const Offsets& at = {}) {
  Setup setup(c, in);
  const int64_t sets = setup.sets, channels = c.shape.channels;
  Memory x = moved(c, in.x, at.x), dy = moved(c, in.dy, at.dy);
  Memory y(c.format, c.count() + at.y), dx(c.format, c.count() + at.dx);
  Memories dweight(c.format, channels), dbias(c.format, channels);
  setup.forward(y.at(at.y), x.at(at.x), 1);
  setup.backward(dx.at(at.dx), dweight.get(), dbias.get(), dy.at(at.dy), x.at(at.x));
  Results out = {Memory(c.format, c.count()),
                 Memory(c.format, c.count()),
                 dweight.values(0, channels),
                 dbias.values(0, channels),
                 setup.statistics.values(0, sets),
                 setup.statistics.values(sets, sets),
                 {}};
  std::memcpy(out.y.at(0), y.at(at.y), c.count() * c.format.size);
  std::memcpy(out.dx.at(0), dx.at(at.dx), c.count() * c.format.size);
  const std::vector<double> rest = setup.statistics.values(2 * sets, sets);
  for (int64_t k = 0; k < sets; ++k) out.mean[k] += rest[k];
  const std::vector<double> variance = setup.running_variance.values(0, sets);
  if (c.given && (setup.running_mean.values(0, sets) != in.mean || variance != in.variance)) {
    fail(c, "statistics that are given have changed");
  }
  // Of one number there is no such variance, and that of a group is not kept.
  const auto n = static_cast<double>(c.count() / sets);
  for (int64_t k = 0; k < sets && n > 1 && c.shape.groups == 0; ++k) {
    out.variance.push_back(variance[k] * (n - 1) / n);
  }
  return out;
}

void expect_same(const Case& c, const Results& a, const Results& b, const char* what) {
  if (!(a == b)) fail(c, what);
}

void test(const Case& c) {
  Inputs in = inputs(c);
  Results results = compute(c, in);
  test_values(c, results, in);
  last_thread_first = true;
  expect_same(c, compute(c, in), results, "other bits if the last thread comes first");
  last_thread_first = false;
  // 16-byte accesses are out for one operand or all of them.
  for (const Offsets& at : {Offsets{1, 1, 1, 1}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}}) {
    if (c.shape.size > 10000 && at.x == 0) continue;
    Results moved = compute(c, in, at);
    test_values(c, moved, in);
    // Only sums have an order.
    if (at.x == 0 && at.dy == 0) expect_same(c, moved, results, "other bits at another place");
  }
}

/// Running statistics come as near to those of x as the momentum says; and any gradient may be left
/// out, without a change of the others.
void test_outputs(const Case& c) {
  Inputs in(c);
  Results all = compute(c, in);
  for (int64_t k = 0; k < c.shape.channels; ++k) {
    in.mean[k] = k - 2.0;
    in.variance[k] = 9;
  }
  Setup setup(c, in);
  Memory y(c.format, c.count()), dx(c.format, c.count());
  setup.forward(y.at(0), in.x.at(0), 0.25);
  const auto n = static_cast<double>(c.count() / c.shape.channels);
  const auto mean = setup.running_mean.values(0, c.shape.channels);
  const auto variance = setup.running_variance.values(0, c.shape.channels);
  const Worst worst = {c};
  for (int64_t k = 0; k < c.shape.channels; ++k) {
    const double of_mean = 0.75 * in.mean[k] + 0.25 * all.mean[k];
    const double of_variance = 0.75 * 9 + 0.25 * all.variance[k] * n / (n - 1);
    worst.check("running mean", k, mean[k], of_mean, 1e-6L * std::fabs(of_mean));
    worst.check("running variance", k, variance[k], of_variance, 1e-6L * of_variance);
  }
  Memories dweight(c.format, c.shape.channels), dbias(c.format, c.shape.channels);
  setup.backward(dx.at(0), nullptr, nullptr, in.dy.at(0), in.x.at(0));
  if (!(dx == all.dx)) fail(c, "another dx alone");
  setup.backward(nullptr, dweight.get(), nullptr, in.dy.at(0), in.x.at(0));
  if (dweight.values(0, c.shape.channels) != all.dweight) fail(c, "another dweight alone");
  setup.backward(nullptr, nullptr, dbias.get(), in.dy.at(0), in.x.at(0));
  if (dbias.values(0, c.shape.channels) != all.dbias) fail(c, "another dbias alone");
  setup.norm.given = true;
  setup.backward(dx.at(0), nullptr, nullptr, in.dy.at(0), in.x.at(0));
  if (dx == all.dx) fail(c, "given statistics have derivatives");
}

/// Each sample of a GroupNorm has the bits that it has alone.
void test_batch(const Case& c) {
  Inputs in(c);
  Results all = compute(c, in);
  Case alone = c;
  alone.shape.batch = 1;
  for (int64_t sample = 0; sample < c.shape.batch; ++sample) {
    Inputs one(alone);
    one.weight = in.weight;
    one.bias = in.bias;
    const int64_t begin = sample * alone.count(), bytes = alone.count() * c.format.size;
    std::memcpy(one.x.at(0), in.x.at(begin), bytes);
    std::memcpy(one.dy.at(0), in.dy.at(begin), bytes);
    Results got = compute(alone, one);
    if (std::memcmp(got.y.at(0), all.y.at(begin), bytes) != 0 ||
        std::memcmp(got.dx.at(0), all.dx.at(begin), bytes) != 0) {
      fail(c, "a sample has other bits alone");
    }
  }
}

/// Memory that is all zeros, and takes no room before it is written.
struct Zeros {
  void* memory;
  size_t bytes;
  explicit Zeros(size_t size) : bytes(size) {
    memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      std::printf("no range of %zu bytes: is overcommit forbidden?\n", bytes);
      std::exit(1);
    }
  }
  ~Zeros() { munmap(memory, bytes); }
  uint16_t& operator[](int64_t i) { return static_cast<uint16_t*>(memory)[i]; }
};

/// More elements than 32 bits count, in bfloat16. Only the first blocks and the last of a launch
/// run, and only what they read is not 0: the sums of all others are those 0 of the workspace.
void test_beyond_32_bits(const NormShape& shape) {
  const Case c = {kFormats[3], shape, 0, 0, 1e-5, false, false};
  const int64_t count = c.count(), sets = shape.sets(), of_set = count / sets, ends = 64;
  Zeros x(2 * count), dy(2 * count), y(2 * count), dx(2 * count);
  std::vector<float> statistics(3 * sets), dweight(shape.channels), dbias(shape.channels);
  NormMish norm = {shape,   DType::kBFloat16, statistics.data(), false,
                   nullptr, nullptr,          nullptr,           nullptr};
  Zeros of_forward(norm.workspace_size()), of_backward(norm.workspace_size());
  // Numbers of either sign, so large that mean and deviation are not tiny.
  const auto at = [&](int64_t i) { return i < ends ? i : count - 2 * ends + i; };
  for (int64_t i = 0; i < 2 * ends; ++i) {
    x[at(i)] = static_cast<uint16_t>(c.format.encode((i % 5 + 1) * 4096));
    dy[at(i)] = static_cast<uint16_t>(c.format.encode(i % 3 - 0.75L));
  }
  last_blocks_only = 8;
  norm.workspace = of_forward.memory;
  int error = norm.forward(y.memory, x.memory, c.eps, nullptr, nullptr, 0);
  norm.workspace = of_backward.memory;
  // Of channels there are so many that the blocks of sets would not run.
  if (error == 0) {
    error = norm.backward(dx.memory, shape.groups ? nullptr : dweight.data(),
                          shape.groups ? nullptr : dbias.data(), dy.memory, x.memory);
  }
  last_blocks_only = 0;
  if (error != 0) return fail(c, "a launch failed");
  for (const int64_t set : {int64_t{0}, sets - 1}) {
    long double sum = 0, squares = 0, a = 0, b = 0;
    const auto each = [&](const auto& visit) {
      for (int64_t i = 0; i < 2 * ends; ++i) {
        if (c.set(at(i)) == set) {
          visit(at(i), c.format.decode(x[at(i)]), c.format.decode(dy[at(i)]));
        }
      }
    };
    each([&](int64_t, long double value, long double) { sum += value; });
    const long double mean = sum / of_set;
    int64_t others = of_set;
    each([&](int64_t, long double value, long double) {
      squares += (value - mean) * (value - mean);
      --others;
    });
    const long double variance = (squares + others * mean * mean) / of_set;
    const long double r = 1 / std::sqrt(variance + c.eps);
    each([&](int64_t, long double value, long double gradient) {
      const long double g = gradient * reference(Op::kBackward, (value - mean) * r);
      a += g;
      b += g * (value - mean);
    });
    const Worst worst = {c};
    worst.check("mean", set, statistics[set], mean, 1e-6L * std::fabs(mean));
    worst.check("rstd", set, statistics[sets + set], r, 1e-6L * r);
    each([&](int64_t i, long double value, long double gradient) {
      const long double z = (value - mean) * r, expected = reference(Op::kForward, z);
      const long double g = gradient * reference(Op::kBackward, z);
      const long double of_x = r * g - r * a / of_set - r * r * r * (value - mean) * b / of_set;
      worst.check("y", i, c.format.decode(y[i]), expected, std::fabs(expected) / 250);
      worst.check("dx", i, c.format.decode(dx[i]), of_x, std::fabs(of_x) / 250);
    });
    if (shape.groups) continue;
    worst.check("dbias", set, dbias[set], a, 1e-5L * std::fabs(a));
    worst.check("dweight", set, dweight[set], b * r, 1e-5L * std::fabs(b * r));
  }
}

}  // namespace

int main() {
  threads_meet = true;
  // Rows below and above a pack, with and without rest; sets of one lane, a warp and less, a block
  // and parts.
  const NormShape shapes[] = {{3, 4, 1, 0},    {2, 6, 7, 0},    {5, 2, 16, 0},    {4, 3, 33, 0},
                              {2, 2, 1000, 0}, {1, 3, 1, 3},    {2, 6, 1, 2},     {3, 4, 7, 2},
                              {2, 72, 5, 1},   {2, 8, 16, 4},   {1, 6, 100, 3},   {40, 1, 1000, 0},
                              {9, 2, 1601, 0}, {3, 70, 32, 35}, {1, 2, 40000, 0}, {1, 2, 33000, 1}};
  for (const Format& format : kFormats) {
    const int before = failures;
    for (const NormShape& shape : shapes) {
      for (const auto& [mean, deviation] : {std::pair(0.5, 2.0), std::pair(1e4, 1.0)}) {
        for (const bool affine : {true, false}) {
          // Long double takes seconds for the large ones: one case of each.
          if (shape.batch * shape.size > 10000 && (mean < 1 || !affine)) continue;
          test({format, shape, mean, deviation, 1e-5, false, affine});
          if (shape.groups == 0) test({format, shape, mean, deviation, 1e-5, true, affine});
        }
      }
      test({format, shape, 3.7f, 0, 1e-5, false, true});  // a variance of 0
      if (shape.groups) test_batch({format, shape, 0.5, 2, 1e-5, false, true});
    }
    test_outputs({format, {4, 3, 33, 0}, 0.5, 2, 1e-5, false, true});
    // Squares beyond the range of float, and below it.
    if (format.size >= 4) {
      test({format, {2, 3, 50, 0}, 1e18, 3e18, 1e-5, false, true});
      test({format, {2, 4, 50, 2}, 0, 1e-17, 1e-38, false, true});
    }
    for (ptx::ex2_error = -1; ptx::ex2_error <= 1; ++ptx::ex2_error) {
      for (ptx::rcp_error = -1; ptx::rcp_error <= 1; ++ptx::rcp_error) {
        test({format, {4, 3, 33, 0}, 0.5, 2, 1e-5, false, true});
      }
    }
    ptx::ex2_error = ptx::rcp_error = 0;
    std::printf("%-6s %s\n", failures == before ? "ok" : "FAILED", format.name);
  }
  test_beyond_32_bits({2, 1, (int64_t{1} << 31) + 24, 0});
  test_beyond_32_bits({2, 1, (int64_t{1} << 30) + 13, 0});  // 2^31 + 26 single elements in a set
  test_beyond_32_bits({1, 1 << 17, 32776, 2});
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

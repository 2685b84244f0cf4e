// BatchNorm and GroupNorm with Mish on the CPU, without torch: each instruction set, each dtype,
// many shapes; values and gradients against textbook maths in long double, the same bits for any
// sharing of the work.
#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "norm_reference.h"

namespace {

using mish::NormShape;
using mish::cpu::Isa;
using mish::cpu::NormMish;
using mish::cpu::Parallel;
using namespace mish::test;

constexpr Isa kIsas[] = {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512};

/// As so many threads would share the work, here one after the other, the last first.
template <int kThreads>
void run(int64_t n, int64_t, void (*part)(void*, int64_t, int64_t), void* data) {
  const int64_t grain = (n + kThreads - 1) / kThreads;
  for (int64_t begin = (n - 1) / grain * grain; begin >= 0; begin -= grain) {
    part(data, begin, std::min(begin + grain, n));
  }
}

Results compute(const Case& c, Isa isa, Inputs in, Parallel parallel) {
  const int64_t channels = c.shape.channels;
  Results out = {Memory(c.format, c.count()),
                 Memory(c.format, c.count()),
                 std::vector<double>(channels),
                 std::vector<double>(channels),
                 {},
                 {},
                 {}};
  const NormMish norm = {c.shape,
                         c.format.dtype,
                         isa,
                         in.mean.data(),
                         in.rstd.data(),
                         in.variance.data(),
                         c.given,
                         c.affine ? in.weight.data() : nullptr,
                         c.affine ? in.bias.data() : nullptr,
                         parallel};
  norm.forward(out.y.at(0), in.x.at(0), c.eps);
  norm.backward(out.dx.at(0), out.dweight.data(), out.dbias.data(), in.dy.at(0), in.x.at(0));
  out.mean = in.mean;
  out.rstd = in.rstd;
  out.variance = in.variance;
  return out;
}

void test(Isa isa, const Case& c) {
  Inputs in(c);
  Results one = compute(c, isa, in, {1, run<1>});
  test_values(c, one, in);
  const Results others[] = {compute(c, isa, in, {2, run<2>}), compute(c, isa, in, {7, run<7>}),
                            compute(c, isa, in, {1000, run<1000>})};
  for (const Results& other : others) {
    if (one == other) continue;
    ++failures;
    std::printf("%s %s: other bits with other threads\n", mish::cpu::name(isa), c.name().c_str());
  }
}

}  // namespace

int main() {
  // Rows below and above a vector, with and without rest, in one part and several; groups of short
  // and long rows, in one run of samples and several.
  const NormShape shapes[] = {{3, 4, 1, 0},     {2, 6, 7, 0},     {5, 2, 16, 0},   {4, 3, 33, 0},
                              {2, 2, 1000, 0},  {40, 1, 1000, 0}, {1, 3, 1, 3},    {2, 6, 1, 2},
                              {3, 4, 7, 2},     {2, 72, 5, 1},    {2, 8, 16, 4},   {1, 6, 100, 3},
                              {1, 2, 40000, 0}, {1, 2, 33000, 1}, {3, 24, 100, 2}, {40, 8, 5, 2}};
  for (const Isa isa : kIsas) {
    if (!mish::cpu::supported(isa)) {
      std::printf("skipped: this processor or build has no %s\n", mish::cpu::name(isa));
      continue;
    }
    for (const Format& format : kFormats) {
      const int before = failures;
      for (const NormShape& shape : shapes) {
        for (const auto& [mean, deviation] : {std::pair(0.5, 2.0), std::pair(1e4, 1.0)}) {
          for (const bool affine : {true, false}) {
            // Long double takes seconds for those of several parts: one case of each.
            if (shape.batch * shape.size > 10000 && (mean < 1 || !affine)) continue;
            test(isa, {format, shape, mean, deviation, 1e-5, false, affine});
            if (shape.groups == 0) test(isa, {format, shape, mean, deviation, 1e-5, true, affine});
          }
        }
        test(isa, {format, shape, 3, 0, 1e-5, false, true});  // a variance of 0
      }
      // Mish where it is 0 and where it is x.
      test(isa, {format, {2, 3, 50, 0}, 0.5, 2, 1e-5, false, true, 30});
      // Squares beyond the range of float, and below it.
      if (format.size >= 4) {
        test(isa, {format, {2, 3, 50, 0}, 1e18, 3e18, 1e-5, false, true});
        test(isa, {format, {2, 4, 50, 2}, 0, 1e-17, 1e-38, false, true});
      }
      std::printf("%-6s %s %s\n", failures == before ? "ok" : "FAILED", mish::cpu::name(isa),
                  format.name);
    }
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

// The CPU kernels without torch: each instruction set of this processor, each op, each dtype;
// values against textbook maths in long double, and memory beyond the operands left alone.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "mish_kernels.h"
#include "reference.h"

namespace {

using mish::DType;
using mish::Op;
using mish::cpu::Isa;
using mish::test::Format;
using mish::test::kFormats;
using mish::test::kInfinity;
using mish::test::Memory;
using mish::test::reference;

constexpr Op kOps[] = {Op::kForward, Op::kBackward, Op::kDoubleBackward};
constexpr Isa kIsas[] = {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512};

struct Case {
  Isa isa;
  Op op;
  Format format;

  int inputs() const { return static_cast<int>(op) + 1; }
  mish::cpu::Loop loop() const { return mish::cpu::loop(op, format.dtype, isa); }
  std::string name() const {
    const char* ops[] = {"forward", "backward", "double backward"};
    return std::string(mish::cpu::name(isa)) + " " + ops[static_cast<int>(op)] + " " + format.name;
  }
};

int failures = 0;

void fail(const Case& c, const char* what, long double x, long double got, long double expected) {
  if (++failures > 50) return;
  std::printf("%s: %s at x = %.17Lg (%La): got %.17Lg, expected %.17Lg\n", c.name().c_str(), what,
              x, x, got, expected);
}

const mish::test::Bounds kBounds("cpu");

std::vector<uint64_t> inputs(const Format& format) {
  std::vector<uint64_t> bits;
  if (format.size == 2) {
    for (uint64_t i = 0; i < 65536; ++i) bits.push_back(i);
    return bits;
  }
  const long double limits[] = {0, kInfinity, NAN, format.decode(1),
                                format.decode(format.infinity() - 1)};
  const long double turns[] = {1.19243121, 2.2564263, 1.4905, 0.35667494, 3,     11.2,  18,
                               20,         22,        22.5,   44,         87.3,  87.33, 87.34,
                               87.69,      88,        103.98, 104,        708.3, 708.4, 708.75,
                               709.08956,  709.79,    745.14, 746,        1e10,  1e30,  0.5};
  std::vector<long double> points(std::begin(limits), std::end(limits));
  // Where sweeps over all floats found the largest errors.
  const long double hard[] = {
      0.238379493, 0.588011682, 3.23539019, 3.25056005, 0.000787723286, 0.0010064824, 0.00597028341,
      0.463399112, 0.487193346, 4.83240175, 3.16283941, 3.03678513,     0.0173611362, 0.00312798657,
      0.250898868, 0.238508627, 0.108489,   0.599599,   4.81201,        6.80632e-14};
  points.insert(points.end(), std::begin(turns), std::end(turns));
  points.insert(points.end(), std::begin(hard), std::end(hard));
  for (const long double point : points) {
    for (const long double signed_point : {point, -point}) {
      const uint64_t at = format.encode(signed_point);
      bits.insert(bits.end(), {at, at + 1});
      if (format.magnitude(at) > 0) bits.push_back(at - 1);
    }
  }
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal(0, 4);
  std::uniform_real_distribution<double> range(format.size == 8 ? -720 : -105, 25);
  for (int i = 0; i < 20000; ++i) {
    bits.push_back(random() >> (64 - 8 * format.size));
    bits.push_back(format.encode(normal(random)));
    bits.push_back(format.encode(range(random)));
  }
  return bits;
}

/// op over contiguous memory with gradients of 1: f, f' or f'' itself.
std::vector<uint64_t> evaluate(const Case& c, const std::vector<uint64_t>& x) {
  const auto n = static_cast<int64_t>(x.size());
  Memory out(c.format, n), in(c.format, n), ones(c.format, n);
  for (int64_t i = 0; i < n; ++i) {
    in.set(i, x[i]);
    ones.set(i, c.format.encode(1));
  }
  char* data[4] = {out.at(0)};
  for (int k = 1; k < c.inputs(); ++k) data[k] = ones.at(0);
  data[c.inputs()] = in.at(0);
  int64_t strides[8] = {};
  std::fill_n(strides, c.inputs() + 1, c.format.size);
  c.loop()(data, strides, n, 1);
  std::vector<uint64_t> result(n);
  for (int64_t i = 0; i < n; ++i) result[i] = out.get(i);
  return result;
}

void test_values(const Case& c) {
  const std::vector<uint64_t> x = inputs(c.format), results = evaluate(c, x);
  for (size_t i = 0; i < x.size(); ++i) {
    const long double at = c.format.decode(x[i]), got = c.format.decode(results[i]);
    const long double expected = reference(c.op, at);
    if (std::isnan(at) || std::isnan(got)) {
      if (std::isnan(at) != std::isnan(got)) fail(c, "NaN", at, got, expected);
      continue;
    }
    if (c.op == Op::kForward && std::signbit(got) != std::signbit(at)) {
      fail(c, "sign", at, got, expected);
    }
    const auto [ulp, absolute] = kBounds.at(c.op, c.format, at);
    if (got == expected) continue;
    const long double error = std::fabs(got - expected);
    if (!(error <= ulp * c.format.spacing(expected) + absolute)) {
      fail(c, "value", at, got, expected);
    }
  }
}

void test_limits(const Case& c) {
  const long double x[] = {-kInfinity, kInfinity, -0.0L, 0.0L};
  const long double limits[3][4] = {
      {-0.0L, kInfinity, -0.0L, 0.0L}, {0, 1, 0.6L, 0.6L}, {0, 0, 0.64L, 0.64L}};
  for (int i = 0; i < 4; ++i) {
    const long double expected = limits[static_cast<int>(c.op)][i];
    const long double got = c.format.decode(evaluate(c, {c.format.encode(x[i])})[0]);
    // 0.6 and 0.64 are no binary numbers: half an ULP of two is theirs.
    const bool near =
        got == expected || std::fabs(got - expected) <= 2 * c.format.spacing(expected);
    if (!near || (c.op == Op::kForward && std::signbit(got) != std::signbit(expected))) {
      fail(c, "limit", x[i], got, expected);
    }
  }
}

/// An operand of a size0 x size1 block: which element of a memory stands at (0, 0), and the steps
/// to the next in elements.
struct View {
  int64_t first, step0, step1, count;
};

struct Block {
  const char* name;
  int64_t size0, size1;
  View out, in;
  bool in_place;
};

/// Each element of the block has the bits that it has alone, and the rest of `out` is untouched.
/// Input `aliased` (counted from 1; 0: none) is the output itself.
void test_block(const Case& c, const Block& block, int aliased) {
  const Format& format = c.format;
  std::mt19937_64 random(2);
  std::normal_distribution<double> normal(0, 3);
  std::vector<Memory> in(c.inputs(), Memory(format, block.in.count));
  for (Memory& memory : in) {
    for (int64_t i = 0; i < memory.count(); ++i) memory.set(i, format.encode(normal(random)));
  }
  Memory out(format, block.out.count);
  if (aliased > 0) out = in[aliased - 1];
  std::vector<Memory> before = in;
  Memory expected = out;
  char* data[4];
  int64_t strides[8];
  const int operands = c.inputs() + 1;
  for (int k = 0; k < operands; ++k) {
    const View& view = k == 0 ? block.out : block.in;
    data[k] = (k == 0 || k == aliased ? out : in[k - 1]).at(view.first);
    strides[k] = view.step0 * format.size;
    strides[operands + k] = view.step1 * format.size;
  }
  for (int64_t j = 0; j < block.size1; ++j) {
    for (int64_t i = 0; i < block.size0; ++i) {
      const auto place = [&](const View& v) { return v.first + i * v.step0 + j * v.step1; };
      Memory one(format, 1);
      char* alone[4] = {one.at(0)};
      for (int k = 1; k < operands; ++k) alone[k] = before[k - 1].at(place(block.in));
      const int64_t none[8] = {};
      c.loop()(alone, none, 1, 1);
      expected.set(place(block.out), one.get(0));
    }
  }
  c.loop()(data, strides, block.size0, block.size1);
  for (int64_t i = 0; i < out.count(); ++i) {
    if (out.get(i) != expected.get(i)) {
      const std::string what = std::string(block.name) + " " + std::to_string(block.size0) + " x " +
                               std::to_string(block.size1) + ", element " + std::to_string(i);
      fail(c, what.c_str(), NAN, format.decode(out.get(i)), format.decode(expected.get(i)));
      return;
    }
  }
}

void test_block(const Case& c, const Block& block) {
  if (!block.in_place) return test_block(c, block, 0);
  for (int aliased = 1; aliased <= c.inputs(); ++aliased) test_block(c, block, aliased);
}

void test_memory(const Case& c) {
  for (int64_t n = 0; n <= 3 * 32 + 1; ++n) {  // 32: the widest step, bfloat16 in AVX-512
    test_block(c, {"contiguous", n, 1, {5, 1, 0, n + 10}, {1, 1, 0, n + 1}, false});
    test_block(c, {"in place", n, 1, {1, 1, 0, n + 1}, {1, 1, 0, n + 1}, true});
    test_block(c, {"step 2", n, 1, {3, 2, 0, 2 * n + 6}, {0, 2, 0, 2 * n}, false});
  }
  const Block blocks[] = {
      {"dense rows", 600, 3, {0, 1, 600, 1800}, {0, 1, 600, 1800}, false},
      {"rows with gaps", 523, 4, {7, 1, 530, 2200}, {2, 1, 525, 2200}, false},
      {"short rows", 3, 400, {1, 1, 5, 2002}, {0, 1, 3, 1200}, false},
      {"transposed", 37, 41, {0, 41, 1, 1517}, {0, 1, 37, 1517}, false},
      {"backwards", 70, 9, {629, -1, -70, 630}, {629, -1, -70, 630}, false},
      {"backwards from forwards", 70, 9, {0, 1, 70, 630}, {629, -1, -70, 630}, false},
      {"rows repeated", 70, 9, {0, 1, 70, 630}, {0, 1, 0, 70}, false},
      {"columns repeated", 70, 9, {0, 1, 70, 630}, {0, 0, 1, 9}, false},
      {"one element repeated", 700, 2, {0, 1, 700, 1400}, {0, 0, 0, 1}, false},
      {"rows with gaps, in place", 523, 4, {2, 1, 525, 2200}, {2, 1, 525, 2200}, true},
      {"columns, in place", 50, 30, {3, 40, 1, 2100}, {3, 40, 1, 2100}, true},
      {"no rows", 5, 0, {0, 1, 5, 4}, {0, 1, 5, 4}, false},
  };
  for (const Block& block : blocks) test_block(c, block);
}

/// Instruction sets with fused multiply-add round the same operations the same way.
void test_agreement(const Case& c) {
  const Case other = {Isa::kAvx2, c.op, c.format};
  const std::vector<uint64_t> x = inputs(c.format), a = evaluate(c, x), b = evaluate(other, x);
  for (size_t i = 0; i < x.size(); ++i) {
    if (a[i] != b[i] && !(c.format.is_nan(a[i]) && c.format.is_nan(b[i]))) {
      fail(c, "differs from AVX2", c.format.decode(x[i]), c.format.decode(a[i]),
           c.format.decode(b[i]));
    }
  }
}

}  // namespace

int main() {
  for (const Isa isa : kIsas) {
    if (!mish::cpu::supported(isa)) {
      std::printf("skipped: this processor or build has no %s\n", mish::cpu::name(isa));
      continue;
    }
    for (const Op op : kOps) {
      for (const Format& format : kFormats) {
        const Case c = {isa, op, format};
        const int before = failures;
        test_values(c);
        test_limits(c);
        test_memory(c);
        if (isa == Isa::kAvx512) test_agreement(c);
        std::printf("%-6s %s\n", failures == before ? "ok" : "FAILED", c.name().c_str());
      }
    }
  }
  if (!mish::cpu::supported(Isa::kBaseline) || !mish::cpu::supported(mish::cpu::best_isa())) {
    std::printf("FAILED the best instruction set is not supported\n");
    ++failures;
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

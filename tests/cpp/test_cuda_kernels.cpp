// The CUDA kernels themselves, bodies, indexing and launches, on the host: host_cuda/ stands in for
// the CUDA headers and runs every thread of every block. Each element is written, and nothing else;
// values keep their bounds in the worst case permitted to the approximate instructions.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda/mish_kernels.cu"
#include "cuda_operands.h"

namespace {

using mish::DType;
using mish::Op;
using mish::cuda::Operands;
using mish::test::Case, mish::test::Format, mish::test::kFormats, mish::test::Memory;
using mish::test::dense, mish::test::place, mish::test::rows, mish::test::strided;
namespace ptx = mish::cuda::ptx;

constexpr Op kOps[] = {Op::kForward, Op::kBackward, Op::kDoubleBackward};

int failures = 0;

void fail(const Case& c, const std::string& what) {
  if (++failures <= 50) std::printf("%s: %s\n", c.name().c_str(), what.c_str());
}

void launch(const Case& c, const Operands& operands) {
  const int error = mish::cuda::launch(c.op, c.format.dtype, operands, nullptr);
  if (error != 0) fail(c, "launch returned " + std::to_string(error));
}

/// The op on element i, by itself.
uint64_t alone(const Case& c, const Operands& operands, int64_t i) {
  Memory out(c.format, 1);
  Operands one = dense(c, 1);
  one.data[0] = out.at(0);
  for (int k = 1; k <= c.inputs(); ++k) {
    one.data[k] = static_cast<char*>(operands.data[k]) + place(operands, k, i);
  }
  launch(c, one);
  return out.get(0);
}

std::vector<Memory> random_inputs(const Case& c, int64_t count) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal(0, 4);
  std::vector<Memory> in(c.inputs(), Memory(c.format, count));
  for (Memory& memory : in) {
    for (int64_t i = 0; i < count; ++i) memory.set(i, c.format.encode(normal(random)));
  }
  return in;
}

/// How dense operands lie: operand k begins `offsets[k]` elements behind a multiple of 16 bytes;
/// input `aliased` (0: none) is the output itself.
struct Placement {
  int offsets[4];
  int aliased;
};

/// One launch over the first `n` elements: each has the bits that it has alone, and the memory
/// around the output is as it was.
void check_dense(const Case& c, std::vector<Memory>& in, Memory& expected, int64_t n,
                 const Placement& placement) {
  constexpr int64_t kRoom = 32;
  std::vector<Memory> memory(c.inputs() + 1, Memory(c.format, n + kRoom));
  Operands operands = dense(c, n);
  for (int k = 0; k <= c.inputs(); ++k) {
    const int of = k == placement.aliased ? 0 : k, offset = placement.offsets[of];
    if (k > 0) memory[of].copy(in[k - 1], n, offset);
    operands.data[k] = memory[of].at(offset);
  }
  Memory wanted = memory[0];
  wanted.copy(expected, n, placement.offsets[0]);
  launch(c, operands);
  if (memory[0] == wanted) return;
  std::string where;
  for (int k = 0; k <= c.inputs(); ++k) where += " " + std::to_string(placement.offsets[k]);
  for (int64_t i = 0; i < n + kRoom; ++i) {
    if (memory[0].get(i) != wanted.get(i)) {
      fail(c, "element " + std::to_string(i - placement.offsets[0]) + " of " + std::to_string(n) +
                  ", offsets" + where + ", in place of input " + std::to_string(placement.aliased));
    }
  }
}

constexpr uint8_t kNaN = 0xff;  // fills memory with what no finite number maps to

/// Elements of `count` are written by one thread each and no other: what a thread wrote is noticed
/// and put back before the next one runs.
void check_written_once(const Case& c, const Operands& operands, Memory& out, int64_t count) {
  const Memory untouched = out;
  const uint64_t poison = out.get(0);
  std::vector<int> writers(out.count());
  after_thread = [&] {
    if (out == untouched) return;
    for (int64_t i = 0; i < out.count(); ++i) writers[i] += out.get(i) != poison;
    out = untouched;
  };
  launch(c, operands);
  after_thread = nullptr;
  const int64_t once = std::count(writers.begin(), writers.end(), 1);
  const int64_t never = std::count(writers.begin(), writers.end(), 0);
  if (once != count || once + never != out.count()) {
    fail(c, std::to_string(once) + " of " + std::to_string(count) + " elements written once");
  }
}

/// The elements that a block takes on the current device, of wide accesses.
int64_t tile(const Case& c) {
  using mish::cuda::kLargeTiles, mish::cuda::kSmallTile;
  const auto [threads, packs, _] = current_device == 0 ? kLargeTiles[c.inputs() - 1] : kSmallTile;
  return threads * packs * 16 / c.format.size;
}

/// Every size from 1 to two tiles and 17 (launch() is never given 0 elements); sizes around every
/// multiple of half a tile also in place, and where one operand or all allow no wide accesses.
void test_dense(const Case& c) {
  const int64_t most = 2 * tile(c) + 17;
  std::vector<Memory> in = random_inputs(c, most);
  Memory expected(c.format, most);
  Operands operands = dense(c, most);
  for (int k = 0; k < c.inputs(); ++k) operands.data[k + 1] = in[k].at(0);
  for (int64_t i = 0; i < most; ++i) expected.set(i, alone(c, operands, i));
  for (int64_t n = 1; n <= most; ++n) check_dense(c, in, expected, n, {});

  const int wide = 16 / c.format.size;
  std::vector<Placement> placements = {{{wide, wide, wide, wide}, 0}, {{5, 5, 5, 5}, 0}};
  for (int k = 0; k <= c.inputs(); ++k) {
    placements.push_back({{}, 0});
    placements.back().offsets[k] = 1;
    if (k > 0) placements.insert(placements.end(), {{{}, k}, {{3, 3, 3, 3}, k}});
  }
  for (const int64_t around : {int64_t{17}, tile(c) / 2, tile(c), 2 * tile(c)}) {
    for (int64_t n = std::max<int64_t>(around - 17, 1); n <= around + 17; ++n) {
      for (const Placement& placement : placements) check_dense(c, in, expected, n, placement);
    }
  }

  for (const int offset : {0, 1}) {
    Memory out(c.format, most + 16, kNaN);
    operands.data[0] = out.at(offset);
    check_written_once(c, operands, out, most);
  }
}

/// Each element once, with the bits that it has alone, and nothing else; the operands begin
/// `offset` elements behind a multiple of 16 bytes.
void check_strided(const Case& c, Operands operands, int64_t offset) {
  int64_t count = 1;
  for (int dim = 0; dim < operands.dims; ++dim) count *= operands.sizes[dim];
  const auto extent = [&](int k) {
    return place(operands, k, count - 1) / c.format.size + 1 + offset;
  };
  int64_t most = 0;
  for (int k = 1; k <= c.inputs(); ++k) most = std::max(most, extent(k));
  std::vector<Memory> in = random_inputs(c, most);
  Memory out(c.format, extent(0) + 5, kNaN);
  Memory expected = out;
  operands.data[0] = out.at(offset);
  for (int k = 1; k <= c.inputs(); ++k) operands.data[k] = in[k - 1].at(offset);
  for (int64_t i = 0; i < count; ++i) {
    expected.set(offset + place(operands, 0, i) / c.format.size, alone(c, operands, i));
  }
  check_written_once(c, operands, out, count);
  launch(c, operands);
  for (int64_t i = 0; i < out.count(); ++i) {
    if (out.get(i) != expected.get(i)) {
      fail(c, std::to_string(operands.dims) + " dimensions, element " + std::to_string(i));
    }
  }
}

void test_strided(const Case& c) {
  const std::vector<std::vector<int64_t>> shapes = {
      {1}, {300}, {7, 1}, {5, 3}, {17, 19, 2}, {3, 4, 5, 6}, std::vector<int64_t>(8, 2)};
  for (const auto& shape : shapes) check_strided(c, strided(c, shape, 2), 0);
}

/// Where packs lie whole in rows, and where their number, a row's begin or the memory forbids it.
void test_rows(const Case& c) {
  const int64_t wide = 16 / c.format.size;
  for (const int64_t packs : {1, 3, 40}) {
    check_strided(c, rows(c, packs * wide, 5, wide, 3), 0);
    check_strided(c, rows(c, packs * wide + 1, 5, 2 * wide - 1, 3), 0);
    check_strided(c, rows(c, packs * wide, 5, 1, 3), 0);
    check_strided(c, rows(c, packs * wide, 5, wide, 3), 1);
  }
}

/// More bytes or elements than 32 bits count: of an address range of that size only the ends are
/// touched, by the first block and the last ones, which are all that run.
void test_beyond_32_bits(const Case& c, Operands operands, int misaligned) {
  int64_t count = 1;
  for (int dim = 0; dim < operands.dims; ++dim) count *= operands.sizes[dim];
  std::vector<std::pair<void*, size_t>> ranges;
  for (int k = 0; k <= c.inputs(); ++k) {
    const size_t bytes = place(operands, k, count - 1) + (misaligned + 1) * c.format.size;
    void* range = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) {
      return fail(c, "no range of " + std::to_string(bytes) + " bytes: is overcommit forbidden?");
    }
    ranges.emplace_back(range, bytes);
    operands.data[k] = static_cast<char*>(range) + misaligned * c.format.size;
  }
  const auto at = [&](int k, int64_t i) {
    return static_cast<char*>(operands.data[k]) + place(operands, k, i);
  };
  const int64_t end = 3 * tile(c);
  std::vector<Memory> in = random_inputs(c, 2 * end);
  const auto ends = [&](const auto& visit) {
    for (int64_t i = 0; i < end; ++i) visit(i, i);
    for (int64_t i = end; i < 2 * end; ++i) visit(count - 2 * end + i, i);
  };
  ends([&](int64_t i, int64_t source) {
    for (int k = 1; k <= c.inputs(); ++k) {
      std::memcpy(at(k, i), in[k - 1].at(source), c.format.size);
    }
  });
  last_blocks_only = 8;
  launch(c, operands);
  last_blocks_only = 0;
  ends([&](int64_t i, int64_t) {
    uint64_t bits = 0;
    std::memcpy(&bits, at(0, i), c.format.size);
    // The smallest blocks take 64 wide accesses; no result is 0, so a 0 is from no block that ran.
    const int64_t least = 64 * 16 / c.format.size;
    const bool ran = i < least || i >= count - 7 * least;
    if (bits != alone(c, operands, i) && (ran || bits != 0)) {
      fail(c, "element " + std::to_string(i) + " of " + std::to_string(count));
    }
  });
  for (const auto& [range, bytes] : ranges) munmap(range, bytes);
}

/// The division by an invariant is exact for all 31-bit numbers: at its edges and at random.
void test_divisor() {
  std::mt19937 random(3);
  const auto check = [](uint32_t n, uint32_t d) {
    if (mish::cuda::quotient(mish::cuda::Divisor::of(d), n) != n / d) {
      std::printf("%u / %u is wrong\n", n, d);
      ++failures;
    }
  };
  std::vector<uint32_t> divisors = {1, 2, 3, 5, 7, 641, (1u << 31) - 1, 1u << 30};
  for (int i = 0; i < 2000; ++i) divisors.push_back((random() >> (1 + random() % 30)) + 1);
  for (const uint32_t d : divisors) {
    for (int i = 0; i < 200; ++i) check(random() >> 1, d);
    for (uint64_t multiple = d; multiple < (uint64_t{1} << 31); multiple = 2 * multiple + d) {
      check(static_cast<uint32_t>(multiple - 1), d);
      check(static_cast<uint32_t>(multiple), d);
    }
    check((1u << 31) - 1, d);
    check(0, d);
  }
}

const mish::test::Bounds kBounds("cuda");

/// All 16-bit numbers, or random patterns and where Mish bends; every corner of what ex2.approx and
/// rcp.approx may return.
void test_values(const Case& c) {
  std::vector<uint64_t> x;
  if (c.format.size == 2) {
    for (uint64_t bits = 0; bits < 65536; ++bits) x.push_back(bits);
  } else {
    std::mt19937_64 random(4);
    std::normal_distribution<double> normal(0, 4);
    for (int i = 0; i < 60000; ++i) {
      x.push_back(random() >> (64 - 8 * c.format.size));
      x.push_back(c.format.encode(normal(random)));
    }
    // Where sweeps over all floats found the largest errors, and where the formulas change.
    for (const long double special :
         {0.000595332764L, 0.237209946L, 0.386016518L, 4.80822563L, 4.8147459L, 15.9387751L,
          31.8835011L, 87.0571289L, 0.0L, 0.356675L, 20.0L, 22.0L, 87.3L, 88.0L, 1e30L,
          mish::test::kInfinity}) {
      for (const long double at : {special, -special}) {
        const uint64_t bits = c.format.encode(at);  // towards zero: the next may be nearer
        x.insert(x.end(), {bits, bits + 1});
      }
    }
  }
  const auto n = static_cast<int64_t>(x.size());
  std::vector<Memory> in(c.inputs(), Memory(c.format, n));
  for (int64_t i = 0; i < n; ++i) {
    for (Memory& memory : in) memory.set(i, c.format.encode(1));
    in.back().set(i, x[i]);
  }
  long double most = 0;
  for (ptx::ex2_error = -1; ptx::ex2_error <= 1; ++ptx::ex2_error) {
    for (ptx::rcp_error = -1; ptx::rcp_error <= 1; ++ptx::rcp_error) {
      Memory out(c.format, n);
      Operands operands = dense(c, n);
      operands.data[0] = out.at(0);
      for (int k = 0; k < c.inputs(); ++k) operands.data[k + 1] = in[k].at(0);
      launch(c, operands);
      for (int64_t i = 0; i < n; ++i) {
        const long double at = c.format.decode(x[i]), got = c.format.decode(out.get(i));
        const long double expected = mish::test::reference(c.op, at);
        const bool sign = c.op != Op::kForward || std::signbit(got) == std::signbit(at);
        if (got == expected && sign) continue;
        if (std::isnan(got) && std::isnan(at)) continue;
        const long double error = std::fabs(got - expected);
        const long double ulps = error / c.format.spacing(expected);
        const auto [ulp, absolute] = kBounds.at(c.op, c.format, at);
        if (!(error <= ulp * c.format.spacing(expected) + absolute) || !sign) {
          char text[160];
          std::snprintf(text, sizeof(text),
                        "x = %.9Lg: got %.9Lg for %.9Lg, %.2Lf ULP (ex2 %+d, rcp %+d)", at, got,
                        expected, ulps, ptx::ex2_error, ptx::rcp_error);
          fail(c, text);
        }
        if (absolute > 0) continue;
        most = std::max(most, ulps);
      }
    }
  }
  ptx::ex2_error = ptx::rcp_error = 0;
  std::printf("%s: at most %.2Lf ULP in the worst permitted case\n", c.name().c_str(), most);
}

}  // namespace

int main() {
  test_divisor();
  for (const Op op : kOps) {
    for (const Format& format : kFormats) {
      const Case c = {op, format};
      for (current_device = 1; current_device >= 0; --current_device) test_dense(c);
      current_device = 0;
      test_strided(c);
      test_rows(c);
      test_values(c);
    }
    for (const Format& format : {kFormats[0], kFormats[3]}) {
      const Case c = {op, format};
      test_beyond_32_bits(c, dense(c, (int64_t{1} << 32) + 4099), 0);
      test_beyond_32_bits(c, dense(c, (int64_t{1} << 32) + 4099), 1);
      // As many as a strided launch may have: the steps of an input are 2.9 GB in float.
      test_beyond_32_bits(c, strided(c, {3, 715827882}, 2), 0);
      test_beyond_32_bits(c, rows(c, 65536, 32767, 16, 1), 0);
    }
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

// What the C++ tests compare with: number formats and memory as bytes; f, f', f'' from their
// definitions in long double; and the largest errors allowed, from the table that Python reads too.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "mish_kernels.h"

namespace mish::test {

constexpr long double kInfinity = std::numeric_limits<long double>::infinity();

/// A binary floating-point format, decoded and encoded here by arithmetic alone.
struct Format {
  const char* name;
  DType dtype;
  int size, mantissa, min_exponent, max_exponent;

  int sign_bit() const { return 8 * size - 1; }
  uint64_t infinity() const {
    return static_cast<uint64_t>(max_exponent - min_exponent + 2) << mantissa;
  }
  uint64_t magnitude(uint64_t bits) const { return bits & ~(uint64_t{1} << sign_bit()); }
  bool is_nan(uint64_t bits) const { return magnitude(bits) > infinity(); }
  bool is_negative(uint64_t bits) const { return bits >> sign_bit(); }

  long double decode(uint64_t bits) const {
    const uint64_t m = magnitude(bits);
    const int field = static_cast<int>(m >> mantissa);
    const uint64_t fraction = m & ((uint64_t{1} << mantissa) - 1);
    const uint64_t digits = field > 0 ? fraction | (uint64_t{1} << mantissa) : fraction;
    long double value = std::ldexp(static_cast<long double>(digits),
                                   std::max(field, 1) - 1 + min_exponent - mantissa);
    if (m == infinity()) value = kInfinity;
    if (m > infinity()) value = std::numeric_limits<long double>::quiet_NaN();
    return is_negative(bits) ? -value : value;
  }

  /// Towards zero.
  uint64_t encode(long double value) const {
    const uint64_t sign = static_cast<uint64_t>(std::signbit(value)) << sign_bit();
    value = std::fabs(value);
    if (std::isnan(value)) return infinity() + 1 + (uint64_t{1} << (mantissa - 1));
    if (value == 0) return sign;
    if (value == kInfinity || std::ilogb(value) > max_exponent) return sign | infinity();
    const int exponent = std::max(std::ilogb(value), min_exponent);
    // The leading digit of a normal number adds 1 to the exponent field, a subnormal has none.
    const auto digits = static_cast<uint64_t>(std::ldexp(value, mantissa - exponent));
    return sign | ((static_cast<uint64_t>(exponent - min_exponent) << mantissa) + digits);
  }

  /// The unit in the last place at `value`.
  long double spacing(long double value) const {
    const int exponent = value == 0 ? min_exponent : std::max(std::ilogb(value), min_exponent);
    return std::ldexp(1.0L, exponent - mantissa);
  }
};

constexpr Format kFormats[] = {{"fp32", DType::kFloat, 4, 23, -126, 127},
                               {"fp64", DType::kDouble, 8, 52, -1022, 1023},
                               {"fp16", DType::kHalf, 2, 10, -14, 15},
                               {"bf16", DType::kBFloat16, 2, 7, -126, 127}};

/// f, f' or f'' by the chain rule on x tanh(softplus(x)); limits at infinity.
inline long double reference(Op op, long double x) {
  if (std::isnan(x)) return x;
  if (x > 800) return op == Op::kForward ? x : op == Op::kBackward ? 1 : 0;
  if (x < -800) return op == Op::kForward ? -0.0L : 0;
  const long double e = std::exp(x), softplus = std::log1p(e), t = std::tanh(softplus);
  const long double sech = 1 / std::cosh(softplus);
  const long double sigmoid = 1 / (1 + std::exp(-x)), rest = 1 / (1 + e);
  const long double t1 = sech * sech * sigmoid, t2 = t1 * (rest - 2 * t * sigmoid);
  if (op == Op::kForward) return x * t;
  return op == Op::kBackward ? t + x * t1 : 2 * t1 + x * t2;
}

/// An error of `ulp` units in the last place plus `absolute`.
struct Bound {
  long double ulp, absolute;
};

/// The errors that bounds.csv allows a backend, "cpu" or "cuda"; MISH_BOUNDS is its path.
class Bounds {
 public:
  explicit Bounds(const std::string& backend) {
    std::ifstream file(MISH_BOUNDS);
    for (std::string line; std::getline(file, line);) {
      std::istringstream fields(line);
      std::vector<std::string> row;
      for (std::string field; std::getline(fields, field, ',');) row.push_back(field);
      const auto number = [&](int i) { return std::strtold(row[i].c_str(), nullptr); };
      const bool of_errors = row.size() == 8 && row[0] == backend && number(7) == 0;
      if (of_errors) {
        rows_.push_back({row[1], row[2], number(3), number(4), {number(5), number(6)}});
      }
    }
    if (rows_.empty()) {
      std::printf("%s holds no bounds of %s\n", MISH_BOUNDS, backend.c_str());
      std::exit(1);
    }
  }

  /// At infinity and for NaN, and where no row is, nothing is allowed.
  Bound at(Op op, const Format& format, long double x) const {
    const char* functions[] = {"f", "f'", "f''"};
    for (const Row& row : rows_) {
      const bool same = row.dtype == format.name && row.function == functions[static_cast<int>(op)];
      if (same && row.low < x && x <= row.high && x < kInfinity) return row.bound;
    }
    return {0, 0};
  }

 private:
  struct Row {
    std::string dtype, function;
    long double low, high;
    Bound bound;
  };
  std::vector<Row> rows_;
};

/// Memory for elements of a format, as bytes on the heap: a sanitizer sees each step beyond it.
class Memory {
 public:
  Memory(const Format& format, int64_t count, uint8_t fill = 0xa5)
      : size_(format.size), bytes_(count * format.size, fill) {}

  char* at(int64_t i) { return reinterpret_cast<char*>(bytes_.data()) + i * size_; }
  void set(int64_t i, uint64_t bits) { std::memcpy(at(i), &bits, size_); }
  uint64_t get(int64_t i) {
    uint64_t bits = 0;
    std::memcpy(&bits, at(i), size_);
    return bits;
  }
  /// Takes the first `count` elements of `from` to `place` and behind it.
  void copy(Memory& from, int64_t count, int64_t place) {
    std::memcpy(at(place), from.at(0), count * size_);
  }
  bool operator==(const Memory& other) const { return bytes_ == other.bytes_; }
  int64_t count() const { return static_cast<int64_t>(bytes_.size()) / size_; }

 private:
  int size_;
  std::vector<uint8_t> bytes_;
};

}  // namespace mish::test

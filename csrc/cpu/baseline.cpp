// The kernels for any processor: one element at a time in plain C++, which the compiler vectorises
// for its own target.
#include <cstring>

#include "cpu/table.h"
#include "mish_math.h"

namespace mish::cpu {
namespace {

template <class To, class From>
MISH_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T, class Bits, int kMantissa>
struct Scalar {
  using Element = T;
  using V = T;
  static constexpr int kWidth = 1;
  static MISH_INLINE V set(double c) { return static_cast<V>(c); }
  static MISH_INLINE V max(V c, V x) { return x < c ? c : x; }
  static MISH_INLINE V min(V c, V x) { return x > c ? c : x; }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
  static MISH_INLINE V exponent(V x) { return bits_as<V>(bits_as<Bits>(x) << kMantissa); }
  // Without the instruction, fma() is a slow library call.
  static MISH_INLINE V fma(V a, V b, V c) { return a * b + c; }
};
// Not if -march allows FMA on x86: the bits would depend on flags, and processors with FMA have
// kernels of their own.
#if defined(__ARM_FEATURE_FMA) || defined(MISH_BASELINE_FMA)
struct Float : Scalar<float, uint32_t, 23> {
  static MISH_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
};
struct Double : Scalar<double, uint64_t, 52> {
  static MISH_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
using Float16 = Float;
#else
struct Float : Scalar<float, uint32_t, 23> {
  /// Rounded once but for 1 case in 2^29: in double the product is exact.
  static MISH_INLINE float fma(float a, float b, float c) {
    return static_cast<float>(static_cast<double>(a) * b + c);
  }
};
using Double = Scalar<double, uint64_t, 52>;
using Float16 = Scalar<float, uint32_t, 23>;
#endif

MISH_INLINE double sum(float x) { return x; }
MISH_INLINE double sum(double x) { return x; }

/// Compilers do not vectorise a pipelined loop.
template <int kParts>
constexpr int kPipelined = 1;

MISH_INLINE void load(const float* from, float (&x)[1]) { x[0] = *from; }
MISH_INLINE void store(float* to, const float (&x)[1]) { *to = x[0]; }
MISH_INLINE void load(const double* from, double (&x)[1]) { x[0] = *from; }
MISH_INLINE void store(double* to, const double (&x)[1]) { *to = x[0]; }

constexpr int kBFloat16Parts = 1;
MISH_INLINE void load(const bfloat16_bits* from, float (&x)[1]) {
  x[0] = bits_as<float>(static_cast<uint32_t>(*from) << 16);
}
/// To nearest even: adds half of the last kept bit, less one if that bit is 0. A NaN stays a NaN:
/// those of a 16-bit input or of the processor have zeros in the low bits, so nothing carries.
MISH_INLINE void store(bfloat16_bits* to, const float (&x)[1]) {
  const uint32_t bits = bits_as<uint32_t>(x[0]);
  *to = static_cast<bfloat16_bits>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

MISH_INLINE void load(const half_bits* from, float (&x)[1]) {
  const uint32_t half = static_cast<uint32_t>(*from);
  const uint32_t sign = (half & 0x8000) << 16, magnitude = half & 0x7fff;
  // Normal: rebase the exponent from 15 to 127; infinity and NaN: all ones. Subnormal: an integer
  // multiple of 2^-24.
  const uint32_t rebased = (magnitude << 13) + ((127 - 15) << 23);
  const uint32_t special = (magnitude << 13) | 0x7f800000;
  const uint32_t normal = magnitude >= 0x7c00 ? special : rebased;
  const uint32_t subnormal =
      bits_as<uint32_t>(static_cast<float>(static_cast<int>(magnitude)) * 0x1p-24f);
  x[0] = bits_as<float>(sign | (magnitude < 0x0400 ? subnormal : normal));
}
MISH_INLINE void store(half_bits* to, const float (&x)[1]) {
  const uint32_t bits = bits_as<uint32_t>(x[0]), sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  // Normal: rebase the exponent and round to nearest even; a carry past the largest gives infinity.
  const uint32_t rebased = magnitude - ((127 - 15) << 23);
  const uint32_t rounded = (rebased + 0x0fff + ((rebased >> 13) & 1)) >> 13;
  const uint32_t normal = rounded < 0x7c00 ? rounded : 0x7c00;
  // Subnormal: adding 0.5 puts the last bit of the sum at 2^-24, so the addition rounds.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  *to = static_cast<half_bits>(sign | (magnitude > 0x7f800000 ? 0x7e00 : finite));
}

}  // namespace
}  // namespace mish::cpu

#include "cpu/loops.h"
#include "cpu/norm_loops.h"

const mish::cpu::Table mish::cpu::baseline_table = mish::cpu::kTable;
const mish::cpu::NormTable mish::cpu::baseline_norm_table = mish::cpu::kNormTable;

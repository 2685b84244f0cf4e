// The arithmetics of mish_math.h on the GPU.
#pragma once

#include "cuda/ptx.cuh"
#include "mish_math.h"

namespace mish::cuda {

/// One float; beside what mish_arithmetic.h asks of lanes, some instructions of the hardware.
struct Float {
  using V = float;
  static constexpr int kWidth = 1;
  static MISH_INLINE V set(double c) { return static_cast<float>(c); }
  static MISH_INLINE V fma(V a, V b, V c) { return __fmaf_rn(a, b, c); }
  static MISH_INLINE V fma_up(V a, V b, V c) { return __fmaf_ru(a, b, c); }  // rounded up
  static MISH_INLINE V rcp(V b) { return ptx::rcp(b); }
  static MISH_INLINE V ex2(V x) { return ptx::ex2(x); }
  static MISH_INLINE V max(V c, V x) { return ptx::max_nan(c, x); }
  static MISH_INLINE V min(V c, V x) { return ptx::min_nan(c, x); }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
  static MISH_INLINE V exponent(V x) { return __uint_as_float(__float_as_uint(x) << 23); }
};

#if MISH_PAIRS
/// Two floats, for GPUs that add and multiply them in one instruction.
struct TwoFloats {
  using V = ptx::Pair;
  static constexpr int kWidth = 2;
  static MISH_INLINE V set(double c) { return {Float::set(c), Float::set(c)}; }
  static MISH_INLINE V fma(V a, V b, V c) { return ptx::fma(a, b, c); }
  static MISH_INLINE V fma_up(V a, V b, V c) { return ptx::fma_up(a, b, c); }
  static MISH_INLINE V rcp(V b) { return {Float::rcp(b.x), Float::rcp(b.y)}; }
  static MISH_INLINE V ex2(V x) { return {Float::ex2(x.x), Float::ex2(x.y)}; }
  static MISH_INLINE V max(V c, V x) { return {Float::max(c.x, x.x), Float::max(c.y, x.y)}; }
  static MISH_INLINE V min(V c, V x) { return {Float::min(c.x, x.x), Float::min(c.y, x.y)}; }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) {
    return {Float::if_less(a.x, b.x, yes.x, no.x), Float::if_less(a.y, b.y, yes.y, no.y)};
  }
  static MISH_INLINE V exponent(V x) { return {Float::exponent(x.x), Float::exponent(x.y)}; }
};
#endif

/// The operations of the CPU, so its bits, whatever rcp.approx does within its 1 ULP: shown for all
/// floats by tests/cpp/test_same_bits.cpp. CUDA's own division would do too, but branches on
/// divisors and quotients near the ends of the range, which do not occur here.
template <class L>
struct RefinedFloat : mish::RefinedFloat<L> {
  using V = typename L::V;

  /// 1 / b after one step of Newton's method, which ends below 1 / b unless rounded up. Above it, a
  /// second step or the remainder of a quotient rounds correctly; below it, 1 / (2 - 2^-23) would
  /// be a tie.
  static MISH_INLINE V above_reciprocal(V b) {
    const V r = L::rcp(b);
    return L::fma_up(L::fma(-b, r, L::set(1)), r, r);
  }
  static MISH_INLINE V reciprocal(V b) {
    const V r = above_reciprocal(b);
    return L::fma(L::fma(-b, r, L::set(1)), r, r);
  }
  static MISH_INLINE V divide(V a, V b) {
    const V r = above_reciprocal(b), quotient = a * r;
    return L::fma(L::fma(-b, quotient, a), r, quotient);
  }
};

/// For results of 11 bits or fewer, where ex2.approx and rcp.approx take one instruction each. The
/// rounding of x log2(e) costs up to 5e-6 of e^x, which is 1/100 of the last bit of such a result;
/// subnormal e^x is 0.
template <class L>
struct PlainFloat : RefinedFloat<L> {
  using V = typename L::V;
  static constexpr bool kRefined = false;

  static MISH_INLINE V reciprocal(V b) { return L::rcp(b); }
  static MISH_INLINE V divide(V a, V b) { return a * L::rcp(b); }
  static MISH_INLINE V exp(V x) { return L::ex2(x * L::set(1.4426950408889634)); }
};

struct Double {
  using V = double;
  static constexpr int kWidth = 1;
  static MISH_INLINE V set(double c) { return c; }
  static MISH_INLINE V fma(V a, V b, V c) { return __fma_rn(a, b, c); }
  static MISH_INLINE V max(V c, V x) { return x < c ? c : x; }
  static MISH_INLINE V min(V c, V x) { return x > c ? c : x; }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
  static MISH_INLINE V exponent(V x) { return __hiloint2double(__double2loint(x) << 20, 0); }
};

/// The lanes for N floats at a time.
template <int N, bool pairs = MISH_PAIRS && N % 2 == 0>
struct FloatLanes {
  using L = Float;
};
#if MISH_PAIRS
template <int N>
struct FloatLanes<N, true> {
  using L = TwoFloats;
};
#endif

}  // namespace mish::cuda

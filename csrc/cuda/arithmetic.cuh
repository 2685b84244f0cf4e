// The arithmetics of mish_math.h on the GPU.
//
// ex2.approx and rcp.approx in their .ftz form are one instruction each; expf() and a division cost
// 43. Subnormal e^x flushes to 0, so f(x) is -0 below -87.34.
#pragma once

#include "cuda/ptx.cuh"
#include "mish_math.h"

namespace mish::cuda {

/// For results of 11 bits or fewer: the rounding of x log2(e) costs up to 5e-6 of e^x, which is
/// 1/100 of the last bit of such a result.
struct PlainFloat {
  using V = float;
  static constexpr float kLowest = -88, kSaturation = 20;
  static constexpr bool kRefined = false, kCompensated = false;
  static constexpr float kLog2e = 1.4426950408889634f;

  static MISH_INLINE V set(double c) { return static_cast<float>(c); }
  static MISH_INLINE V fma(V a, V b, V c) { return __fmaf_rn(a, b, c); }
  static MISH_INLINE V reciprocal(V b) { return ptx::rcp(b); }
  static MISH_INLINE V divide(V a, V b) { return a * ptx::rcp(b); }
  static MISH_INLINE V max(V c, V x) { return ptx::max_nan(c, x); }
  static MISH_INLINE V min(V c, V x) { return ptx::min_nan(c, x); }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
  static MISH_INLINE V exp(V x) { return ptx::ex2(x * kLog2e); }
};

/// For float results. They are compensated: ex2.approx may be off by 2.5 ULP of e^x, and little may
/// come on top of it.
struct RefinedFloat : PlainFloat {
  static constexpr bool kRefined = true, kCompensated = true;
  static constexpr float kLn2 = 0.6931471805599453f;
  static constexpr float kLn2Low = -1.904654299957768e-9f;  // ln(2) - kLn2

  /// What rounding took from the product in exp: x - high ln(2). The first product cancels most of
  /// x exactly; kLn2Low mends what rounding took from ln(2).
  static MISH_INLINE V lost(V x) {
    const V high = x * kLog2e;
    return fma(high, -kLn2Low, fma(high, -kLn2, x));
  }
  /// Mended by its remainder: rcp.approx leaves no error.
  static MISH_INLINE V divide(V a, V b) {
    const V r = ptx::rcp(b), quotient = a * r;
    return fma(fma(-b, quotient, a), r, quotient);
  }
};

struct RefinedDouble {
  using V = double;
  static constexpr double kLowest = -746, kSaturation = 22;
  static constexpr bool kRefined = true, kCompensated = false;

  static MISH_INLINE V set(double c) { return c; }
  static MISH_INLINE V fma(V a, V b, V c) { return __fma_rn(a, b, c); }
  static MISH_INLINE V divide(V a, V b) { return a / b; }
  static MISH_INLINE V reciprocal(V b) { return 1 / b; }
  static MISH_INLINE V max(V c, V x) { return x < c ? c : x; }
  static MISH_INLINE V min(V c, V x) { return x > c ? c : x; }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
  static MISH_INLINE V exp(V x) { return ::exp(x); }
};

}  // namespace mish::cuda

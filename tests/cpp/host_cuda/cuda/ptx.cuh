// A model of the approximate instructions in place of csrc/cuda/ptx.cuh: correctly rounded, or off
// by as much as the PTX ISA permits, in a direction that the test chooses.
#pragma once

#include <cmath>
#include <cstdlib>

namespace mish::cuda::ptx {

/// How far the next results are off, in units of the largest permitted error: -1, 0 or 1.
inline int ex2_error = 0, rcp_error = 0;

/// The float `ulps` places from `exact`; subnormal ones are 0.
inline float approximate(double exact, int ulps) {
  const float nearest = static_cast<float>(exact);
  if (!std::isfinite(nearest)) return nearest;
  float result = nearest;
  for (int i = 0; i < std::abs(ulps); ++i) {
    result = std::nextafter(result, ulps > 0 ? INFINITY : -INFINITY);
  }
  return std::fabs(nearest) < 0x1p-126f ? std::copysign(0.0f, nearest) : result;
}

/// "The maximum ulp error is 2 ulp from correctly rounded result" (PTX ISA 9.1, section 9.7.3.21).
inline float ex2(float x) { return approximate(std::exp2(static_cast<double>(x)), 2 * ex2_error); }

/// "The maximum ulp error is 1" (PTX ISA 9.1, section 9.7.3.13). Counted here from the correctly
/// rounded result, so up to 1.5 from the exact one.
inline float rcp(float x) {
  if (std::fabs(x) < 0x1p-126f) return std::copysign(INFINITY, x);
  return approximate(1 / static_cast<double>(x), rcp_error);
}

inline float max_nan(float a, float b) { return b < a || a != a ? a : b; }
inline float min_nan(float a, float b) { return b > a || a != a ? a : b; }

}  // namespace mish::cuda::ptx

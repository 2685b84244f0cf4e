// A model of the approximate instructions in place of csrc/cuda/ptx.cuh: correctly rounded, or off
// by as much as the PTX ISA permits, in a direction that the test chooses.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"

#define MISH_PAIRS 1

namespace mish::cuda::ptx {

/// How far the next results are off, in units of the largest permitted error: -1, 0 or 1.
inline int ex2_error = 0, rcp_error = 0;

/// The float `ulps` places further from zero; subnormal ones are 0.
inline float approximate(float nearest, int ulps) {
  uint32_t bits;
  std::memcpy(&bits, &nearest, sizeof(bits));
  bits += static_cast<uint32_t>(ulps);
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  const float magnitude = std::fabs(nearest);
  if (!(magnitude < INFINITY)) result = nearest;
  return magnitude < 0x1p-126f ? std::copysign(0.0f, nearest) : result;
}

/// "The maximum ulp error is 2 ulp from correctly rounded result" (PTX ISA 9.1, section 9.7.3.21).
inline float ex2(float x) {
  return approximate(static_cast<float>(std::exp2(static_cast<double>(x))), 2 * ex2_error);
}

/// "The maximum ulp error is 1" (PTX ISA 9.1, section 9.7.3.13). Counted here from the correctly
/// rounded result, so up to 1.5 from the exact one.
inline float rcp(float x) {
  return approximate(std::fabs(x) < 0x1p-126f ? std::copysign(INFINITY, x) : 1 / x, rcp_error);
}

inline float max_nan(float a, float b) { return b < a || a != a ? a : b; }
inline float min_nan(float a, float b) { return b > a || a != a ? a : b; }

struct alignas(8) Pair {
  float x, y;
};
inline Pair operator-(Pair a) { return {-a.x, -a.y}; }
inline Pair operator+(Pair a, Pair b) { return {a.x + b.x, a.y + b.y}; }
inline Pair operator-(Pair a, Pair b) { return {a.x - b.x, a.y - b.y}; }
inline Pair operator*(Pair a, Pair b) { return {a.x * b.x, a.y * b.y}; }
inline Pair fma(Pair a, Pair b, Pair c) {
  return {__fmaf_rn(a.x, b.x, c.x), __fmaf_rn(a.y, b.y, c.y)};
}
inline Pair fma_up(Pair a, Pair b, Pair c) {
  return {__fmaf_ru(a.x, b.x, c.x), __fmaf_ru(a.y, b.y, c.y)};
}

}  // namespace mish::cuda::ptx

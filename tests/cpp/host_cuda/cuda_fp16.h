// float16 for a host compiler: by arithmetic, since not every compiler has the type.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half from) {
  const int field = from.bits >> 10 & 0x1f, fraction = from.bits & 0x3ff;
  float magnitude = std::ldexp(static_cast<float>(field ? fraction + 1024 : fraction),
                               std::max(field, 1) - 15 - 10);
  if (field == 31) magnitude = fraction ? NAN : INFINITY;
  return from.bits >> 15 ? -magnitude : magnitude;
}

inline __half __float2half_rn(float from) {
  const int sign = std::signbit(from) ? 0x8000 : 0;
  const float magnitude = std::fabs(from);
  if (std::isnan(from)) return {0x7fff};
  if (magnitude >= 65520) return {static_cast<uint16_t>(sign | 0x7c00)};
  const int exponent = magnitude == 0 ? -14 : std::max(std::ilogb(magnitude), -14);
  // The leading digit of a normal number, and a carry out of the others, count the exponent up.
  const auto digits = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return {static_cast<uint16_t>(sign | (((exponent + 14) << 10) + digits))};
}

inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}

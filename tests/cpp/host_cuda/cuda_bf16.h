// bfloat16 for a host compiler.
#pragma once

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 from) {
  const uint32_t bits = static_cast<uint32_t>(from.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float from) {
  if (from != from) return {0x7fff};
  uint32_t bits;
  std::memcpy(&bits, &from, sizeof(bits));
  const uint32_t below = bits & 0xffff, half = 0x8000;
  bits >>= 16;
  if (below > half || (below == half && bits % 2 == 1)) ++bits;
  return {static_cast<uint16_t>(bits)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

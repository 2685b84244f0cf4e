// The kernels for processors with AVX-512: 16 floats or 8 doubles at a time.
#include "cpu/table.h"

#if MISH_X86_TARGETS
#include <immintrin.h>

#include <algorithm>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false, in GCC 12's own headers: PR105593
#endif
#include "cpu/arithmetic.h"

namespace mish::cpu {
namespace {

struct Float {
  using V = float __attribute__((vector_size(64)));
  static constexpr int kWidth = 16;
  static MISH_INLINE V set(double c) { return _mm512_set1_ps(static_cast<float>(c)); }
  static MISH_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static MISH_INLINE V max(V c, V x) { return _mm512_max_ps(c, x); }  // a NaN in the second wins
  static MISH_INLINE V min(V c, V x) { return _mm512_min_ps(c, x); }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static MISH_INLINE V exponent(V x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 23));
  }
};

struct Double {
  using V = double __attribute__((vector_size(64)));
  static constexpr int kWidth = 8;
  static MISH_INLINE V set(double c) { return _mm512_set1_pd(c); }
  static MISH_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  static MISH_INLINE V max(V c, V x) { return _mm512_max_pd(c, x); }
  static MISH_INLINE V min(V c, V x) { return _mm512_min_pd(c, x); }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static MISH_INLINE V exponent(V x) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(x), 52));
  }
};

using Float16 = Float;

/// There are registers for two steps at a time.
template <int kParts>
constexpr bool kOverlaps = true;

MISH_INLINE void load(const float* from, Float::V (&x)[1]) { x[0] = _mm512_loadu_ps(from); }
MISH_INLINE void store(float* to, const Float::V (&x)[1]) { _mm512_storeu_ps(to, x[0]); }
MISH_INLINE void load(const double* from, Double::V (&x)[1]) { x[0] = _mm512_loadu_pd(from); }
MISH_INLINE void store(double* to, const Double::V (&x)[1]) { _mm512_storeu_pd(to, x[0]); }

MISH_INLINE void load(const half_bits* from, Float::V (&x)[1]) {
  x[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
MISH_INLINE void store(half_bits* to, const Float::V (&x)[1]) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(x[0], _MM_FROUND_TO_NEAREST_INT));
}

/// Even elements in one register and odd ones in the other: no lane ever moves.
constexpr int kBFloat16Parts = 2;
MISH_INLINE void load(const bfloat16_bits* from, Float::V (&x)[2]) {
  const __m512i pairs = _mm512_loadu_si512(from);
  x[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  x[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(~0xffff)));
}
/// To nearest even, in the upper half: see baseline.cpp.
MISH_INLINE __m512i rounded(Float::V x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i sum = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(sum, odd, sum, _mm512_set1_epi32(1));
}
MISH_INLINE void store(bfloat16_bits* to, const Float::V (&x)[2]) {
  const __m512i even = _mm512_srli_epi32(rounded(x[0]), 16);
  _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaa, even, rounded(x[1])));
}

}  // namespace
}  // namespace mish::cpu

#include "cpu/loops.h"

const mish::cpu::Table mish::cpu::avx512_table = mish::cpu::kTable;
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

// The kernels for processors with AVX2, FMA and F16C: 8 floats or 4 doubles at a time.
#include "cpu/table.h"

#if MISH_X86_TARGETS
#include <immintrin.h>

#include <algorithm>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include "mish_math.h"

namespace mish::cpu {
namespace {

struct Float {
  using Element = float;
  using V = float __attribute__((vector_size(32)));
  static constexpr int kWidth = 8;
  static MISH_INLINE V set(double c) { return _mm256_set1_ps(static_cast<float>(c)); }
  static MISH_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static MISH_INLINE V max(V c, V x) { return _mm256_max_ps(c, x); }  // a NaN in the second wins
  static MISH_INLINE V min(V c, V x) { return _mm256_min_ps(c, x); }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static MISH_INLINE V exponent(V x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23));
  }
};

struct Double {
  using Element = double;
  using V = double __attribute__((vector_size(32)));
  static constexpr int kWidth = 4;
  static MISH_INLINE V set(double c) { return _mm256_set1_pd(c); }
  static MISH_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  static MISH_INLINE V max(V c, V x) { return _mm256_max_pd(c, x); }
  static MISH_INLINE V min(V c, V x) { return _mm256_min_pd(c, x); }
  static MISH_INLINE V if_less(V a, V b, V yes, V no) {
    return _mm256_blendv_pd(no, yes, _mm256_cmp_pd(a, b, _CMP_LT_OQ));
  }
  static MISH_INLINE V exponent(V x) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(x), 52));
  }
};

using Float16 = Float;

/// All lanes, in double.
MISH_INLINE double sum(Double::V x) {
  const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
  return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
}
MISH_INLINE double sum(Float::V x) {
  return sum(_mm256_cvtps_pd(_mm256_castps256_ps128(x)) +
             _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
}

/// There are registers for three steps of one part at a time.
template <int kParts>
constexpr int kPipelined = kParts == 1 ? 3 : 1;

MISH_INLINE void load(const float* from, Float::V (&x)[1]) { x[0] = _mm256_loadu_ps(from); }
MISH_INLINE void store(float* to, const Float::V (&x)[1]) { _mm256_storeu_ps(to, x[0]); }
MISH_INLINE void load(const double* from, Double::V (&x)[1]) { x[0] = _mm256_loadu_pd(from); }
MISH_INLINE void store(double* to, const Double::V (&x)[1]) { _mm256_storeu_pd(to, x[0]); }

MISH_INLINE void load(const half_bits* from, Float::V (&x)[1]) {
  x[0] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
MISH_INLINE void store(half_bits* to, const Float::V (&x)[1]) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtps_ph(x[0], _MM_FROUND_TO_NEAREST_INT));
}

/// Even elements in one register and odd ones in the other: no lane ever moves.
constexpr int kBFloat16Parts = 2;
MISH_INLINE void load(const bfloat16_bits* from, Float::V (&x)[2]) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  x[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  x[1] = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(~0xffff)));
}
/// To nearest even, in the upper half: see baseline.cpp.
MISH_INLINE __m256i rounded(Float::V x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}
MISH_INLINE void store(bfloat16_bits* to, const Float::V (&x)[2]) {
  const __m256i even = _mm256_srli_epi32(rounded(x[0]), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_blend_epi16(even, rounded(x[1]), 0xaa));
}

}  // namespace
}  // namespace mish::cpu

#include "cpu/loops.h"
#include "cpu/norm_loops.h"

const mish::cpu::Table mish::cpu::avx2_table = mish::cpu::kTable;
const mish::cpu::NormTable mish::cpu::avx2_norm_table = mish::cpu::kNormTable;
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

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
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include "mish_math.h"

namespace mish::cpu {
namespace {

struct Float {
  using Element = float;
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
  using Element = double;
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

/// There are registers for three steps of one part at a time, or two of two.
template <int kParts>
constexpr int kPipelined = kParts == 1 ? 3 : 2;

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
MISH_INLINE void split(__m512i pairs, Float::V (&x)[2]) {
  x[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  x[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(~0xffff)));
}
MISH_INLINE void load(const bfloat16_bits* from, Float::V (&x)[2]) {
  split(_mm512_loadu_si512(from), x);
}
/// To nearest even, in the upper half: see baseline.cpp.
MISH_INLINE __m512i rounded(Float::V x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i sum = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(sum, odd, sum, _mm512_set1_epi32(1));
}
MISH_INLINE __m512i joined(const Float::V (&x)[2]) {
  const __m512i even = _mm512_srli_epi32(rounded(x[0]), 16);
  return _mm512_mask_blend_epi16(0xaaaaaaaa, even, rounded(x[1]));
}
MISH_INLINE void store(bfloat16_bits* to, const Float::V (&x)[2]) {
  _mm512_storeu_si512(to, joined(x));
}

// The first n elements, and a filling behind them.
MISH_INLINE __mmask32 first(int64_t n) { return static_cast<__mmask32>((uint64_t{1} << n) - 1); }
MISH_INLINE void load_some(const float* from, int64_t n, float filling, Float::V (&x)[1]) {
  x[0] = _mm512_mask_loadu_ps(_mm512_set1_ps(filling), first(n), from);
}
MISH_INLINE void store_some(float* to, int64_t n, const Float::V (&x)[1]) {
  _mm512_mask_storeu_ps(to, first(n), x[0]);
}
MISH_INLINE void load_some(const double* from, int64_t n, double filling, Double::V (&x)[1]) {
  x[0] = _mm512_mask_loadu_pd(_mm512_set1_pd(filling), first(n), from);
}
MISH_INLINE void store_some(double* to, int64_t n, const Double::V (&x)[1]) {
  _mm512_mask_storeu_pd(to, first(n), x[0]);
}
MISH_INLINE void load_some(const half_bits* from, int64_t n, half_bits filling, Float::V (&x)[1]) {
  x[0] = _mm512_cvtph_ps(
      _mm256_mask_loadu_epi16(_mm256_set1_epi16(static_cast<int16_t>(filling)), first(n), from));
}
MISH_INLINE void store_some(half_bits* to, int64_t n, const Float::V (&x)[1]) {
  _mm256_mask_storeu_epi16(to, first(n), _mm512_cvtps_ph(x[0], _MM_FROUND_TO_NEAREST_INT));
}
MISH_INLINE void load_some(const bfloat16_bits* from, int64_t n, bfloat16_bits filling,
                           Float::V (&x)[2]) {
  split(_mm512_mask_loadu_epi16(_mm512_set1_epi16(static_cast<int16_t>(filling)), first(n), from),
        x);
}
MISH_INLINE void store_some(bfloat16_bits* to, int64_t n, const Float::V (&x)[2]) {
  _mm512_mask_storeu_epi16(to, first(n), joined(x));
}

/// All lanes, in double.
MISH_INLINE double sum(Double::V x) { return _mm512_reduce_add_pd(x); }
MISH_INLINE double sum(Float::V x) {
  return sum(_mm512_cvtps_pd(_mm512_castps512_ps256(x)) +
             _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
}
/// One by one: a load of both would wait for the two stores before it.
MISH_INLINE void add(__m128d two, double (&totals)[2]) {
  totals[0] += _mm_cvtsd_f64(two);
  totals[1] += _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}
/// Both at once.
MISH_INLINE void add_sums(Double::V x, Double::V y, double (&totals)[2]) {
  const __m512d pairs = _mm512_unpacklo_pd(x, y) + _mm512_unpackhi_pd(x, y);
  const __m256d four = _mm512_castpd512_pd256(pairs) + _mm512_extractf64x4_pd(pairs, 1);
  add(_mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1), totals);
}
MISH_INLINE __m256 halves(Float::V x) {
  return _mm512_castps512_ps256(x) + _mm512_extractf32x8_ps(x, 1);
}
MISH_INLINE void add_sums(Float::V x, Float::V y, double (&totals)[2]) {
  const __m256 a = halves(x), b = halves(y);
  const __m256 eight = _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b);
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  add(_mm_cvtps_pd(four + _mm_movehl_ps(four, four)), totals);
}

}  // namespace
}  // namespace mish::cpu

#include "cpu/loops.h"
#include "cpu/norm_loops.h"

const mish::cpu::Table mish::cpu::avx512_table = mish::cpu::kTable;
const mish::cpu::NormTable mish::cpu::avx512_norm_table = mish::cpu::kNormTable;
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

// The arithmetics of mish_math.h, over the lanes of one instruction set or of a GPU's thread.
//
// The lanes `L` are a type with
//   V              a number of one or more lanes, with + - * / and unary minus
//   set, fma, max, min, if_less   as mish_math.h describes them
//   exponent(V)    the low bits of each lane moved up into its exponent field
//
// Every operation here rounds as IEEE 754 has it. So where fma() rounds once, float and double have
// the same bits on all machines.
#pragma once

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math or -ffinite-math-only: these formulas need infinities and NaN. Compile without."
#endif

#if defined(__CUDACC__)
#define MISH_INLINE __device__ __forceinline__
#elif defined(__GNUC__)
#define MISH_INLINE inline __attribute__((always_inline))
#define MISH_INLINE_LAMBDA __attribute__((always_inline))
#else
#define MISH_INLINE inline
#define MISH_INLINE_LAMBDA
#endif

namespace mish {

/// q0 + q1 r + (q2 + q3 r) r^2 + ...: Horner's scheme in r^2, of which each step waits for half as
/// many results as in r.
template <class L, class... Rest>
MISH_INLINE typename L::V polynomial(typename L::V r, typename L::V r2, double q0, double q1,
                                     Rest... rest) {
  const auto pair = L::fma(L::set(q1), r, L::set(q0));
  if constexpr (sizeof...(rest) == 0) {
    return pair;
  } else if constexpr (sizeof...(rest) == 1) {
    return L::fma(L::set((rest, ...)), r2, pair);
  } else {
    return L::fma(polynomial<L>(r, r2, rest...), r2, pair);
  }
}

/// x = k ln 2 + r with k an integer and |r| <= ln(2) / 2; scale = 2^k.
template <class V>
struct Reduced {
  V r, scale;
};

/// Adding `shifter` = 1.5 * 2^(mantissa bits) + exponent bias rounds x / ln 2 to k and leaves
/// k + bias in the low bits, which exponent() turns into 2^k. k = -bias gives the pattern of 0:
/// that is how e^x becomes 0. ln 2 comes in as many parts as its precision takes; of several, the
/// first has so few bits that k times it is exact.
template <class L, class... Parts>
MISH_INLINE Reduced<typename L::V> reduce(typename L::V x, double shifter, Parts... ln2) {
  const auto shifted = L::fma(x, L::set(1.4426950408889634), L::set(shifter));
  const auto k = shifted - L::set(shifter);
  auto r = x;
  ((r = L::fma(k, L::set(-ln2), r)), ...);
  return {r, L::exponent(shifted)};
}

/// 2^k e^r with e^r = 1 + r (1 + r (q1 + q2 r + ...)) and one rounding at the end. The outer terms
/// are not part of the pairs: their rounding would cost f 0.13 ULP in float.
template <class L, class... Coefficients>
MISH_INLINE typename L::V assemble(const Reduced<typename L::V>& x, Coefficients... q) {
  const auto inner = polynomial<L>(x.r, x.r * x.r, q...);
  return L::fma(x.scale * x.r, L::fma(inner, x.r, L::set(1)), x.scale);
}

inline constexpr double kFloatShifter = 0x1.8p23 + 127, kDoubleShifter = 0x1.8p52 + 1023;

// The coefficients are minimax for |r| <= ln(2) / 2 and relative error, from
// tests/ops/test_exp_polynomial.py.

template <class L>
struct RefinedFloat : L {
  static constexpr double kLowest = -88, kSaturation = 20;
  static constexpr bool kRefined = true;

  static MISH_INLINE Reduced<typename L::V> reduced(typename L::V x) {
    return reduce<L>(x, kFloatShifter, 0x1.62e4p-1, 0x1.7f7d1cp-20);
  }
  /// Error of the polynomial: 3.1e-9, with the coefficients as floats 3.8e-9.
  static MISH_INLINE typename L::V exp(const Reduced<typename L::V>& x) {
    return assemble<L>(x, 0.49999993447796487, 0.16666520631709497, 0.041668388045313997,
                       0.0083687168797281399, 0.0013814598646664035);
  }
  static MISH_INLINE typename L::V exp(typename L::V x) { return exp(reduced(x)); }
  static MISH_INLINE typename L::V divide(typename L::V a, typename L::V b) { return a / b; }
  static MISH_INLINE typename L::V reciprocal(typename L::V b) { return L::set(1) / b; }
};

/// For results of 11 bits or fewer: one term less, ln 2 in one part, and the plain formula.
template <class L>
struct PlainFloat : RefinedFloat<L> {
  static constexpr bool kRefined = false;

  static MISH_INLINE Reduced<typename L::V> reduced(typename L::V x) {
    return reduce<L>(x, kFloatShifter, 0.6931471805599453);
  }
  /// Error of the polynomial: 1.1e-7; of k times ln 2: at most 2.4e-7, without FMA 4.0e-6.
  static MISH_INLINE typename L::V exp(const Reduced<typename L::V>& x) {
    return assemble<L>(x, 0.49999231495155517, 0.16667114648959298, 0.041890156838762861,
                       0.0083125202351989878);
  }
  static MISH_INLINE typename L::V exp(typename L::V x) { return exp(reduced(x)); }
};

/// For norms in fp32, which have errors of their own: as for 11 bits, but with all terms of e^x.
/// From -10 on, f has at most 4.37 ULP (x = -7.58082), F.mish 3.04; below, what one part of ln 2
/// leaves costs more.
template <class L>
struct NormFloat : PlainFloat<L> {
  static MISH_INLINE typename L::V exp(const Reduced<typename L::V>& x) {
    return RefinedFloat<L>::exp(x);
  }
  static MISH_INLINE typename L::V exp(typename L::V x) { return exp(PlainFloat<L>::reduced(x)); }
};

template <class L>
struct RefinedDouble : L {
  static constexpr double kLowest = -709.0895657128241, kSaturation = 22;
  static constexpr bool kRefined = true;

  static MISH_INLINE Reduced<typename L::V> reduced(typename L::V x) {
    return reduce<L>(x, kDoubleShifter, 0x1.62e42fefa38p-1, 0x1.ef35793c7673p-45);
  }
  /// Error of the polynomial: 3.7e-18, 0.03 of the last bit.
  static MISH_INLINE typename L::V exp(const Reduced<typename L::V>& x) {
    return assemble<L>(x, 0.50000000000000106271, 0.16666666666666412523, 0.04166666666653015859,
                       0.0083333333334944616641, 0.0013888888943630112946,
                       0.00019841269506578687653, 0.000024801493098906550659,
                       2.7557586373840163694e-6, 2.7630248379211443975e-7,
                       2.5000061602835666699e-8);
  }
  static MISH_INLINE typename L::V exp(typename L::V x) { return exp(reduced(x)); }
  static MISH_INLINE typename L::V divide(typename L::V a, typename L::V b) { return a / b; }
  static MISH_INLINE typename L::V reciprocal(typename L::V b) { return L::set(1) / b; }
};

}  // namespace mish

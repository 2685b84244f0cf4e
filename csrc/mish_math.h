// Mish and its first two derivatives: the only place in this library where these formulas stand.
//
// Mish is f(x) = x tanh(softplus(x)) = x tanh(ln(1 + e^x))  (D. Misra, arXiv 1908.08681).
// With e = e^x, the identity tanh(ln y) = (y^2 - 1) / (y^2 + 1) makes it algebraic in e:
//
//   p = e (e + 2),  D = p + 2 = (e + 1)^2 + 1,  t = p / D = tanh(softplus(x))
//   f   = x t
//   f'  = t + x t'         t'  = 4 e (e + 1) / D^2
//   f'' = 2 t' + x t''     t'' = 4 e (2 + 2 e - 3 e^2 - 2 e^3) / D^3
//
// so one exponential and one reciprocal serve all three, with no cancellation for x < 0.
//
// The functions are templates over an arithmetic `A`, which says what a number is (a float, a
// double, a whole vector register, a CUDA float) and how precise it has to be:
//
//   A::V                 the number type, with + - *     A::set(c)   a constant as a number
//   A::kLowest           e^x rounds to zero at it: the clamp that makes f(-inf) = -0, not NaN
//   A::kSaturation       t rounds to 1 above it, f' to 1 and f'' to 0
//   A::kRefined          whether the result needs its last bits
//   A::kCompensated      whether e^x is exp(x) (1 + lost(x)), and f and f' also need what some of
//                        their roundings lose (if refined)
//   A::exp(x)            e^x for x in [kLowest, kSaturation]; NaN for NaN
//   A::lost(x)           what exp(x) leaves out, relative to it; some of its last bits
//   A::fma(a, b, c)      a b + c, rounded once where the hardware can
//   A::divide(a, b)      a / b for normal b; A::reciprocal(b) = 1 / b
//   A::max(c, x)         the larger; x if x is NaN     A::min(c, x)  the smaller; x if x is NaN
//   A::if_less(a, b, y, n)   a < b ? y : n
//
// The errors that stand above each function are those that `make accuracy` finds on the CPU: in
// float and 16 bits over all inputs, in double over some 10^7 (docs/numerics.md). On the GPU they
// are bounded by tests/cpp/test_cuda_kernels.cpp, under every error that the PTX ISA permits.
//
// Limits, for every arithmetic: f(-inf) = -0, f(+inf) = +inf, f(+-0) = +-0; f'(-inf) = 0,
// f'(+inf) = 1; f''(+-inf) = 0; NaN gives NaN.
#pragma once

#if defined(__CUDACC__)
#define MISH_INLINE __device__ __forceinline__
#elif defined(__GNUC__)
#define MISH_INLINE inline __attribute__((always_inline))
#else
#define MISH_INLINE inline
#endif

namespace mish {

/// What all three need of x. A value of its own, so that a loop can begin with one x before it is
/// done with another; elsewhere it is made of x in passing: value<A>(x).
template <class A>
struct Point {
  using V = typename A::V;
  V above;   // x, clamped below
  V inside;  // x, clamped below and above
  V e;       // e^inside, but for what is lost in a compensated arithmetic

  Point() = default;
  MISH_INLINE Point(V x)
      : above(A::max(A::set(A::kLowest), x)),
        inside(A::min(A::set(A::kSaturation), above)),
        e(A::exp(inside)) {}
};

/// f(x). The product uses an x that is clamped below, so that -inf gives -88 * 0, not inf * 0.
///
/// Plain, f = x p / D. Refined, t = s - s v / D with a correction s v / D that is small, so that
/// its rounding errors are too: for e < 0.7 (s, v) = (e, e^2 + e), else (1, 2). At 0.7 both
/// corrections are about as large. Compensated, the correction takes up what e^x has lost; from
/// e = 0.7 on that is nothing to speak of.
///
/// Largest errors on the CPU, where e^x is normal (x > -87.3, in double -708.3; below, all of f may
/// be lost, 7.3e-37 at x = -87.6831, in double 1.2e-305 at x = -708.743): float 2.44 ULP
/// (x = -0.238509); 16 bits 0.50 ULP (fp16, x = 1.5713); double 2.59 ULP (x = -0.599599).
template <class A>
MISH_INLINE typename A::V value(const Point<A>& x) {
  using V = typename A::V;
  const V e = x.e;
  const V e2 = e + A::set(2);
  if constexpr (A::kRefined) {
    const V half_way = A::set(0.7);
    const V minus_d = A::fma(-e, e2, A::set(-2));
    V small = A::fma(e, e, e);
    if constexpr (A::kCompensated) small = A::fma(A::lost(x.inside), minus_d, small);
    const V s = A::if_less(e, half_way, e, A::set(1));
    const V correction = A::divide(A::if_less(e, half_way, small, A::set(2)), minus_d);
    // Made -0 where x s is a zero of either sign, so that the sum has the sign of x: -0 + -0 = -0,
    // +0 + -0 = +0. What is lost may turn the sign of the correction where e = 0.
    V second;
    if constexpr (A::kCompensated) {
      second = -(A::set(0) - x.inside * s * correction);
    } else {
      second = A::fma(x.inside, s, A::set(0)) * correction;
    }
    // `above` is still +inf where `inside` is not: +inf - 20 * tiny, never inf * 0.
    return A::fma(x.above, s, second);
  } else {
    const V p = e * e2;
    return x.above * A::divide(p, p + A::set(2));
  }
}

/// f'(x) = t + x t' = e/D (e + 2 + 4 x (e + 1) / D). It crosses zero at x = -1.19243..., so its
/// error there is absolute, not relative.
///
/// Largest errors on the CPU: float 2.94 ULP for x >= 0 (x = 0.495921), 4.64 ULP for x <= -3
/// (x = -4.80927), 1.12e-7 between (x = -0.00597028); 16 bits 0.50 ULP (fp16, x = -5.1445), at the
/// zero 0.52 (fp16, x = -1.19336); double 3.45 ULP for x >= 0 (x = 0.490899), 5.98 ULP for x <= -3
/// (x = -4.81201), 2.1e-16 between (x = -0.00298602).
template <class A>
MISH_INLINE typename A::V slope(const Point<A>& x) {
  using V = typename A::V;
  const V e = x.e;
  const V e2 = e + A::set(2);
  const V d = A::fma(e, e2, A::set(2));
  const V r = A::reciprocal(d);
  const V four_x = A::set(4) * x.inside;
  const V four_x_e1 = A::fma(four_x, e, four_x);
  const V er = e * r;
  if constexpr (A::kRefined) {
    // What the rounding of D and of the reciprocal lost: 1 / D = r + r * residual.
    const V low = A::fma(e, e2, A::set(2) - d);
    const V residual = A::fma(-low, r, A::fma(-d, r, A::set(1)));
    const V refined = A::fma(r, residual, r);
    const V sum = A::fma(four_x_e1, refined, e2);
    if constexpr (A::kCompensated) {
      // What e^x has lost counts in full where e is small; 2 / D fades it out as f' goes to 1.
      const V lost = A::fma(A::lost(x.inside), r + r, residual);
      const V rest = A::fma(er, lost, A::fma(e, r, -er));  // e / D = er + rest
      return A::fma(er, sum, rest * sum);
    } else {
      return (e * refined) * sum;
    }
  } else {
    return er * A::fma(four_x_e1, r, e2);
  }
}

/// f''(x) = 8 e/D ((e + 1)/D + x (1 + e - 1.5 e^2 - e^3) / D^2); exactly 0 above the saturation
/// point, where the true value is below 1e-15.
///
/// Largest errors on the CPU: float 2.41e-7 (x = -0.108489); 16 bits 0.50 ULP up to x = 20 (fp16,
/// x = -3.9629); double 4.5e-16 (x = 6.80632e-14).
template <class A>
MISH_INLINE typename A::V curvature(const Point<A>& x) {
  using V = typename A::V;
  V e = x.e;
  if constexpr (A::kCompensated) e = A::fma(e, A::lost(x.inside), e);
  const V r = A::reciprocal(A::fma(e, e + A::set(2), A::set(2)));
  // 1 + e - 1.5 e^2 - e^3 by Horner; times r at once, since e^3 r^3 alone would leave the range.
  const V cubic = A::fma(A::fma(A::set(-1.5) - e, e, A::set(1)), e, A::set(1));
  const V er = e * r;
  const V result = (A::set(8) * er) * A::fma(x.inside * r, cubic * r, r + er);
  return A::if_less(A::set(A::kSaturation), x.above, A::set(0), result);
}

}  // namespace mish

// Mish and its first two derivatives, for the kernels of every device.
//
// The same formulas in torch calls stand in mish_cuda/eager.py, and f'' in torch calls, for third
// derivatives, in csrc/torch/autograd.cpp. A change here needs the same change there.
//
// Mish is f(x) = x tanh(softplus(x)) = x tanh(ln(1 + e^x))  (D. Misra, arXiv 1908.08681).
// With e = e^x, the identity tanh(ln y) = (y^2 - 1) / (y^2 + 1) makes it algebraic in e:
//
//   p = e (e + 2),  D = p + 2 = (e + 1)^2 + 1,  t = p / D = tanh(softplus(x))
//   f   = x t
//   f'  = t + x t'         t'  = 4 e (e + 1) / D^2
//   f'' = 2 t' + x t''     t'' = 4 e (2 + 2 e - 3 e^2 - 2 e^3) / D^3
//
// so all three need only one exponential and one reciprocal, with no cancellation for x < 0.
//
// The functions are templates over an arithmetic `A`, which defines the number type (a float, a
// double, a vector register, a CUDA float) and its precision:
//
//   A::V                 the number type, with + - *     A::set(c)   a constant as a number
//   A::kLowest           e^x rounds to zero at it: the clamp that makes f(-inf) = -0, not NaN
//   A::kSaturation       t rounds to 1 above it, f' to 1 and f'' to 0
//   A::kRefined          whether the result needs its last bits
//   A::exp(x)            e^x for x in [kLowest, kSaturation]; NaN for NaN
//   A::fma(a, b, c)      a b + c, rounded once where the hardware can
//   A::divide(a, b)      a / b for normal b > 0; A::reciprocal(b) = 1 / b
//   A::max(c, x)         the larger; x if x is NaN     A::min(c, x)  the smaller; x if x is NaN
//   A::if_less(a, b, y, n)   a < b ? y : n
//
// The comment above each function states the errors that `make accuracy` finds on the CPU: in float
// and 16 bits over all inputs, in double over some 10^7 (docs/numerics.md). A GPU has the same bits
// in float and double (tests/cpp/test_same_bits.cpp); in 16 bits tests/cpp/test_cuda_kernels.cpp
// bounds its errors under every error that the PTX ISA permits.
//
// Limits, for every arithmetic: f(-inf) = -0, f(+inf) = +inf, f(+-0) = +-0; f'(-inf) = 0,
// f'(+inf) = 1; f''(+-inf) = 0; NaN gives NaN.
#pragma once

#include "mish_arithmetic.h"

namespace mish {

/// x between the bounds of the exponential.
template <class A>
struct Clamped {
  using V = typename A::V;
  V bounded_below;  // x, but at least kLowest
  V clamped;        // x in [kLowest, kSaturation]

  Clamped() = default;
  MISH_INLINE explicit Clamped(V x)
      : bounded_below(A::max(A::set(A::kLowest), x)),
        clamped(A::min(A::set(A::kSaturation), bounded_below)) {}
};

/// x, clamped, and its exponential: the part that value, slope and curvature share. A type of its
/// own, so that a loop can compute it for the next x before it finishes this one. Callers with one
/// x pass the number itself, value<A>(x), which converts.
template <class A>
struct Point : Clamped<A> {
  using V = typename A::V;
  V e;  // e^clamped

  Point() = default;
  MISH_INLINE Point(V x) : Clamped<A>(x), e(A::exp(this->clamped)) {}
  MISH_INLINE Point(const Clamped<A>& x, V e) : Clamped<A>(x), e(e) {}
};

/// f(x). The product uses bounded_below, so that -inf gives -88 * 0, not -inf * 0.
///
/// Plain, f = x p / D. Refined, t = s - s v / D. The correction s v / D is small, and so are its
/// rounding errors: for e < 0.7 (s, v) = (e, e^2 + e), else (1, 2). At the crossover 0.7 both
/// corrections are about equal.
///
/// Largest errors on the CPU, where e^x is normal (x > -87.3, in double -708.3; below, all of f may
/// be lost, 7.3e-37 at x = -87.6831, in double 1.2e-305 at x = -708.743): float 2.44 ULP
/// (x = -0.238509); 16 bits 0.50 ULP (fp16, x = 1.5713); double 2.59 ULP (x = -0.599599).
template <class A>
MISH_INLINE typename A::V value(const Point<A>& x) {
  using V = typename A::V;
  const V e = x.e;
  if constexpr (A::kRefined) {
    const V crossover = A::set(0.7);
    const V d = A::fma(e, e + A::set(2), A::set(2));
    const V small = A::fma(e, e, e);
    const V s = A::if_less(e, crossover, e, A::set(1));
    const V correction = A::divide(A::if_less(e, crossover, small, A::set(2)), d);
    // If x s is a zero of either sign, this term is +0, so that the difference has the sign of x:
    // -0 - +0 = -0, +0 - +0 = +0.
    const V second = A::fma(x.clamped, s, A::set(0)) * correction;
    // `bounded_below` is still +inf where `clamped` is not: +inf - 20 * tiny, never inf * 0.
    return A::fma(x.bounded_below, s, -second);
  } else {
    const V p = A::fma(e, e, e + e);  // rounded once
    return x.bounded_below * A::divide(p, p + A::set(2));
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
  const V four_x = A::set(4) * x.clamped;
  const V four_x_e1 = A::fma(four_x, e, four_x);
  if constexpr (A::kRefined) {
    // What the rounding of D and of the reciprocal lost: 1 / D = r + r * residual.
    const V low = A::fma(e, e2, A::set(2) - d);
    const V residual = A::fma(-low, r, A::fma(-d, r, A::set(1)));
    const V refined = A::fma(r, residual, r);
    return (e * refined) * A::fma(four_x_e1, refined, e2);
  } else {
    return (e * r) * A::fma(four_x_e1, r, e2);
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
  const V e = x.e;
  const V r = A::reciprocal(A::fma(e, e + A::set(2), A::set(2)));
  // 1 + e - 1.5 e^2 - e^3 by Horner; times r at once, since e^3 r^3 alone would leave the range.
  const V cubic = A::fma(A::fma(A::set(-1.5) - e, e, A::set(1)), e, A::set(1));
  const V er = e * r;
  const V result = (A::set(8) * er) * A::fma(x.clamped * r, cubic * r, r + er);
  return A::if_less(A::set(A::kSaturation), x.bounded_below, A::set(0), result);
}

}  // namespace mish

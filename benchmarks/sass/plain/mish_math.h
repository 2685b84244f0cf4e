// PyTorch's formulas for Mish, written plainly. In the place of csrc/mish_math.h they make kernels
// that read, convert and write as ours do and differ only in the maths.
//
//   f  = x tanh(log1p(e^x))
//   f' = t + x s (1 - t^2)                       t = tanh(log1p(e^x)),  s = 1 / (1 + e^-x)
//   f'' = s (1 - t^2) (2 + x (1 - s - 2 t s))
//
// PyTorch has no kernel for f'': that is what its derivative of f' comes to.
#pragma once

#include "mish_arithmetic.h"

namespace mish {

template <class A>
MISH_INLINE typename A::V value(typename A::V x) {
  return x * tanh(log1p(exp(x)));
}

template <class A>
MISH_INLINE typename A::V slope(typename A::V x) {
  const typename A::V s = 1 / (1 + exp(-x));
  const typename A::V t = tanh(log1p(exp(x)));
  return t + x * s * (1 - t * t);
}

template <class A>
MISH_INLINE typename A::V curvature(typename A::V x) {
  const typename A::V s = 1 / (1 + exp(-x));
  const typename A::V t = tanh(log1p(exp(x)));
  return s * (1 - t * t) * (2 + x * (1 - s - 2 * t * s));
}

}  // namespace mish

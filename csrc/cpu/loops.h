// Loops over mish_math.h for one instruction set. Each of avx512.cpp, avx2.cpp and baseline.cpp
// includes this once, after choosing its target and defining
//
//   Float, Double          its lanes, see arithmetic.h
//   Float16                lanes of float for 16-bit results: their fma may round twice
//   load(const T*, V[]), store(T*, const V[])
//                          one number, for bfloat16 kBFloat16Parts of them, from and to
//                          contiguous memory of any alignment
//   kPipelined<kParts>     whether a loop starts the next step before it finishes this one
//
// Everything here is in an unnamed namespace: the same names mean different code in each of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/table.h"
#include "mish_math.h"

namespace mish::cpu {
namespace {

/// Elements gathered at a time from memory that is not contiguous: three operands stay in L1.
constexpr int64_t kTile = 512;

/// How a dtype is computed: the arithmetic, and the numbers of that arithmetic in a step.
template <class Arithmetic, int kCount = 1>
struct Plan {
  using A = Arithmetic;
  static constexpr int kParts = kCount, kWidth = A::kWidth * kCount;
};
template <class T>
struct PlanOf;
template <>
struct PlanOf<float> : Plan<RefinedFloat<Float>> {};
template <>
struct PlanOf<double> : Plan<RefinedDouble<Double>> {};
template <>
struct PlanOf<half_bits> : Plan<PlainFloat<Float16>> {};
template <>
struct PlanOf<bfloat16_bits> : Plan<PlainFloat<Float16>, kBFloat16Parts> {};

/// f, f' or f'' at x.
template <Op op, class A>
MISH_INLINE typename A::V derivative(const Point<A>& x) {
  if constexpr (op == Op::kForward) {
    return value<A>(x);
  } else if constexpr (op == Op::kBackward) {
    return slope<A>(x);
  } else {
    return curvature<A>(x);
  }
}

/// The arguments of a step, one number for each part.
template <class T>
struct Points {
  Point<typename PlanOf<T>::A> parts[PlanOf<T>::kParts];
};

/// First half of a step, elements i to i + kWidth. x is the last input.
template <Op op, class T>
MISH_INLINE Points<T> start_step(const T* const* in, int64_t i) {
  using P = PlanOf<T>;
  typename P::A::V x[P::kParts];
  load(in[kInputs<op> - 1] + i, x);
  Points<T> points;
  for (int part = 0; part < P::kParts; ++part) points.parts[part] = Point<typename P::A>(x[part]);
  return points;
}

/// Second half: f(x), g f'(x) or h g f''(x). All inputs are read before the output is written.
template <Op op, class T>
MISH_INLINE void finish_step(T* out, const T* const* in, int64_t i, const Points<T>& x) {
  using P = PlanOf<T>;
  using V = typename P::A::V;
  constexpr int kFactors = kInputs<op> - 1;
  V factors[kFactors + 1][P::kParts], result[P::kParts];  // + 1: f has no factor, C++ no V[0]
  for (int k = 0; k < kFactors; ++k) load(in[k] + i, factors[k]);
  for (int part = 0; part < P::kParts; ++part) {
    result[part] = derivative<op>(x.parts[part]);
    for (int k = kFactors - 1; k >= 0; --k) result[part] = factors[k][part] * result[part];
  }
  store(out + i, result);
}

template <Op op, class T>
MISH_INLINE void step(T* out, const T* const* in, int64_t i) {
  finish_step<op>(out, in, i, start_step<op>(in, i));
}

/// Prefetches memory some iterations ahead of `place`, for reading or for writing. A processor's
/// own prefetchers may stop at page boundaries, and out-of-order execution does not reach past one
/// through this much arithmetic: without this, fp32 tensors larger than the caches took 1.3 times
/// as long on a Xeon with AVX-512. An EPYC of the fifth generation does not need it (0.97 to 1.1
/// times). Addresses past the end are harmless, but C++ allows them only as numbers, not pointers.
template <int kForWriting, class T>
MISH_INLINE void prefetch(const T* place) {
#if defined(__GNUC__)
  constexpr uintptr_t kBytesAhead = 4096;
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(place) + kBytesAhead;
  __builtin_prefetch(reinterpret_cast<const void*>(ahead), kForWriting);
#else
  (void)place;
#endif
}

template <Op op, class T>
MISH_INLINE void prefetch_operands(T* out, const T* const* in, int64_t i) {
  for (int k = 0; k < kInputs<op>; ++k) prefetch<0>(in[k] + i);
  prefetch<1>(out + i);
}

/// As many whole steps as there are in n contiguous elements.
template <Op op, class T>
MISH_INLINE void whole_steps(T* out, const T* const* in, int64_t n) {
  using P = PlanOf<T>;
  if constexpr (kPipelined<P::kParts>) {
    // Software pipelining: a step is one long chain of dependent operations. The start of the next
    // step is independent of the end of this one, so that the processor can overlap the two.
    if (n < P::kWidth) return;
    Points<T> x = start_step<op>(in, 0);
    int64_t i = 0;
    for (; i <= n - 2 * P::kWidth; i += P::kWidth) {
      prefetch_operands<op>(out, in, i);
      const Points<T> next = start_step<op>(in, i + P::kWidth);
      finish_step<op>(out, in, i, x);
      x = next;
    }
    finish_step<op>(out, in, i, x);
  } else {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep  // out is an input itself or apart from it
#endif
    for (int64_t i = 0; i <= n - P::kWidth; i += P::kWidth) {
      if constexpr (P::kWidth > 1) prefetch_operands<op>(out, in, i);  // else it won't vectorise
      step<op>(out, in, i);
    }
  }
}

/// n contiguous elements. The last few go through a padded buffer and the same instructions, so
/// that their bits are those of any other place, and nothing beyond the end is read or written.
template <Op op, class T>
void contiguous(T* out, const T* const* in, int64_t n) {
  constexpr int kWidth = PlanOf<T>::kWidth;
  whole_steps<op>(out, in, n);
  const int64_t first = n - n % kWidth;
  if (first == n) return;
  T padded[kInputs<op>][kWidth] = {}, result[kWidth];
  const T* rows[kInputs<op>];
  for (int k = 0; k < kInputs<op>; ++k) {
    rows[k] = padded[k];
    for (int64_t j = first; j < n; ++j) padded[k][j - first] = in[k][j];
  }
  step<op>(result, rows, 0);
  for (int64_t j = first; j < n; ++j) out[j] = result[j - first];
}

/// A position in a strided size0 x size1 block; copying elements from or to the block advances it.
template <class T>
class Cursor {
 public:
  Cursor(char* data, int64_t stride0, int64_t stride1, int64_t size0)
      : row_(data), stride0_(stride0), stride1_(stride1), size0_(size0) {}

  void gather(T* tile, int64_t n) {
    walk(n, [&](T& element) { *tile++ = element; });
  }
  void scatter(const T* tile, int64_t n) {
    walk(n, [&](T& element) { element = *tile++; });
  }

 private:
  template <class Visit>
  MISH_INLINE void walk(int64_t n, const Visit& visit) {
    while (n > 0) {
      const int64_t stop = std::min(size0_, column_ + n);
      n -= stop - column_;
      for (; column_ < stop; ++column_) visit(*reinterpret_cast<T*>(row_ + column_ * stride0_));
      if (column_ == size0_) {
        column_ = 0;
        row_ += stride1_;
      }
    }
  }

  char* row_;
  int64_t column_ = 0, stride0_, stride1_, size0_;
};

template <Op op, class T>
void strided(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  constexpr int operands = kInputs<op> + 1;
  const auto cursor = [&](int k) {
    return Cursor<T>(data[k], strides[k], strides[operands + k], size0);
  };
  T tiles[kInputs<op>][kTile];
  const T* in[kInputs<op>];
  Cursor<T> out = cursor(0),
            from[3] = {cursor(1), cursor(operands > 2 ? 2 : 1), cursor(operands > 3 ? 3 : 1)};
  for (int k = 0; k < kInputs<op>; ++k) in[k] = tiles[k];
  for (int64_t left = size0 * size1; left > 0; left -= kTile) {
    const int64_t n = std::min(left, kTile);
    for (int k = 0; k < kInputs<op>; ++k) from[k].gather(tiles[k], n);
    contiguous<op, T>(tiles[0], in, n);
    out.scatter(tiles[0], n);
  }
}

template <Op op, class T>
void loop(char* const* data, const int64_t* strides, int64_t size0, int64_t size1) {
  constexpr int operands = kInputs<op> + 1;
  bool rows = size1 == 1 || size0 >= kTile;  // short rows are better gathered into full tiles
  for (int k = 0; k < operands; ++k) rows = rows && strides[k] == sizeof(T);
  if (!rows) return strided<op, T>(data, strides, size0, size1);
  for (int64_t j = 0; j < size1; ++j) {
    const auto row = [&](int k) {
      return reinterpret_cast<T*>(data[k] + j * strides[operands + k]);
    };
    const T* in[kInputs<op>];
    for (int k = 0; k < kInputs<op>; ++k) in[k] = row(k + 1);
    contiguous<op, T>(row(0), in, size0);
  }
}

template <Op op>
constexpr std::array<Loop, 4> loops_by_dtype() {
  return {loop<op, float>, loop<op, double>, loop<op, half_bits>, loop<op, bfloat16_bits>};
}

constexpr Table kTable = {loops_by_dtype<Op::kForward>(), loops_by_dtype<Op::kBackward>(),
                          loops_by_dtype<Op::kDoubleBackward>()};

}  // namespace
}  // namespace mish::cpu

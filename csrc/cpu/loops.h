// Loops over mish_math.h for one instruction set. Each of avx512.cpp, avx2.cpp and baseline.cpp
// includes this once, after choosing its target and defining
//
//   Float, Double          its lanes, see arithmetic.h
//   Float16                lanes of float for 16-bit results: their fma may round twice
//   load(const T*, V[]), store(T*, const V[])
//                          one number, for bfloat16 kBFloat16Parts of them, from and to
//                          contiguous memory of any alignment
//   kPipelined<kParts>     how many steps a loop works on at a time, 1 to 3
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

/// The numbers of a step of plan P, one for each part.
template <class P>
using Numbers = typename P::A::V[P::kParts];

/// The points at the numbers of a step, up to where their exponentials are put together.
template <class P>
struct Begun {
  using A = typename P::A;
  Clamped<A> x[P::kParts];
  Reduced<typename A::V> reduced[P::kParts];

  MISH_INLINE explicit Begun(const Numbers<P>& numbers) {
    for (int part = 0; part < P::kParts; ++part) {
      x[part] = Clamped<A>(numbers[part]);
      reduced[part] = A::reduced(x[part].clamped);
    }
  }
};
template <class P>
struct Points {
  using A = typename P::A;
  Point<A> parts[P::kParts];

  MISH_INLINE explicit Points(const Begun<P>& begun) {
    for (int part = 0; part < P::kParts; ++part) {
      parts[part] = Point<A>(begun.x[part], A::exp(begun.reduced[part]));
    }
  }
};

/// Calls use(i, points) for each of `steps`, at the numbers that get(i, numbers) gives.
template <class P, class Get, class Use>
MISH_INLINE void each_step(int64_t steps, const Get& get, const Use& use) {
  const auto begin = [&](int64_t i) MISH_INLINE_LAMBDA {
    Numbers<P> x;
    get(i, x);
    return Begun<P>(x);
  };
  // Software pipelining: a step is one long chain of operations, each of which waits for the one
  // before. Of several steps at a time a part each lets a processor overlap them. On an EPYC of the
  // fifth generation, halves of two steps took 1.1 times as long as thirds of three.
  constexpr int kAtATime = kPipelined<P::kParts>;
  if constexpr (kAtATime > 1) {
    if (steps < 1) return;
    Points<P> points(begin(0));
    int64_t i = 0;
    if constexpr (kAtATime == 3) {
      if (steps > 1) {
        Begun<P> begun = begin(1);
        for (; i < steps - 2; ++i) {
          const Begun<P> begun_next = begin(i + 2);
          const Points<P> next(begun);
          use(i, points);
          points = next;
          begun = begun_next;
        }
        use(i++, points);
        points = Points<P>(begun);
      }
    } else {
      for (; i < steps - 1; ++i) {
        const Points<P> next(begin(i + 1));
        use(i, points);
        points = next;
      }
    }
    use(i, points);
  } else {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep  // what is written is the numbers themselves or apart from them
#endif
    for (int64_t i = 0; i < steps; ++i) use(i, Points<P>(begin(i)));
  }
}

/// How far ahead memory is prefetched, in elements: 4 KiB.
template <class T>
constexpr int64_t kAhead = 4096 / sizeof(T);

/// Prefetches memory some iterations ahead of `place`, for reading or for writing. A processor's
/// own prefetchers may stop at page boundaries, and out-of-order execution does not reach past one
/// through this much arithmetic: without this, fp32 tensors larger than the caches took 1.3 times
/// as long on a Xeon with AVX-512. An EPYC of the fifth generation does not need it (0.97 to 1.1
/// times). Addresses past the end are harmless, but C++ allows them only as numbers, not pointers.
/// kLocality 3 is the first-level cache, 2 the second.
template <int kForWriting, int kLocality = 3, class T>
MISH_INLINE void prefetch(const T* place, int64_t distance = kAhead<T>) {
#if defined(__GNUC__)
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(place) + distance * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(ahead), kForWriting, kLocality);
#else
  (void)place;
  (void)distance;
#endif
}

template <Op op, class T>
MISH_INLINE void prefetch_operands(T* out, const T* const* in, int64_t i) {
  for (int k = 0; k < kInputs<op>; ++k) prefetch<0>(in[k] + i);
  prefetch<1>(out + i);
}

/// f(x), g f'(x) or h g f''(x) of elements i to i + kWidth, x being the last input. All are read
/// before the output is written.
template <Op op, class T>
MISH_INLINE void finish_step(T* out, const T* const* in, int64_t i, const Points<PlanOf<T>>& x) {
  using P = PlanOf<T>;
  constexpr int kFactors = kInputs<op> - 1;
  // + 1: f has no factor, C++ no V[0]
  Numbers<P> factors[kFactors + 1], result;
  for (int k = 0; k < kFactors; ++k) load(in[k] + i, factors[k]);
  for (int part = 0; part < P::kParts; ++part) {
    result[part] = derivative<op>(x.parts[part]);
    for (int k = kFactors - 1; k >= 0; --k) result[part] = factors[k][part] * result[part];
  }
  store(out + i, result);
}

/// So many steps of contiguous elements.
template <Op op, class T>
MISH_INLINE void whole_steps(T* out, const T* const* in, int64_t steps) {
  using P = PlanOf<T>;
  constexpr int64_t kWidth = P::kWidth;
  const T* const x = in[kInputs<op> - 1];
  each_step<P>(
      steps,
      [=](int64_t i, Numbers<P>& numbers) MISH_INLINE_LAMBDA { load(x + i * kWidth, numbers); },
      [=](int64_t i, const Points<P>& points) MISH_INLINE_LAMBDA {
        if constexpr (kWidth > 1) prefetch_operands<op>(out, in, i * kWidth);  // else no vectors
        finish_step<op>(out, in, i * kWidth, points);
      });
}

/// n contiguous elements. The last few go through a padded buffer and the same instructions, so
/// that their bits are those of any other place, and nothing beyond the end is read or written.
template <Op op, class T>
void contiguous(T* out, const T* const* in, int64_t n) {
  constexpr int kWidth = PlanOf<T>::kWidth;
  whole_steps<op>(out, in, n / kWidth);
  const int64_t first = n - n % kWidth;
  if (first == n) return;
  T padded[kInputs<op>][kWidth] = {}, result[kWidth];
  const T* rows[kInputs<op>];
  for (int k = 0; k < kInputs<op>; ++k) {
    rows[k] = padded[k];
    for (int64_t j = first; j < n; ++j) padded[k][j - first] = in[k][j];
  }
  whole_steps<op>(result, rows, 1);
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

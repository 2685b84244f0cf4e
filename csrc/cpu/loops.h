// Loops over mish_math.h for one instruction set. Each of avx512.cpp, avx2.cpp and baseline.cpp
// includes this once, after choosing its target and defining
//
//   Float, Double          its lanes, see arithmetic.h
//   Float16                lanes of float for 16-bit results: their fma may round twice
//   load(const T*, V[]), store(T*, const V[])
//                          one number, for bfloat16 kBFloat16Parts of them, from and to
//                          contiguous memory of any alignment
//
// Everything here is in an unnamed namespace: the same names mean different code in each of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/arithmetic.h"
#include "cpu/table.h"
#include "mish_math.h"

namespace mish::cpu {
namespace {

/// Elements gathered at a time from memory that is not contiguous: three operands stay in L1.
constexpr int64_t kTile = 512;

/// How a dtype is computed: by which arithmetic, and in how many numbers at a time.
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

/// f(x), g f'(x) or h g f''(x) of part i.
template <Op op, class A, int kParts>
MISH_INLINE typename A::V apply(const typename A::V (*in)[kParts], int i) {
  if constexpr (op == Op::kForward) {
    return value<A>(in[0][i]);
  } else if constexpr (op == Op::kBackward) {
    return in[0][i] * slope<A>(in[1][i]);
  } else {
    return in[0][i] * (in[1][i] * curvature<A>(in[2][i]));
  }
}

/// Elements i to i + kWidth. All inputs are read before the output is written.
template <Op op, class T>
MISH_INLINE void step(T* out, const T* const* in, int64_t i) {
  using P = PlanOf<T>;
  using A = typename P::A;
  typename A::V x[kInputs<op>][P::kParts], result[P::kParts];
  for (int k = 0; k < kInputs<op>; ++k) load(in[k] + i, x[k]);
  for (int part = 0; part < P::kParts; ++part) result[part] = apply<op, A>(x, part);
  store(out + i, result);
}

/// Asks for memory some iterations ahead of `place`, for reading or for writing. The processor's
/// own prefetchers stop at every page, and the arithmetic leaves its window too short to look past
/// one: without this, tensors larger than the caches take 1.5 times as long. Past the end is
/// harmless.
template <int kForWriting, class T>
MISH_INLINE void prefetch(const T* place) {
#if defined(__GNUC__)
  constexpr int64_t kBytesAhead = 2048;
  __builtin_prefetch(reinterpret_cast<const char*>(place) + kBytesAhead, kForWriting);
#else
  (void)place;
#endif
}

/// n contiguous elements. The last few go through a padded buffer and the same instructions, so
/// that their bits are those of any other place and nothing beyond the end is touched.
template <Op op, class T>
void contiguous(T* out, const T* const* in, int64_t n) {
  constexpr int kWidth = PlanOf<T>::kWidth;
  int64_t i = 0;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep  // out is an input itself or apart from it
#endif
  for (; i <= n - kWidth; i += kWidth) {
    if constexpr (kWidth > 1) {  // else the loop would not vectorise
      for (int k = 0; k < kInputs<op>; ++k) prefetch<0>(in[k] + i);
      prefetch<1>(out + i);
    }
    step<op>(out, in, i);
  }
  if (i == n) return;
  T padded[kInputs<op>][kWidth] = {}, result[kWidth];
  const T* rows[kInputs<op>];
  for (int k = 0; k < kInputs<op>; ++k) {
    rows[k] = padded[k];
    for (int64_t j = i; j < n; ++j) padded[k][j - i] = in[k][j];
  }
  step<op>(result, rows, 0);
  for (int64_t j = i; j < n; ++j) out[j] = result[j - i];
}

/// A place in a strided size0 x size1 block, moved along by copying elements out of it or into it.
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
constexpr std::array<Loop, 4> row_of() {
  return {loop<op, float>, loop<op, double>, loop<op, half_bits>, loop<op, bfloat16_bits>};
}

constexpr Table kTable = {row_of<Op::kForward>(), row_of<Op::kBackward>(),
                          row_of<Op::kDoubleBackward>()};

}  // namespace
}  // namespace mish::cpu

// Pieces of contiguous memory in vectors, for norms; included behind loops.h. Besides what that
// asks for, an instruction set brings `double sum(Float::V)` and `double sum(Double::V)`: of all
// lanes, in double. AVX-512 has some of what follows its own way.
#pragma once

#include "cpu/loops.h"
#include "norm_kernels.h"

namespace mish::cpu {
namespace {

/// What is added to one lane before the sum goes on in double.
constexpr int kRun = 16;

/// The first n elements of a vector, and a filling behind them.
template <class T, class V, size_t kParts>
MISH_INLINE void load_some(const T* from, int64_t n, T filling, V (&x)[kParts]) {
  T padded[PlanOf<T>::kWidth];
  for (T& element : padded) element = filling;
  for (int64_t j = 0; j < n; ++j) padded[j] = from[j];
  load(padded, x);
}
template <class T, class V, size_t kParts>
MISH_INLINE void store_some(T* to, int64_t n, const V (&x)[kParts]) {
  T padded[PlanOf<T>::kWidth];
  store(padded, x);
  for (int64_t j = 0; j < n; ++j) to[j] = padded[j];
}

template <class V>
MISH_INLINE void add_sums(V x, V y, double (&totals)[2]) {
  totals[0] += sum(x);
  totals[1] += sum(y);
}

/// How far ahead rows are prefetched: short ones that do not lie one behind the other by a row.
template <class T>
MISH_INLINE int64_t ahead(Rows rows) {
  const bool long_rows = rows.length >= 2 * kAhead<T> || rows.count == 1;
  return long_rows || rows.step < kAhead<T> ? kAhead<T> : rows.step;
}

/// Steps of a row, the last of which may be filled up.
template <class T>
constexpr int64_t steps_of(int64_t length) {
  return (length + PlanOf<T>::kWidth - 1) / PlanOf<T>::kWidth;
}

template <class T>
struct Block {
  using P = PlanOf<T>;
  using A = typename P::A;
  using V = typename A::V;
  static constexpr int kParts = P::kParts, kWidth = P::kWidth;
  V part[kParts];

  Block() = default;
  MISH_INLINE explicit Block(const T* from) { load(from, part); }
  MISH_INLINE Block(const T* from, int64_t n, T filling) { load_some(from, n, filling, part); }
  /// The first n elements, and zeros behind them.
  MISH_INLINE Block(const T* from, int64_t n) {
    if (n >= kWidth) {
      load(from, part);
    } else {
      load_some(from, n, T{}, part);
    }
  }
  MISH_INLINE void write(T* to) const { store(to, part); }
  MISH_INLINE void write(T* to, int64_t n) const {
    if (n >= kWidth) {
      store(to, part);
    } else {
      store_some(to, n, part);
    }
  }
};

/// The numbers of a block, unrounded and in the order of its parts.
template <class T>
MISH_INLINE void load_parts(const typename Block<T>::A::Element* from, Block<T>& block) {
  for (int part = 0; part < Block<T>::kParts; ++part) {
    typename Block<T>::V number[1];
    load(from + part * Block<T>::A::kWidth, number);
    block.part[part] = number[0];
  }
}
template <class T>
MISH_INLINE void store_parts(typename Block<T>::A::Element* to, const Block<T>& block) {
  for (int part = 0; part < Block<T>::kParts; ++part) {
    const typename Block<T>::V number[1] = {block.part[part]};
    store(to + part * Block<T>::A::kWidth, number);
  }
}

template <Op op, class T>
MISH_INLINE Block<T> derivatives(const Points<T>& points) {
  Block<T> result;
  for (int part = 0; part < Block<T>::kParts; ++part) {
    result.part[part] = derivative<op>(points.parts[part]);
  }
  return result;
}

/// Calls visit(i, n) for the n elements from i on of each step of a row.
template <class T, class Visit>
MISH_INLINE void each_block(int64_t columns, const Visit& visit) {
  constexpr int64_t kWidth = PlanOf<T>::kWidth;
  int64_t i = 0;
  for (; i <= columns - kWidth; i += kWidth) visit(i, kWidth);
  if (i < columns) visit(i, columns - i);
}

}  // namespace
}  // namespace mish::cpu

// Pieces of contiguous memory in vectors, for norms; included behind loops.h. Besides what that
// asks for, an instruction set brings `double sum(Float::V)` and `double sum(Double::V)`: of all
// lanes, in double. AVX-512 has some of what follows its own way.
#pragma once

#include <type_traits>

#include "cpu/loops.h"
#include "norm_kernels.h"

namespace mish::cpu {
namespace {

/// As PlanOf, but fp32 has an arithmetic of its own.
template <class T>
struct NormPlanOf : PlanOf<T> {};
template <>
struct NormPlanOf<float> : Plan<NormFloat<Float>> {};

/// What is added to one lane before the sum goes on in double.
constexpr int kRun = 16;

/// The first n elements of a vector, and a filling behind them.
template <class T, class V, size_t kParts>
MISH_INLINE void load_some(const T* from, int64_t n, T filling, V (&x)[kParts]) {
  T padded[NormPlanOf<T>::kWidth];
  for (T& element : padded) element = filling;
  for (int64_t j = 0; j < n; ++j) padded[j] = from[j];
  load(padded, x);
}
template <class T, class V, size_t kParts>
MISH_INLINE void store_some(T* to, int64_t n, const V (&x)[kParts]) {
  T padded[NormPlanOf<T>::kWidth];
  store(padded, x);
  for (int64_t j = 0; j < n; ++j) to[j] = padded[j];
}

template <class V>
MISH_INLINE void add_sums(V x, V y, double (&totals)[2]) {
  totals[0] += sum(x);
  totals[1] += sum(y);
}

/// A place in rows, which moves on by steps. What a step counts costs as much as what it computes:
/// with twice as many instructions that do not compute, a Xeon took 1.15 times as long while
/// another program used the same core.
template <class T>
struct Place {
  int64_t at = 0;  // from the first element of the rows
  int64_t left;    // elements of the row from here on
  int64_t row = 0;

  MISH_INLINE explicit Place(const Rows& rows)
      : left(rows.length), length_(rows.length), gap_(rows.step - rows.length) {}
  /// Whether that ended a row.
  MISH_INLINE bool advance() {
    at += NormPlanOf<T>::kWidth;
    if ((left -= NormPlanOf<T>::kWidth) > 0) return false;
    at += left + gap_;
    left = length_;
    ++row;
    return true;
  }

 private:
  int64_t length_, gap_;
};

/// What is prefetched while rows are worked on: the place that comes some KiB later in the order of
/// work, be it in another row or in the rows after these.
///
/// On an EPYC of the fourth generation whose caches held nothing of it, this took training on
/// 16x64x32x32 from 1.6 to 1.3 ns an element beside prefetches of the same place in the next row.
/// The first-level cache waits for few lines at a time, and a processor's own prefetchers stop at
/// the ends of rows: so rows of 1 to 32 KiB that lie apart go to the second level, from further
/// away. Longer and shorter ones were slower so.
template <class T>
class Across {
 public:
  MISH_INLINE explicit Across(const Rows& rows)
      : place_(rows),
        count_(rows.count),
        next_(rows.next),
        second_level_(rows.count > 1 && rows.step > rows.length && rows.length >= kAhead<T> / 4 &&
                      rows.length < 8 * kAhead<T>) {
    const int64_t distance = second_level_ ? 2 * kAhead<T> : kAhead<T>;
    const int64_t column = distance % rows.length;
    place_.row = distance / rows.length;
    place_.at = place_.row * rows.step;
    place_.left = rows.length - column;
    if (place_.row >= count_) to_next();
    place_.at += column;
  }
  /// `first` is the memory of the first element of the rows.
  template <int kForWriting>
  MISH_INLINE void fetch(const T* first, int64_t further = 0) const {
    if (second_level_) {
      prefetch<0, 2>(first, place_.at + further);
    } else {
      prefetch<kForWriting>(first, place_.at + further);
    }
  }
  MISH_INLINE void advance() {
    if (place_.advance() && place_.row == count_) to_next();
  }
  MISH_INLINE bool in_next() const { return in_next_; }

 private:
  MISH_INLINE void to_next() {
    place_.row = 0;
    place_.at = next_;
    in_next_ = next_ != 0;
  }

  Place<T> place_;
  const int64_t count_, next_;
  const bool second_level_;
  bool in_next_ = false;
};

/// The same for vectors of less than 64 bytes, whose steps are too short for that much counting
/// (1.1 to 1.2 times the time with AVX2): short rows that lie apart prefetch the next row, others 4
/// KiB.
template <class T>
class Along {
 public:
  MISH_INLINE explicit Along(const Rows& rows)
      : place_(rows), distance_(next_row(rows) ? rows.step : kAhead<T>) {}
  template <int kForWriting>
  MISH_INLINE void fetch(const T* first, int64_t = 0) const {
    prefetch<kForWriting>(first, place_.at + distance_);
  }
  MISH_INLINE void advance() { place_.advance(); }
  MISH_INLINE bool in_next() const { return false; }  // for which nothing is fetched

 private:
  static bool next_row(const Rows& rows) {
    return rows.count > 1 && rows.length < 2 * kAhead<T> && rows.step >= kAhead<T>;
  }

  Place<T> place_;
  const int64_t distance_;
};

template <class T>
using Ahead = std::conditional_t<sizeof(typename NormPlanOf<T>::A::V) == 64, Across<T>, Along<T>>;

/// Steps of a row, the last of which may be filled up.
template <class T>
constexpr int64_t steps_of(int64_t length) {
  return (length + NormPlanOf<T>::kWidth - 1) / NormPlanOf<T>::kWidth;
}

template <class T>
struct Block {
  using P = NormPlanOf<T>;
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
MISH_INLINE Block<T> derivatives(const Points<NormPlanOf<T>>& points) {
  Block<T> result;
  for (int part = 0; part < Block<T>::kParts; ++part) {
    result.part[part] = derivative<op>(points.parts[part]);
  }
  return result;
}

/// Calls visit(i, n) for the n elements from i on of each step of a row.
template <class T, class Visit>
MISH_INLINE void each_block(int64_t columns, const Visit& visit) {
  constexpr int64_t kWidth = NormPlanOf<T>::kWidth;
  int64_t i = 0;
  for (; i <= columns - kWidth; i += kWidth) visit(i, kWidth);
  if (i < columns) visit(i, columns - i);
}

}  // namespace
}  // namespace mish::cpu

// The first of the kernels of norm_kernels.h, for one instruction set: the sums of distances from a
// number near the mean, and of their squares.
#pragma once

#include <cmath>

#include "cpu/blocks.h"

namespace mish::cpu {
namespace {

/// Adds both up. From `centre`, which stands `filling` for what a row leaves of a vector.
template <class T>
MISH_INLINE void distances(const T* x, Rows rows, typename Block<T>::V centre, T filling,
                           double (&totals)[2]) {
  using B = Block<T>;
  using V = typename B::V;
  // Independent sums, for additions that wait for one another; those of plain C++ are vectors.
  constexpr int kBlocks = B::kWidth == 1 ? 16 : 4 / B::kParts, kSums = kBlocks * B::kParts;
  V sums[kSums], squares[kSums];
  const auto clear = [&] {
    for (int k = 0; k < kSums; ++k) sums[k] = squares[k] = B::A::set(0);
  };
  const auto add = [&](const B& block, int place) {
    for (int part = 0; part < B::kParts; ++part) {
      const V distance = block.part[part] - centre;
      const int k = place * B::kParts + part;
      sums[k] = sums[k] + distance;
      squares[k] = B::A::fma(distance, distance, squares[k]);
    }
  };
  clear();
  Ahead<T> ahead(rows);
  const T* const first = x;
  int added = 0;
  for (int64_t row = 0; row < rows.count; ++row, x += rows.step) {
    for (int64_t i = 0; i < rows.length;) {
      const int64_t end = std::min(rows.length, i + kRun * kBlocks * B::kWidth);
      for (; i <= end - kBlocks * B::kWidth; i += kBlocks * B::kWidth, ++added) {
        for (int place = 0; place < kBlocks; ++place) {
          const T* const at = x + i + place * B::kWidth;
          if constexpr (B::kWidth > 1) {
            ahead.template fetch<0>(first);
            ahead.advance();
          }
          add(B(at), place);
        }
      }
      for (; i <= end - B::kWidth; i += B::kWidth, ++added) add(B(x + i), 0);
      if (i < end) {
        add(B(x + i, end - i, filling), 0);
        i = end;
        ++added;
      }
      const bool last = row + 1 == rows.count && i == rows.length;
      if (added < kRun && !last) continue;
      V sum_of = sums[0], squares_of = squares[0];
      for (int k = 1; k < kSums; ++k) {
        sum_of = sum_of + sums[k];
        squares_of = squares_of + squares[k];
      }
      add_sums(sum_of, squares_of, totals);
      clear();
      added = 0;
    }
  }
}

/// In double throughout: for numbers whose sum or squares leave the range of float.
template <class T>
Moments wide_moments(const T* x, const Rows& rows) {
  double mean = 0, squares = 0;
  const auto each = [&](const auto& visit) {
    for (int64_t row = 0; row < rows.count; ++row) {
      for (int64_t i = 0; i < rows.length; ++i) {
        visit(sum(Block<T>(x + row * rows.step + i, 1, T{}).part[0]));  // the other lanes are 0
      }
    }
  };
  each([&](double value) { mean += value; });
  mean /= static_cast<double>(rows.count * rows.length);
  each([&](double value) { squares += (value - mean) * (value - mean); });
  return {mean, 0, squares};
}

template <class T>
void moments(Moments& result, const void* data, const Rows& rows) {
  using B = Block<T>;
  using V = typename B::V;
  const T* x = static_cast<const T*>(data);
  const auto n = static_cast<double>(rows.count * rows.length);
  // The mean of the first few is mostly within a deviation of the mean of all. Where it is not,
  // the mean of all serves in a second pass.
  const int64_t few = std::min<int64_t>(rows.length, std::max(16, B::kWidth));
  double guess = 0;
  for (int64_t i = 0; i < few; i += B::kWidth) {
    for (const V& part : B(x + i, few - i).part) {
      guess += sum(part);
    }
  }
  guess /= static_cast<double>(few);
  for (bool again = false;; again = true) {
    // A number of the element type, so that it can fill vectors up.
    T elements[B::kWidth];
    B centre;
    for (V& part : centre.part) part = B::A::set(guess);
    centre.write(elements);
    double middle = static_cast<typename B::A::Element>(guess);
    if constexpr (sizeof(T) < sizeof(typename B::A::Element)) {
      centre = B(elements);
      middle = sum(centre.part[0]) / B::A::kWidth;
    }
    double totals[2] = {0, 0};
    distances(x, rows, centre.part[0], elements[0], totals);
    const auto [total, squares] = totals;
    const double offset = total / n, lost = total * offset;
    const bool in_range = squares < 1e37 && (squares > 1e-28 || squares == 0);
    if (sizeof(T) < 8 && !in_range) {
      result = wide_moments(x, rows);
      return;
    }
    if (again || lost <= squares / 2) {
      result = {middle, offset, std::fmax(squares - lost, 0)};
      return;
    }
    guess = middle + offset;
  }
}

}  // namespace
}  // namespace mish::cpu

// The kernels of norm_kernels.h for one instruction set; included behind loops.h. Besides what that
// asks for, an instruction set brings `double sum(Float::V)` and `double sum(Double::V)`: of all
// lanes, in double. AVX-512 has some of what follows its own way.
#pragma once

#include <cmath>

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

/// From a place to the one that is worked on 4 KiB or a row later, in elements: see prefetch().
template <class T>
MISH_INLINE int64_t ahead(Rows rows) {
  const int64_t page = 4096 / sizeof(T);
  return rows.length >= 2 * page || rows.count == 1 || rows.step < page ? page : rows.step;
}
template <int kForWriting, class T>
MISH_INLINE void prefetch_at(const T* place, int64_t distance) {
#if defined(__GNUC__)
  const uintptr_t at = reinterpret_cast<uintptr_t>(place) + distance * sizeof(T);
  __builtin_prefetch(reinterpret_cast<const void*>(at), kForWriting);
#endif
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

/// Calls visit(i, n) for the n elements of each step of a row, from i on.
template <class T, class Visit>
MISH_INLINE void each_block(int64_t columns, const Visit& visit) {
  constexpr int64_t kWidth = PlanOf<T>::kWidth;
  int64_t i = 0;
  for (; i <= columns - kWidth; i += kWidth) visit(i, kWidth);
  if (i < columns) visit(i, columns - i);
}

// --- Moments: the sums of distances from a number near the mean, and of their squares ---

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
  const int64_t far = ahead<T>(rows);
  int added = 0;
  for (int64_t row = 0; row < rows.count; ++row, x += rows.step) {
    for (int64_t i = 0; i < rows.length;) {
      const int64_t end = std::min(rows.length, i + kRun * kBlocks * B::kWidth);
      for (; i <= end - kBlocks * B::kWidth; i += kBlocks * B::kWidth, ++added) {
        for (int place = 0; place < kBlocks; ++place) {
          const T* const at = x + i + place * B::kWidth;
          if constexpr (B::kWidth > 1) prefetch_at<0>(at, far);
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
Moments wide_moments(const T* x, Rows rows) {
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
Moments moments(const void* data, Rows rows) {
  using B = Block<T>;
  using V = typename B::V;
  const T* x = static_cast<const T*>(data);
  const auto n = static_cast<double>(rows.count * rows.length);
  // The mean of the first few is mostly within a deviation of the mean of all. Where it is not,
  // the mean of all serves in a second pass.
  const int64_t few = std::min<int64_t>(rows.length, std::max(16, B::kWidth));
  double guess = 0;
  for (int64_t i = 0; i < few; i += B::kWidth) {
    for (const V& part : B(x + i, std::min<int64_t>(few - i, B::kWidth), T{}).part) {
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
    centre = B(elements);
    const double middle = sum(centre.part[0]) / B::A::kWidth;
    double totals[2] = {0, 0};
    distances(x, rows, centre.part[0], elements[0], totals);
    const auto [total, squares] = totals;
    const double offset = total / n, lost = total * offset;
    const bool in_range = squares < 1e37 && (squares > 1e-28 || squares == 0);
    if (sizeof(T) < 8 && !in_range) return wide_moments(x, rows);
    if (again || lost <= squares / 2) return {middle, offset, std::fmax(squares - lost, 0)};
    guess = middle + offset;
  }
}

// --- The others: of each z = scale u + shift, where u = x - centre, f(z) or f'(z) goes to a
// kernel, which does the rest. A kernel is told when a row, or a part of a long one, begins and
// ends. ---

template <class T>
struct Line {
  using A = typename Block<T>::A;
  using Element = typename A::Element;
  using V = typename A::V;
  V centre, scale, shift;

  MISH_INLINE explicit Line(const Element* affine)
      : centre(A::set(affine[0])), scale(A::set(affine[1])), shift(A::set(affine[2])) {}
  MISH_INLINE V z(V x) const { return A::fma(scale, x - centre, shift); }
};

/// The affines of some rows, as numbers of the kind that is computed with.
template <class T>
class Lines {
 public:
  Lines(const Affine* affines, Rows rows, bool apart) : apart_(apart) {
    const int64_t count = apart ? rows.count : 1;
    for (int64_t j = 0; j < count; ++j) {
      numbers_[3 * j] = static_cast<Element>(affines[j].centre);
      numbers_[3 * j + 1] = static_cast<Element>(affines[j].scale);
      numbers_[3 * j + 2] = static_cast<Element>(affines[j].shift);
    }
  }
  MISH_INLINE Line<T> operator[](int64_t row) const {
    return Line<T>(numbers_ + (apart_ ? 3 * row : 0));
  }

 private:
  using Element = typename Block<T>::A::Element;
  const bool apart_;
  Element numbers_[3 * kMostApart];
};

/// All steps of all rows, row after row.
template <Op op, class T, class Kernel>
void over_rows(const T* x, Rows rows, const Lines<T>& lines, Kernel kernel) {
  using B = Block<T>;
  constexpr int64_t kWidth = B::kWidth;
  const int64_t length = rows.length, steps = (length + kWidth - 1) / kWidth;
  const int64_t far = ahead<T>(rows);
  // Where the first stage of a step is, and where the last.
  int64_t row = 0, i = 0, last_row = 0, last_i = 0;
  Line<T> line = lines[0];
  kernel.begin(0, line);
  each_step<T>(
      rows.count * steps,
      [&](int64_t, Numbers<T>& z) MISH_INLINE_LAMBDA {
        prefetch_at<0>(x + i, far);
        const B block(x + i, length - i);
        for (int part = 0; part < B::kParts; ++part) z[part] = line.z(block.part[part]);
        if ((i += kWidth) < length) return;
        i = 0;
        x += rows.step;
        if (++row < rows.count) line = lines[row];
      },
      [&](int64_t, const Points<T>& points) MISH_INLINE_LAMBDA {
        B result;
        for (int part = 0; part < B::kParts; ++part) {
          result.part[part] = derivative<op>(points.parts[part]);
        }
        kernel.step(last_i, length - last_i, result);
        if ((last_i += kWidth) < length) return;
        last_i = 0;
        kernel.end();
        if (++last_row < rows.count) kernel.begin(last_row * rows.step, lines[last_row]);
      });
}

template <class T>
struct Apply {
  T* y;
  int64_t far;
  T* row = nullptr;

  MISH_INLINE void begin(int64_t at, const Line<T>&) { row = y + at; }
  MISH_INLINE void step(int64_t i, int64_t n, const Block<T>& value) {
    prefetch_at<1>(row + i, far);
    value.write(row + i, n);
  }
  MISH_INLINE void end() {}
};

template <class T>
void apply(void* y, const void* x, Rows rows, const Affine* affines, bool apart) {
  Apply<T> kernel{static_cast<T*>(y), ahead<T>(rows)};
  over_rows<Op::kForward>(static_cast<const T*>(x), rows, Lines<T>(affines, rows, apart), kernel);
}

/// The sums of rows, which are added up for as many rows as a vector has lanes at a time.
template <class T>
class RowSums {
 public:
  using A = typename Block<T>::A;
  using V = typename A::V;

  RowSums(Sums sums, bool apart) : sums_(sums), apart_(apart) {}
  MISH_INLINE void add(V g, V gu) {
    g_[count_] = g;
    gu_[count_] = gu;
    if (++count_ == A::kWidth) flush();
  }
  void flush() {
    for (int j = count_; j < A::kWidth; ++j) g_[j] = gu_[j] = A::set(0);
    typename A::Element g[A::kWidth], gu[A::kWidth];
    const V of_g[1] = {sums(g_)}, of_gu[1] = {sums(gu_)};
    store(g, of_g);
    store(gu, of_gu);
    if (apart_) {
      for (int j = 0; j < count_; ++j) sums_.g[j] += g[j];
      for (int j = 0; j < count_; ++j) sums_.gu[j] += gu[j];
      sums_ = {sums_.g + count_, sums_.gu + count_};
    } else {
      for (int j = 0; j < count_; ++j) *sums_.g += g[j];
      for (int j = 0; j < count_; ++j) *sums_.gu += gu[j];
    }
    count_ = 0;
  }

 private:
  Sums sums_;
  const bool apart_;
  int count_ = 0;
  V g_[A::kWidth], gu_[A::kWidth];
};

template <class T, bool kWrites>
struct Reduce {
  using B = Block<T>;
  using A = typename B::A;
  using V = typename A::V;
  T* g;
  const T *dy, *x;
  int64_t far;
  RowSums<T>* rows;
  int64_t at = 0;
  V centre = {}, sum = {}, sum_u = {}, run = {}, run_u = {};
  int added = 0;

  MISH_INLINE void begin(int64_t row, const Line<T>& line) {
    at = row;
    centre = line.centre;
    sum = sum_u = run = run_u = A::set(0);
    added = 0;
  }
  MISH_INLINE void step(int64_t i, int64_t n, const B& slope) {
    prefetch_at<0>(dy + at + i, far);
    if constexpr (kWrites) prefetch_at<1>(g + at + i, far);
    B one(dy + at + i, n);
    const B from(x + at + i, n);
    for (int part = 0; part < B::kParts; ++part) {
      V& product = one.part[part];
      product = product * slope.part[part];
      run = run + product;
      run_u = A::fma(product, from.part[part] - centre, run_u);
    }
    if constexpr (kWrites) one.write(g + at + i, n);
    if (++added == kRun) {
      sum = sum + run;
      sum_u = sum_u + run_u;
      run = run_u = A::set(0);
      added = 0;
    }
  }
  MISH_INLINE void end() { rows->add(sum + run, sum_u + run_u); }
};

template <bool kWrites, class T>
void reduce_to(T* g, const T* dy, const T* x, Rows rows, const Affine* affines, bool apart,
               Sums sums) {
  RowSums<T> row_sums(sums, apart);
  Reduce<T, kWrites> kernel{g, dy, x, ahead<T>(rows), &row_sums};
  over_rows<Op::kBackward>(x, rows, Lines<T>(affines, rows, apart), kernel);
  row_sums.flush();
}

template <class T>
void reduce(void* g, const void* dy, const void* x, Rows rows, const Affine* affines, bool apart,
            Sums sums) {
  const auto to = g ? reduce_to<true, T> : reduce_to<false, T>;
  to(static_cast<T*>(g), static_cast<const T*>(dy), static_cast<const T*>(x), rows, affines, apart,
     sums);
}

template <class T>
struct Finish {
  using B = Block<T>;
  using A = typename B::A;
  using V = typename A::V;
  T* dx;
  const T *dy, *x;
  int64_t far;
  V p, q;
  int64_t at = 0;
  V centre = {}, scale = {};

  MISH_INLINE void begin(int64_t row, const Line<T>& line) {
    at = row;
    centre = line.centre;
    scale = line.scale;
  }
  template <bool kReduced = false>
  MISH_INLINE void step(int64_t i, int64_t n, const B& slope) {
    prefetch_at<0>(dy + at + i, far);
    prefetch_at<1>(dx + at + i, far);
    B result(dy + at + i, n);
    const B from(x + at + i, n);
    for (int part = 0; part < B::kParts; ++part) {
      V& one = result.part[part];
      if constexpr (!kReduced) one = one * slope.part[part];
      one = A::fma(scale, one, A::fma(p, from.part[part] - centre, q));
    }
    result.write(dx + at + i, n);
  }
  MISH_INLINE void end() {}
};

template <class T>
void finish(void* dx, const void* dy, bool reduced, const void* x, Rows rows, const Affine* affines,
            bool apart, double p, double q) {
  using A = typename Block<T>::A;
  const T* const from = static_cast<const T*>(x);
  const Lines<T> lines(affines, rows, apart);
  Finish<T> kernel{
      static_cast<T*>(dx), static_cast<const T*>(dy), from, ahead<T>(rows), A::set(p), A::set(q)};
  if (!reduced) return over_rows<Op::kBackward>(from, rows, lines, kernel);
  for (int64_t row = 0; row < rows.count; ++row) {
    kernel.begin(row * rows.step, lines[row]);
    each_block<T>(rows.length, [&kernel](int64_t i, int64_t n) MISH_INLINE_LAMBDA {
      kernel.template step<true>(i, n, Block<T>());
    });
  }
}

template <class T>
constexpr NormKernels norm_kernels_of = {moments<T>, apply<T>, reduce<T>, finish<T>};

constexpr NormTable kNormTable = {norm_kernels_of<float>, norm_kernels_of<double>,
                                  norm_kernels_of<half_bits>, norm_kernels_of<bfloat16_bits>};

}  // namespace
}  // namespace mish::cpu

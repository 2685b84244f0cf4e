// Of the kernels of norm_kernels.h those that work on rows with an Affine, for one instruction set.
#pragma once

#include "cpu/blocks.h"

namespace mish::cpu {
namespace {

/// z = scale u + shift, where u = x - centre.
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

/// Works on all steps of all rows, row after row: f(z) or f'(z) goes to kernel.step(i, elements
/// left of the row, what was computed), between kernel.begin(line) and kernel.end() for each row.
template <Op op, class T, class Kernel>
void over_rows(const T* x, Rows rows, const Lines<T>& lines, Kernel kernel) {
  using B = Block<T>;
  Ahead<T> ahead(rows);
  Place<T> first(rows), last(rows);  // of a step's first stage, and of its last
  Line<T> line = lines[0];
  kernel.begin(line);
  each_step<NormPlanOf<T>>(
      rows.count * steps_of<T>(rows.length),
      [&](int64_t, Numbers<NormPlanOf<T>>& z) MISH_INLINE_LAMBDA {
        const B block(x + first.at, first.left);
        for (int part = 0; part < B::kParts; ++part) z[part] = line.z(block.part[part]);
        if (first.advance() && first.row < rows.count) line = lines[first.row];
      },
      [&](int64_t, const Points<NormPlanOf<T>>& points) MISH_INLINE_LAMBDA {
        kernel.fetch(ahead);
        ahead.advance();
        kernel.step(last.at, last.left, derivatives<op>(points));
        if (!last.advance()) return;
        kernel.end();
        if (last.row < rows.count) kernel.begin(lines[last.row]);
      });
}

template <class T>
struct Apply {
  T* y;
  const T* x;
  int64_t then;

  MISH_INLINE void begin(const Line<T>&) {}
  MISH_INLINE void fetch(const Ahead<T>& ahead) {
    ahead.template fetch<1>(y);
    ahead.template fetch<0>(x, then);
  }
  MISH_INLINE void step(int64_t i, int64_t n, const Block<T>& value) { value.write(y + i, n); }
  MISH_INLINE void end() {}
};

template <class T>
void apply(void* y, const void* x, Rows rows, const Affine* affines, bool apart, int64_t then) {
  const T* const from = static_cast<const T*>(x);
  const Apply<T> kernel{static_cast<T*>(y), from, then};
  over_rows<Op::kForward>(from, rows, Lines<T>(affines, rows, apart), kernel);
}

/// What Reduce leaves for Finish: nothing, g in memory like that of x, or g as unrounded numbers.
enum class Leaves { kNothing, kG, kNumbers };

template <class T, Leaves leaves>
struct Reduce {
  using B = Block<T>;
  using A = typename B::A;
  using V = typename A::V;
  T* g;
  typename A::Element* numbers;
  const T *dy, *x;
  bool apart;
  Sums sums;
  V centre = {}, run = {}, run_u = {}, sum = {}, sum_u = {};
  int added = 0;

  MISH_INLINE void begin(const Line<T>& line) { centre = line.centre; }
  MISH_INLINE void fetch(const Ahead<T>& ahead) {
    ahead.template fetch<0>(x);
    ahead.template fetch<0>(dy);
    if constexpr (leaves == Leaves::kG) ahead.template fetch<1>(g);
  }
  MISH_INLINE void step(int64_t i, int64_t n, const B& slope) {
    B one(dy + i, n);
    const B from(x + i, n);
    for (int part = 0; part < B::kParts; ++part) {
      V& product = one.part[part];
      product = product * slope.part[part];
      run = run + product;
      run_u = A::fma(product, from.part[part] - centre, run_u);
    }
    if constexpr (leaves == Leaves::kG) one.write(g + i, n);
    if constexpr (leaves == Leaves::kNumbers) {
      store_parts<T>(numbers, one);
      numbers += B::kWidth;
    }
    if (++added % kRun == 0) {
      sum = sum + run;
      sum_u = sum_u + run_u;
      run = run_u = A::set(0);
      if (added == kRun * kRun) flush();
    }
  }
  MISH_INLINE void end() {
    flush();
    if (apart) sums = {sums.g + 1, sums.gu + 1};
  }
  MISH_INLINE void flush() {
    double totals[2] = {*sums.g, *sums.gu};
    add_sums(sum + run, sum_u + run_u, totals);
    *sums.g = totals[0];
    *sums.gu = totals[1];
    sum = sum_u = run = run_u = A::set(0);
    added = 0;
  }
};

template <class T, Leaves leaves>
void reduce_to(T* g, void* numbers, const T* dy, const T* x, Rows rows, const Affine* affines,
               bool apart, Sums sums) {
  auto* const to = static_cast<typename Block<T>::A::Element*>(numbers);
  const Reduce<T, leaves> kernel{g, to, dy, x, apart, sums};
  over_rows<Op::kBackward>(x, rows, Lines<T>(affines, rows, apart), kernel);
}

template <class T>
void reduce(void* g, void* numbers, const void* dy, const void* x, Rows rows, const Affine* affines,
            bool apart, Sums sums) {
  const auto to = numbers ? reduce_to<T, Leaves::kNumbers>
                  : g     ? reduce_to<T, Leaves::kG>
                          : reduce_to<T, Leaves::kNothing>;
  to(static_cast<T*>(g), numbers, static_cast<const T*>(dy), static_cast<const T*>(x), rows,
     affines, apart, sums);
}

template <class T, Leaves left>
struct Finish {
  using B = Block<T>;
  using A = typename B::A;
  using V = typename A::V;
  T* dx;
  const T* dy;
  const typename A::Element* numbers;
  const T* x;
  V p, q;
  V centre = {}, scale = {};

  MISH_INLINE void begin(const Line<T>& line) {
    centre = line.centre;
    scale = line.scale;
  }
  MISH_INLINE void fetch(const Ahead<T>& ahead) {
    ahead.template fetch<0>(x);
    ahead.template fetch<0>(dy);
    ahead.template fetch<1>(dx);
  }
  MISH_INLINE void step(int64_t i, int64_t n, const B& slope = {}) {
    B result;
    if constexpr (left == Leaves::kNumbers) {
      load_parts<T>(numbers, result);
      numbers += B::kWidth;
    } else {
      result = B((left == Leaves::kG ? dx : dy) + i, n);
    }
    const B from(x + i, n);
    for (int part = 0; part < B::kParts; ++part) {
      V& one = result.part[part];
      if constexpr (left == Leaves::kNothing) one = one * slope.part[part];
      one = A::fma(scale, one, A::fma(p, from.part[part] - centre, q));
    }
    result.write(dx + i, n);
  }
  MISH_INLINE void end() {}
};

template <class T, Leaves left>
void finish_of(T* dx, const T* dy, const void* numbers, const T* x, Rows rows,
               const Affine* affines, bool apart, double p, double q) {
  using A = typename Block<T>::A;
  const Lines<T> lines(affines, rows, apart);
  Finish<T, left> kernel{dx, dy,        static_cast<const typename A::Element*>(numbers),
                         x,  A::set(p), A::set(q)};
  if constexpr (left == Leaves::kNothing) {
    over_rows<Op::kBackward>(x, rows, lines, kernel);
  } else {
    Ahead<T> ahead(rows);
    for (int64_t row = 0; row < rows.count; ++row) {
      kernel.begin(lines[row]);
      const int64_t first = row * rows.step;
      each_block<T>(rows.length, [&](int64_t i, int64_t n) MISH_INLINE_LAMBDA {
        // Of these rows, caches have what reduce left; what it left in numbers is no memory of dx.
        if (left == Leaves::kNumbers || ahead.in_next()) kernel.fetch(ahead);
        ahead.advance();
        kernel.step(first + i, n);
      });
    }
  }
}

template <class T>
void finish(void* dx, const void* dy, bool reduced, const void* numbers, const void* x, Rows rows,
            const Affine* affines, bool apart, double p, double q) {
  const auto of = numbers   ? finish_of<T, Leaves::kNumbers>
                  : reduced ? finish_of<T, Leaves::kG>
                            : finish_of<T, Leaves::kNothing>;
  of(static_cast<T*>(dx), static_cast<const T*>(dy), numbers, static_cast<const T*>(x), rows,
     affines, apart, p, q);
}

template <class T>
int64_t numbers_size(Rows rows) {
  const int64_t steps = rows.count * steps_of<T>(rows.length);
  return steps * Block<T>::kWidth * sizeof(typename Block<T>::A::Element);
}

}  // namespace
}  // namespace mish::cpu

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
MISH_INLINE int64_t ahead(Rows rows, int64_t sets) {
  const int64_t page = 4096 / sizeof(T);
  return rows.length >= 2 * page || rows.count == 1 || sets > 1 ? page : rows.step;
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
  MISH_INLINE void write(T* to) const { store(to, part); }
  MISH_INLINE void write(T* to, int64_t n) const { store_some(to, n, part); }
};

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
  const int64_t far = ahead<T>(rows, 1);
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

// --- The others: a step begins with x and ends with what else it reads and writes ---

/// z and u of a step.
template <class T>
struct Begun {
  Point<typename PlanOf<T>::A> z[PlanOf<T>::kParts];
  typename PlanOf<T>::A::V u[PlanOf<T>::kParts];
};

template <class T>
struct Normalise {
  using B = Block<T>;
  using A = typename B::A;
  using V = typename B::V;
  V centre, scale, shift;

  MISH_INLINE explicit Normalise(const Affine& affine)
      : centre(A::set(affine.centre)), scale(A::set(affine.scale)), shift(A::set(affine.shift)) {}

  MISH_INLINE Begun<T> begin(const B& x) const {
    Begun<T> begun;
    for (int part = 0; part < B::kParts; ++part) {
      begun.u[part] = x.part[part] - centre;
      begun.z[part] = Point<A>(A::fma(scale, begun.u[part], shift));
    }
    return begun;
  }
};

template <class T>
struct Apply : Normalise<T> {
  using typename Normalise<T>::B;
  using typename Normalise<T>::A;
  static constexpr bool kReads = false;

  MISH_INLINE explicit Apply(const Affine& affine) : Normalise<T>(affine) {}

  MISH_INLINE B end(const Begun<T>& begun, const B&) {
    B y;
    for (int part = 0; part < B::kParts; ++part) y.part[part] = value<A>(begun.z[part]);
    return y;
  }
};

template <class T>
struct Reduce : Normalise<T> {
  using typename Normalise<T>::B;
  using typename Normalise<T>::A;
  using typename Normalise<T>::V;
  static constexpr bool kReads = true;
  V g, gu;
  double sums[2];
  int added;

  MISH_INLINE explicit Reduce(const Affine& affine)
      : Normalise<T>(affine), g(A::set(0)), gu(A::set(0)), sums{0, 0}, added(0) {}

  MISH_INLINE B end(const Begun<T>& begun, const B& dy) {
    B result;
    for (int part = 0; part < B::kParts; ++part) {
      const V one = dy.part[part] * slope<A>(begun.z[part]);
      result.part[part] = one;
      g = g + one;
      gu = A::fma(one, begun.u[part], gu);
    }
    if (++added == kRun) flush();
    return result;
  }
  MISH_INLINE void flush() {
    add_sums(g, gu, sums);
    g = gu = A::set(0);
    added = 0;
  }
};

template <class T>
struct Finish : Normalise<T> {
  using typename Normalise<T>::B;
  using typename Normalise<T>::A;
  using typename Normalise<T>::V;
  static constexpr bool kReads = true;
  V p, q;

  MISH_INLINE Finish(const Affine& affine, double p, double q)
      : Normalise<T>(affine), p(A::set(p)), q(A::set(q)) {}

  MISH_INLINE B end(const Begun<T>& begun, const B& dy) {
    B dx;
    for (int part = 0; part < B::kParts; ++part) {
      const V g = dy.part[part] * slope<A>(begun.z[part]);
      dx.part[part] = A::fma(this->scale, g, A::fma(p, begun.u[part], q));
    }
    return dx;
  }
};

/// With g given.
template <class T>
struct FinishReduced : Finish<T> {
  using typename Normalise<T>::B;
  using typename Normalise<T>::A;

  MISH_INLINE FinishReduced(const Affine& affine, double p, double q) : Finish<T>(affine, p, q) {}
  MISH_INLINE B begin(const B& x) const { return x; }
  MISH_INLINE B end(const B& x, const B& g) {
    B dx;
    for (int part = 0; part < B::kParts; ++part) {
      dx.part[part] =
          A::fma(this->scale, g.part[part], A::fma(this->p, x.part[part] - this->centre, this->q));
    }
    return dx;
  }
};

/// All rows of all sets, one behind the other. `make(set)` gives the kernel of a set, `done(set,
/// kernel)` takes it back. `out` may be null, or the memory of `dy`.
template <class Kernel, class T, class Make, class Done>
MISH_INLINE void walk(T* out, const T* dy, const T* x, Rows rows, int64_t sets, const Make& make,
                      const Done& done) {
  using B = Block<T>;
  constexpr int64_t kWidth = B::kWidth;
  const int64_t n = rows.length;
  // Filled up with dy = 0, and so with g = 0.
  const auto get = [&](const T* from, int64_t i) {
    return i + kWidth <= n ? B(from + i) : B(from + i, n - i, T{});
  };
  const auto end = [&](Kernel& kernel, const auto& begun, int64_t row, int64_t i) {
    const B result = kernel.end(begun, Kernel::kReads ? get(dy + row, i) : B());
    if (!out) return;
    if (i + kWidth <= n) {
      result.write(out + row + i);
    } else {
      result.write(out + row + i, n - i);
    }
  };
  const int64_t far = ahead<T>(rows, sets);
  int64_t set = 0, left = rows.count, row = 0;
  Kernel kernel = make(0);
  auto begun = kernel.begin(get(x, 0));
  for (;;) {
    int64_t i = 0;
    for (; i + 2 * kWidth <= n; i += kWidth) {
      prefetch_at<0>(x + row + i, far);
      if constexpr (Kernel::kReads) prefetch_at<0>(dy + row + i, far);
      if (out) prefetch_at<1>(out + row + i, far);
      // A step is one long chain of results that wait for each other; see whole_steps().
      const auto next = kernel.begin(B(x + row + i + kWidth));
      end(kernel, begun, row, i);
      begun = next;
    }
    if (i + kWidth < n) {
      const auto next = kernel.begin(get(x + row, i + kWidth));
      end(kernel, begun, row, i);
      begun = next;
      i += kWidth;
    }
    if (--left > 0) {
      const auto next = kernel.begin(get(x + row + rows.step, 0));
      end(kernel, begun, row, i);
      begun = next;
      row += rows.step;
    } else if (set + 1 < sets) {
      Kernel other = make(set + 1);
      const auto next = other.begin(get(x + (set + 1) * n, 0));
      end(kernel, begun, row, i);
      done(set, kernel);
      kernel = other;
      begun = next;
      row = ++set * n;
      left = rows.count;
    } else {
      end(kernel, begun, row, i);
      return done(set, kernel);
    }
  }
}

template <class T>
void apply(void* y, const void* x, Rows rows, int64_t sets, const Affine* affine) {
  walk<Apply<T>>(
      static_cast<T*>(y), static_cast<const T*>(nullptr), static_cast<const T*>(x), rows, sets,
      [=](int64_t set) { return Apply<T>(affine[set]); }, [](int64_t, const Apply<T>&) {});
}

template <class T>
void reduce(void* g, const void* dy, const void* x, Rows rows, int64_t sets, const Affine* affine,
            Sums* sums) {
  walk<Reduce<T>>(
      static_cast<T*>(g), static_cast<const T*>(dy), static_cast<const T*>(x), rows, sets,
      [=](int64_t set) { return Reduce<T>(affine[set]); },
      [=](int64_t set, Reduce<T>& kernel) {
        kernel.flush();
        sums[set] = {kernel.sums[0], kernel.sums[1]};
      });
}

template <class Kernel, class T>
void finish_by(void* dx, const void* dy, const void* x, Rows rows, int64_t sets,
               const Affine* affine, double p, double q) {
  walk<Kernel>(
      static_cast<T*>(dx), static_cast<const T*>(dy), static_cast<const T*>(x), rows, sets,
      [=](int64_t set) { return Kernel(affine[set], p, q); }, [](int64_t, const Kernel&) {});
}

template <class T>
void finish(void* dx, const void* dy, bool reduced, const void* x, Rows rows, int64_t sets,
            const Affine* affine, double p, double q) {
  const auto by = reduced ? finish_by<FinishReduced<T>, T> : finish_by<Finish<T>, T>;
  by(dx, dy, x, rows, sets, affine, p, q);
}

template <class T>
constexpr NormKernels norm_kernels_of = {moments<T>, apply<T>, reduce<T>, finish<T>};

constexpr NormTable kNormTable = {norm_kernels_of<float>, norm_kernels_of<double>,
                                  norm_kernels_of<half_bits>, norm_kernels_of<bfloat16_bits>};

}  // namespace
}  // namespace mish::cpu

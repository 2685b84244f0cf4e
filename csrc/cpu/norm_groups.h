// Of the kernels of norm_kernels.h those for groups of channels with few elements each, for one
// instruction set. A group is one row, and has a weight and a bias for each element.
#pragma once

#include "cpu/blocks.h"

namespace mish::cpu {
namespace {

/// Numbers for the elements of a group, in steps: as those of x lie in vectors once they are
/// loaded.
template <class T>
struct Stretched {
  using A = typename Block<T>::A;
  using Element = typename A::Element;
  static constexpr int kParts = Block<T>::kParts, kWidth = Block<T>::kWidth;

  /// From the order of the elements to that of the parts of each step, or back.
  template <bool kBack>
  static void reorder(Element* numbers, int64_t length) {
    if constexpr (kParts == 1) return;
    for (int64_t i = 0; i < length; i += kWidth) {
      Element step[kWidth];
      std::copy_n(numbers + i, kWidth, step);
      for (int k = 0; k < kWidth; ++k) {
        const int place = k % kParts * A::kWidth + k / kParts;
        numbers[i + (kBack ? k : place)] = step[kBack ? place : k];
      }
    }
  }
};

template <class T>
int64_t stretched_size(int64_t length) {
  return steps_of<T>(length) * Block<T>::kWidth * sizeof(typename Stretched<T>::Element);
}

template <class T>
void stretch(void* to, const double* of_channels, int64_t channels, int64_t size) {
  using S = Stretched<T>;
  auto* const numbers = static_cast<typename S::Element*>(to);
  for (int64_t c = 0; c < channels; ++c) {
    std::fill_n(numbers + c * size, size, static_cast<typename S::Element>(of_channels[c]));
  }
  for (int64_t i = channels * size; i % S::kWidth != 0; ++i) numbers[i] = 0;
  S::template reorder<false>(numbers, channels * size);
}

template <class T>
void gather(double* of_channels, void* from, int64_t channels, int64_t size) {
  using S = Stretched<T>;
  auto* numbers = static_cast<typename S::Element*>(from);
  S::template reorder<true>(numbers, channels * size);
  for (int64_t c = 0; c < channels; ++c, numbers += size) {
    double even = 0, odd = 0;  // for additions that wait for one another
    int64_t i = 0;
    for (; i + 4 <= size; i += 4) {
      even += static_cast<double>(numbers[i]) + numbers[i + 2];
      odd += static_cast<double>(numbers[i + 1]) + numbers[i + 3];
    }
    for (; i < size; ++i) even += numbers[i];
    of_channels[c] += even + odd;
  }
}

/// What is computed of x: t = scale (x - centre) + shift, and z = weight t + bias.
template <class T>
struct Group {
  using S = Stretched<T>;
  using B = Block<T>;
  using A = typename B::A;
  using Element = typename S::Element;
  const T* x;
  int64_t length;
  const Element *weight, *bias;
  typename A::V centre, scale, shift;

  Group(const void* x, int64_t length, const void* weight, const void* bias, const Affine& affine)
      : x(static_cast<const T*>(x)),
        length(length),
        weight(static_cast<const Element*>(weight)),
        bias(static_cast<const Element*>(bias)),
        centre(A::set(affine.centre)),
        scale(A::set(affine.scale)),
        shift(A::set(affine.shift)) {}

  /// Elements of a step that begins at i.
  MISH_INLINE int64_t rest(int64_t i) const { return length - i; }
  MISH_INLINE B normal(int64_t i) const {
    B t(x + i, rest(i));
    for (auto& part : t.part) part = A::fma(scale, part - centre, shift);
    return t;
  }
  MISH_INLINE B weights(int64_t i) const {
    B result;
    load_parts<T>(weight + i, result);
    return result;
  }
  /// Calls use(i, block) with f(z) or f'(z) of each step. x is prefetched `next` further on, for
  /// f' to the second-level cache: backward fills the first.
  template <Op op, class Use>
  MISH_INLINE void each(int64_t next, const Use& use) const {
    const Group& group = *this;
    each_step<NormPlanOf<T>>(
        steps_of<T>(length),
        [group, next](int64_t step, Numbers<NormPlanOf<T>>& z) MISH_INLINE_LAMBDA {
          const int64_t i = step * B::kWidth;
          prefetch<0, op == Op::kForward ? 3 : 2>(group.x + i, next);
          const B t = group.normal(i), w = group.weights(i);
          B b;
          load_parts<T>(group.bias + i, b);
          for (int part = 0; part < B::kParts; ++part) {
            z[part] = A::fma(w.part[part], t.part[part], b.part[part]);
          }
        },
        [&use](int64_t step, const Points<NormPlanOf<T>>& points)
            MISH_INLINE_LAMBDA { use(step * B::kWidth, derivatives<op>(points)); });
  }
};

template <class T>
void apply_group(void* to, const void* x, int64_t length, const void* weight, const void* bias,
                 const Affine& affine) {
  T* const y = static_cast<T*>(to);
  const Group<T> group(x, length, weight, bias, affine);
  group.template each<Op::kForward>(2 * kAhead<T>,
                                    [=](int64_t i, const Block<T>& value) MISH_INLINE_LAMBDA {
                                      prefetch<1>(y + i);
                                      value.write(y + i, length - i);
                                    });
}

template <class T>
void reduce_group(void* g, const void* gradient, const void* x, int64_t length, const void* weight,
                  const void* bias, const Affine& affine, void* dweight, void* dbias,
                  double (&sums)[2], int64_t next) {
  using B = Block<T>;
  using A = typename B::A;
  using S = Stretched<T>;
  using Element = typename S::Element;
  const Group<T> group(x, length, weight, bias, affine);
  const T* const dy = static_cast<const T*>(gradient);
  auto* const to = static_cast<Element*>(g);
  auto* const to_weight = static_cast<Element*>(dweight);
  auto* const to_bias = static_cast<Element*>(dbias);
  typename A::V run = A::set(0), run_t = A::set(0);
  int added = 0;
  group.template each<Op::kBackward>(next, [&](int64_t i, const B& slope) MISH_INLINE_LAMBDA {
    prefetch<0, 2>(dy + i, next);
    B one(dy + i, group.rest(i)), sum, sum_t;
    const B t = group.normal(i), w = group.weights(i);
    load_parts<T>(to_bias + i, sum);
    load_parts<T>(to_weight + i, sum_t);
    for (int part = 0; part < B::kParts; ++part) {
      auto& product = one.part[part];
      product = product * slope.part[part];
      sum.part[part] = sum.part[part] + product;
      sum_t.part[part] = A::fma(product, t.part[part], sum_t.part[part]);
      product = w.part[part] * product;
      run = run + product;
      run_t = A::fma(product, t.part[part], run_t);
    }
    store_parts<T>(to_bias + i, sum);
    store_parts<T>(to_weight + i, sum_t);
    store_parts<T>(to + i, one);
    if (++added == kRun) {
      add_sums(run, run_t, sums);
      run = run_t = A::set(0);
      added = 0;
    }
  });
  add_sums(run, run_t, sums);
}

template <class T>
void finish_group(void* to, const void* g, const void* x, int64_t length, const Affine& affine,
                  double a, double b, int64_t next) {
  using B = Block<T>;
  using A = typename B::A;
  using S = Stretched<T>;
  T* const dx = static_cast<T*>(to);
  const auto* const from = static_cast<const typename S::Element*>(g);
  const Group<T> group(x, length, nullptr, nullptr, affine);
  const auto minus_a = A::set(-a), minus_b = A::set(-b);
  each_block<T>(length, [=](int64_t i, int64_t n) MISH_INLINE_LAMBDA {
    prefetch<0, 2>(dx + i, next);
    const B t = group.normal(i);
    B one;
    load_parts<T>(from + i, one);
    for (int part = 0; part < B::kParts; ++part) {
      auto& product = one.part[part];
      product = group.scale * A::fma(minus_b, t.part[part], product + minus_a);
    }
    one.write(dx + i, n);
  });
}

}  // namespace
}  // namespace mish::cpu

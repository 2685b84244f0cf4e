// BatchNorm or GroupNorm with Mish behind it: four kernels, and how they make up both norms. Raw
// pointers, sizes in elements; no torch type crosses this interface.
//
// With u = x - mean, r = 1 / sqrt(variance + eps), s = weight r, z = s u + bias:
//
//   y = f(z),  g = dy f'(z),  dx = s g + p u + q
//
// where p and q hold for all elements that were normalised together. Of A = sum g and B = sum g u
// over each channel (BatchNorm), or each channel of each sample (GroupNorm):
//
//   BatchNorm, M elements a channel     p = -s r^2 B / M,              q = -s A / M
//   GroupNorm, M elements a group       p = -r^3 sum(weight B) / M,    q = -r sum(weight A) / M
//   statistics that are given           p = q = 0
//   all                                 dbias = sum A, dweight = sum r B
#pragma once

#include <cstdint>

#include "mish_kernels.h"

namespace mish {

/// What is normalised: contiguous (batch, channels, size), of any element type.
struct NormShape {
  int64_t batch, channels, size;
  int64_t groups;  // of channels, each normalised by itself in each sample; 0: BatchNorm

  int64_t sets() const { return groups > 0 ? batch * groups : channels; }
};

namespace cpu {

/// `count` runs of `length` adjacent elements, each `step` elements behind the one before.
struct Rows {
  int64_t count, length, step;
  /// From their first element to the first of what is worked on next, to be prefetched.
  int64_t next = 0;
};

/// z = scale (x - centre) + shift. In 16 bits and fp32 `centre` is a float.
struct Affine {
  double centre, scale, shift;
};

/// The mean is centre + offset. A double cannot hold it as exactly as the two, and the variance of
/// numbers far from 0 would hang on what is lost.
struct Moments {
  double centre, offset, squares;  // squares: the sum of (x - mean)^2
};

/// The moments of two sets of `n` and `m` elements together (Chan, Golub, LeVeque).
inline Moments combined(const Moments& a, double n, const Moments& b, double m) {
  const double distance = (b.centre - a.centre) + (b.offset - a.offset), share = m / (n + m);
  return {a.centre, a.offset + distance * share,
          a.squares + b.squares + distance * distance * n * share};
}

/// Of g, and of g u with u = x - centre: pointers to one number for each row, or to one for all.
struct Sums {
  double *g, *gu;
};

/// Rows that have an Affine of their own, at most at a time.
inline constexpr int64_t kMostApart = 128;

/// For one element type and instruction set. Rows have one Affine, and one of each sum, for all, or
/// with `apart` for each. Sums are made in an order that hangs on the sizes alone.
struct NormKernels {
  /// By reference: passed by value, the structs would be written in pieces and read whole, for
  /// which a processor waits. That took 26 ns of the 40 for a small group.
  void (*moments)(Moments& result, const void* x, const Rows& rows);
  /// y = f(z). x is prefetched `then` further on, for what reads it next.
  void (*apply)(void* y, const void* x, Rows rows, const Affine* affines, bool apart, int64_t then);
  /// Bytes of what reduce may write to `numbers`.
  int64_t (*numbers_size)(Rows rows);
  /// Adds to `sums`. Writes g, unrounded to `numbers` or else to `g`, where they are not null.
  void (*reduce)(void* g, void* numbers, const void* dy, const void* x, Rows rows,
                 const Affine* affines, bool apart, Sums sums);
  /// dx = scale g + p (x - centre) + q. g is what reduce wrote to `numbers`, unless that is null;
  /// or with `reduced` what it wrote as g to dx; else g is made of dy again.
  void (*finish)(void* dx, const void* dy, bool reduced, const void* numbers, const void* x,
                 Rows rows, const Affine* affines, bool apart, double p, double q);

  // A group of channels with few elements each is one row, with a weight and a bias for each
  // element, stretched: with t = scale (x - centre) + shift, z = weight t + bias.

  /// Bytes of what is stretched to `length` elements.
  int64_t (*stretched_size)(int64_t length);
  /// Repeats the number of each channel for its `size` elements.
  void (*stretch)(void* to, const double* of_channels, int64_t channels, int64_t size);
  /// y = f(z)
  void (*apply_group)(void* y, const void* x, int64_t length, const void* weight, const void* bias,
                      const Affine& affine);
  /// Writes weight g, adds its sum and that of weight g t to `sums`, g t to dweight and g to dbias.
  /// All but dy and x are stretched; these are prefetched `next` further on.
  void (*reduce_group)(void* g, const void* dy, const void* x, int64_t length, const void* weight,
                       const void* bias, const Affine& affine, void* dweight, void* dbias,
                       double (&sums)[2], int64_t next);
  /// dx = scale (g - a - b t), g being what reduce_group wrote. dx is prefetched `next` further on.
  void (*finish_group)(void* dx, const void* g, const void* x, int64_t length, const Affine& affine,
                       double a, double b, int64_t next);
  /// Adds what is stretched up in each channel. Leaves the memory in another order.
  void (*gather)(double* of_channels, void* from, int64_t channels, int64_t size);
};

/// The kernels for an element type; `isa` must be supported.
const NormKernels& norm_kernels(DType dtype, Isa isa);

/// How to share work out among threads.
struct Parallel {
  int threads;
  /// Calls part(data, begin, end) for [0, n) in pieces, each on some thread; each of the n stands
  /// for so many elements.
  void (*run)(int64_t n, int64_t elements, void (*part)(void*, int64_t, int64_t), void* data);

  /// Calls body(i) for each i in [0, n).
  template <class Body>
  void operator()(int64_t n, int64_t elements, const Body& body) const {
    ranges(n, elements, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i);
    });
  }
  /// Calls body(begin, end) for each piece.
  template <class Body>
  void ranges(int64_t n, int64_t elements, Body body) const {
    const auto part = [](void* data, int64_t begin, int64_t end) {
      (*static_cast<Body*>(data))(begin, end);
    };
    run(n, elements, part, &body);
  }
};

/// What a norm and Mish of a tensor need beside it.
struct NormMish {
  NormShape shape;
  DType dtype;
  Isa isa;
  /// Of each set, its mean, 1 / sqrt(variance + eps) and, unless it is null, variance.
  double *mean, *rstd, *variance;
  /// Whether those are constants, not computed of x; only for BatchNorm.
  bool given;
  /// One for each channel; null for ones and zeros.
  const double *weight, *bias;
  Parallel parallel;

  /// y = f(z). Writes the statistics first, unless they are given.
  void forward(void* y, const void* x, double eps) const;
  /// dx, dweight and dbias, each unless it is null.
  void backward(void* dx, double* dweight, double* dbias, const void* dy, const void* x) const;
};

}  // namespace cpu

namespace cuda {

/// A norm and Mish of a tensor. All memory is that of the current device, and all but the tensor's
/// holds floats, for fp64 doubles. Sums are made in an order that hangs on the sizes, and on
/// whether rows lie on 16-byte boundaries.
struct NormMish {
  NormShape shape;
  DType dtype;
  /// As many as there are sets of each: mean, 1 / sqrt(variance + eps), and what the number that
  /// stands for the mean leaves of it.
  void* statistics;
  /// Whether those are constants, not computed of x; only for BatchNorm.
  bool given;
  /// One for each channel; null for ones and zeros.
  const void *weight, *bias;
  /// workspace_size() bytes on an 8-byte boundary, not used once the kernels have run.
  void* workspace;
  void* stream;  // a cudaStream_t of the current device

  int64_t workspace_size() const;

  // Both queue kernels and return the first error of a launch, a cudaError_t; they never
  // synchronise and allocate nothing.

  /// y = f(z). Writes the statistics first: of x, or if they are given, of the running ones.
  /// Else those, each unless it is null, take in what was computed, with weight `momentum`.
  int forward(void* y, const void* x, double eps, void* running_mean, void* running_variance,
              double momentum) const;
  /// dx, dweight and dbias, each unless it is null.
  int backward(void* dx, void* dweight, void* dbias, const void* dy, const void* x) const;
};

}  // namespace cuda
}  // namespace mish

// Calls of the CUDA kernels of norms with Mish, for norm.cpp.
#pragma once

#include <ATen/ATen.h>

#include <array>

#include "norm_kernels.h"

namespace mish {

#ifdef MISH_WITH_CUDA
inline constexpr bool kHasCudaKernels = true;
#else
inline constexpr bool kHasCudaKernels = false;
#endif

/// A norm of a contiguous tensor on a GPU. `weight` and `bias` may be undefined. `statistics`: as
/// norm_kernels.h has them, a row of each. Nothing here waits for the GPU.
struct CudaNorm {
  const at::Tensor &input, &weight, &bias, &statistics;
  NormShape shape;
  DType dtype;
  bool given;

  /// For `statistics`, of so many sets.
  static at::Tensor empty_statistics(const at::Tensor& input, int64_t sets);

  /// Returns y. Reads the running statistics if they are given, and else updates those that are
  /// defined.
  at::Tensor forward(const at::Tensor& running_mean, const at::Tensor& running_var, double momentum,
                     double eps) const;

  /// The gradients that are wanted, for input, weight and bias; dy is contiguous.
  std::array<at::Tensor, 3> backward(const at::Tensor& dy, const std::array<bool, 3>& wanted) const;
};

}  // namespace mish

// The kernels of a norm with Mish and their launches, as nvcc compiles them. Without nvcc:
// embedded.cpp.
#include <cuda_runtime.h>

#include "cuda/norm_kernels.cuh"
#include "cuda/norm_launch.h"

namespace mish::cuda {

template <NormKernel kernel, class T, int N, class Function>
cudaError_t find_norm(Function& function) {
  if constexpr (kernel == NormKernel::kMoments) {
    function = moments<T, N>;
  } else if constexpr (kernel == NormKernel::kStatistics) {
    function = statistics<T>;
  } else if constexpr (kernel == NormKernel::kApply) {
    function = apply<T, N>;
  } else if constexpr (kernel == NormKernel::kReduce) {
    function = reduce<T, N>;
  } else if constexpr (kernel == NormKernel::kGradients) {
    function = gradients<T>;
  } else {
    function = finish<T, N>;
  }
  return cudaSuccess;
}

}  // namespace mish::cuda

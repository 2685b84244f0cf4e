// The kernels with their launches, as nvcc compiles them. Without nvcc: embedded.cpp.
#include <cuda_runtime.h>

#include "cuda/kernels.cuh"
#include "cuda/launch.h"

namespace mish::cuda {

template <Op op, class T, Kind kind, int N, class Kernel>
cudaError_t find(Kernel& kernel) {
  if constexpr (kind == Kind::kStrided) {
    kernel = strided<op, T, N>;
  } else {
    kernel = dense<op, T, kind, N>;
  }
  return cudaSuccess;
}

}  // namespace mish::cuda

// What the kernels use of CUDA, for a host compiler: threads run one after the other.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned size = 1) : x(size) {}
};
inline dim3 threadIdx, blockIdx;

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
inline float __uint_as_float(unsigned bits) {
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream = nullptr;
};

/// If not 0, a launch runs its first block and this many of its last ones: enough to see whether
/// places are counted right in a grid that is too large to run.
inline unsigned last_blocks_only = 0;

/// If set, called when a thread is done, before the next begins.
inline std::function<void()> after_thread;

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  if (config->gridDim.x == 0 || config->blockDim.x > 1024) return cudaErrorInvalidValue;
  const unsigned blocks = config->gridDim.x;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    if (last_blocks_only && blockIdx.x == 1) blockIdx.x = blocks - last_blocks_only;
    for (threadIdx.x = 0; threadIdx.x < config->blockDim.x; ++threadIdx.x) {
      kernel(arguments...);
      if (after_thread) after_thread();
    }
  }
  return cudaSuccess;
}

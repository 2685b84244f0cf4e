// A launch.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace mish::cuda {

template <class... Arguments>
cudaError_t enqueue(void (*kernel)(Arguments...), int64_t blocks, int threads, cudaStream_t stream,
                    const Arguments&... arguments) {
  if (blocks >= int64_t{1} << 31) return cudaErrorInvalidValue;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace mish::cuda

// What the kernels use of CUDA, for a host compiler: threads run one after the other, or from one
// place where they meet to the next.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "meeting_threads.h"

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned size = 1) : x(size) {}
};
inline dim3 threadIdx, blockIdx;

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
template <class To, class From>
To as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
inline float __uint_as_float(unsigned bits) { return as<float>(bits); }
inline unsigned __float_as_uint(float x) { return as<unsigned>(x); }
inline int __double2loint(double x) { return static_cast<int>(as<int64_t>(x)); }
inline double __hiloint2double(int high, unsigned low) {
  return as<double>(static_cast<int64_t>(high) << 32 | low);
}

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
/// Towards +infinity. In double the product is exact, and what the sum loses there far below.
inline float __fmaf_ru(float a, float b, float c) {
  const float nearest = std::fma(a, b, c);
  const double lost = (static_cast<double>(c) - nearest) + static_cast<double>(a) * b;
  const uint32_t bits = as<uint32_t>(nearest);
  return lost > 0 ? as<float>(nearest < 0 ? bits - 1 : bits + 1) : nearest;
}
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

/// The current device. As many multiprocessors as each of them has: none on the first, so that any
/// tensor has enough blocks for them, and very many on the second.
inline int current_device = 0;

enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  *value = device == 0 ? 0 : 1 << 20;
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream = nullptr;
};

/// If not 0, a launch of more blocks runs its first and this many of its last ones: enough to see
/// whether places are counted right in a grid that is too large to run.
inline unsigned last_blocks_only = 0;

/// Whether the threads of a block meet, at barriers and in shuffles; and in which order they run.
inline bool threads_meet = false, last_thread_first = false;

inline void __syncthreads() { MeetingThreads::meet("barrier"); }
inline int __syncthreads_or(int here) { return MeetingThreads::meet("vote", here != 0); }
template <class V>
V __shfl_xor_sync(unsigned, V value, unsigned mask) {
  return MeetingThreads::exchange(value, mask);
}

/// If set, called when a thread is done, before the next begins.
inline std::function<void()> after_thread;

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  if (config->gridDim.x == 0 || config->blockDim.x > 1024) return cudaErrorInvalidValue;
  const unsigned blocks = config->gridDim.x;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    const bool skips = last_blocks_only && blocks > last_blocks_only;
    if (skips && blockIdx.x == 1) blockIdx.x = blocks - last_blocks_only;
    if (threads_meet) {
      static MeetingThreads threads;
      threads.run(config->blockDim.x, last_thread_first, threadIdx.x,
                  [&] { kernel(arguments...); });
      continue;
    }
    for (threadIdx.x = 0; threadIdx.x < config->blockDim.x; ++threadIdx.x) {
      kernel(arguments...);
      if (after_thread) after_thread();
    }
  }
  return cudaSuccess;
}

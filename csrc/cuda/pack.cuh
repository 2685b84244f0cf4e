// Elements as they travel: N of them in one access, unpacked to the type they are computed in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/arithmetic.cuh"

namespace mish::cuda {

template <class T>
struct PlanOf;
template <>
struct PlanOf<float> {
  using A = RefinedFloat;
};
template <>
struct PlanOf<double> {
  using A = RefinedDouble;
};
template <>
struct PlanOf<__half> {
  using A = PlainFloat;
};
template <>
struct PlanOf<__nv_bfloat16> {
  using A = PlainFloat;
};

/// N elements, aligned so that they move in one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T element[N];
};

template <int N>
__device__ __forceinline__ void unpack(const Pack<float, N>& from, float (&to)[N]) {
  for (int i = 0; i < N; ++i) to[i] = from.element[i];
}
template <int N>
__device__ __forceinline__ void pack(const float (&from)[N], Pack<float, N>& to) {
  for (int i = 0; i < N; ++i) to.element[i] = from[i];
}

template <int N>
__device__ __forceinline__ void unpack(const Pack<double, N>& from, double (&to)[N]) {
  for (int i = 0; i < N; ++i) to[i] = from.element[i];
}
template <int N>
__device__ __forceinline__ void pack(const double (&from)[N], Pack<double, N>& to) {
  for (int i = 0; i < N; ++i) to.element[i] = from[i];
}

// Two 16-bit elements convert in one instruction.
template <int N>
__device__ __forceinline__ void unpack(const Pack<__half, N>& from, float (&to)[N]) {
  for (int i = 0; i < N; ++i) to[i] = __half2float(from.element[i]);
}
template <int N>
__device__ __forceinline__ void pack(const float (&from)[N], Pack<__half, N>& to) {
  if constexpr (N == 1) {
    to.element[0] = __float2half_rn(from[0]);
  } else {
    for (int i = 0; i < N; i += 2) {
      const __half2 pair = __floats2half2_rn(from[i], from[i + 1]);
      to.element[i] = pair.x;
      to.element[i + 1] = pair.y;
    }
  }
}

template <int N>
__device__ __forceinline__ void unpack(const Pack<__nv_bfloat16, N>& from, float (&to)[N]) {
  for (int i = 0; i < N; ++i) to[i] = __bfloat162float(from.element[i]);
}
template <int N>
__device__ __forceinline__ void pack(const float (&from)[N], Pack<__nv_bfloat16, N>& to) {
  if constexpr (N == 1) {
    to.element[0] = __float2bfloat16_rn(from[0]);
  } else {
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(from[i], from[i + 1]);
      to.element[i] = pair.x;
      to.element[i + 1] = pair.y;
    }
  }
}

}  // namespace mish::cuda

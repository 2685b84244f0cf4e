// Elements as they travel: N of them in one access, unpacked to the type they are computed in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

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

template <class T, int N>
__device__ __forceinline__ void unpack(const Pack<T, N>& from, T (&to)[N]) {
  for (int i = 0; i < N; ++i) to[i] = from.element[i];
}
template <class T, int N>
__device__ __forceinline__ void pack(const T (&from)[N], Pack<T, N>& to) {
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
    __half2 pairs[N / 2];
    for (int i = 0; i < N / 2; ++i) pairs[i] = __floats2half2_rn(from[2 * i], from[2 * i + 1]);
    memcpy(to.element, pairs, sizeof(pairs));
  }
}

// A bfloat16 is the upper half of its float: the odd element of a pair needs only its neighbour
// masked away, where __bfloat162float takes two instructions.
template <int N>
__device__ __forceinline__ void unpack(const Pack<__nv_bfloat16, N>& from, float (&to)[N]) {
  if constexpr (N == 1) {
    to[0] = __bfloat162float(from.element[0]);
  } else {
    unsigned pairs[N / 2];
    memcpy(pairs, from.element, sizeof(pairs));
    for (int i = 0; i < N / 2; ++i) {
      to[2 * i] = __uint_as_float(pairs[i] << 16);
      to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
  }
}
template <int N>
__device__ __forceinline__ void pack(const float (&from)[N], Pack<__nv_bfloat16, N>& to) {
  if constexpr (N == 1) {
    to.element[0] = __float2bfloat16_rn(from[0]);
  } else {
    __nv_bfloat162 pairs[N / 2];
    for (int i = 0; i < N / 2; ++i) {
      pairs[i] = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
    }
    memcpy(to.element, pairs, sizeof(pairs));
  }
}

}  // namespace mish::cuda

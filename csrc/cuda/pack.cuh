// Elements as they travel: N of them in one access, unpacked to the type they are computed in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "cuda/arithmetic.cuh"
#include "cuda/parameters.h"

namespace mish::cuda {

/// The arithmetic for packs of N elements, and the number that an element is unpacked to.
template <class T, int N>
struct PlanOf {  // 16 bits
  using A = PlainFloat<typename FloatLanes<N>::L>;
  using Number = float;
};
template <int N>
struct PlanOf<float, N> {
  using A = RefinedFloat<typename FloatLanes<N>::L>;
  using Number = float;
};
template <int N>
struct PlanOf<double, N> {
  using A = RefinedDouble<Double>;
  using Number = double;
};

/// N elements, aligned so that they move in one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T element[N];
};

/// The pack at place `i`, counted in packs, of memory aligned for packs.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T* from, uint64_t i) {
  Pack<T, N> result;
#if MISH_STREAMING
  if constexpr (sizeof(result) == sizeof(uint4)) {
    const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(from) + i);
    memcpy(&result, &bits, sizeof(bits));
    return result;
  }
#endif
  result = reinterpret_cast<const Pack<T, N>*>(from)[i];
  return result;
}
template <class T, int N>
__device__ __forceinline__ void store(T* to, uint64_t i, const Pack<T, N>& pack) {
#if MISH_STREAMING
  if constexpr (sizeof(pack) == sizeof(uint4)) {
    uint4 bits;
    memcpy(&bits, &pack, sizeof(bits));
    return __stcs(reinterpret_cast<uint4*>(to) + i, bits);
  }
#endif
  reinterpret_cast<Pack<T, N>*>(to)[i] = pack;
}

/// The same where only the first `left` elements of the pack may be touched, perhaps none.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_up_to(int64_t left, const T* from, uint64_t i) {
  if (left >= N) return load<N>(from, i);
  Pack<T, N> result = {};
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (j < left) result.element[j] = from[i * N + j];
  }
  return result;
}
template <class T, int N>
__device__ __forceinline__ void store_up_to(int64_t left, T* to, uint64_t i,
                                            const Pack<T, N>& pack) {
  if (left >= N) return store(to, i, pack);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (j < left) to[i * N + j] = pack.element[j];
  }
}

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

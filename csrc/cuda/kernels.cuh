// CUDA kernels over mish_math.h: one for dense operands, one for any strides.
#pragma once

#include "cuda/pack.cuh"
#include "cuda/parameters.h"

namespace mish::cuda {

template <Op op, class A>
__device__ __forceinline__ typename A::V apply(const typename A::V (&in)[kInputs<op>]) {
  if constexpr (op == Op::kForward) {
    return value<A>(in[0]);
  } else if constexpr (op == Op::kBackward) {
    return in[0] * slope<A>(in[1]);
  } else {
    return in[0] * (in[1] * curvature<A>(in[2]));
  }
}

template <Op op, class T, int N>
__device__ __forceinline__ Pack<T, N> apply(const Pack<T, N> (&in)[kInputs<op>]) {
  using A = typename PlanOf<T, N>::A;
  using V = typename A::V;
  typename PlanOf<T, N>::Number x[kInputs<op>][N], result[N];
  for (int k = 0; k < kInputs<op>; ++k) unpack(in[k], x[k]);
#pragma unroll
  for (int i = 0; i < N; i += A::kWidth) {
    V element[kInputs<op>];
    for (int k = 0; k < kInputs<op>; ++k) memcpy(&element[k], &x[k][i], sizeof(V));
    const V value = apply<op, A>(element);
    memcpy(&result[i], &value, sizeof(V));
  }
  Pack<T, N> out;
  pack(result, out);
  return out;
}

/// A block takes a tile; neighbouring threads take neighbouring packs. All but perhaps the last are
/// among the `full_blocks`, which have all their elements. In the last one a thread moves whole
/// packs as they do; the one thread whose pack is cut short moves its elements one by one, but all
/// loads stand before all maths there too.
template <Op op, class T, Kind kind, int N>
__global__ void __launch_bounds__(kTile<op, T, kind, N>.threads, kTile<op, T, kind, N>.min_blocks)
    dense(Dense<op, T> operands, int64_t count, unsigned full_blocks) {
  constexpr int threads = kTile<op, T, kind, N>.threads, packs = kTile<op, T, kind, N>.packs;
  // In packs: one multiplication makes the byte offset that all operands share.
  const uint64_t first = static_cast<uint64_t>(blockIdx.x) * (threads * packs) + threadIdx.x;
  Pack<T, N> in[packs][kInputs<op>];
  if (blockIdx.x < full_blocks) {
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      for (int k = 0; k < kInputs<op>; ++k) in[p][k] = load<N>(operands.in[k], first + p * threads);
    }
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      store(operands.out, first + p * threads, apply<op, T, N>(in[p]));
    }
    return;
  }
  const auto left = [&](int p) { return count - static_cast<int64_t>(first + p * threads) * N; };
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    for (int k = 0; k < kInputs<op>; ++k) {
      in[p][k] = load_up_to<N>(left(p), operands.in[k], first + p * threads);
    }
  }
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    store_up_to(left(p), operands.out, first + p * threads, apply<op, T, N>(in[p]));
  }
}

/// n / divisor = (high half of n m, plus n) >> shift.
__device__ __forceinline__ uint32_t quotient(const Divisor& by, uint32_t n) {
  return (__umulhi(n, by.magic) + n) >> by.shift;
}

template <Op op, class T, int N>
__global__ void __launch_bounds__(kStridedThreads)
    strided(const __grid_constant__ Strided<kInputs<op> + 1> operands) {
  constexpr int kOperands = kInputs<op> + 1, packs = kTile<op, T, Kind::kStrided, N>.packs;
  const uint32_t first = blockIdx.x * (kStridedThreads * packs) + threadIdx.x;
  uint32_t index[packs];
  char* at[packs][kOperands];
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    index[p] = first + p * kStridedThreads;
    if (index[p] >= operands.count) index[p] = 0;  // is not accessed
    for (int k = 0; k < kOperands; ++k) at[p][k] = operands.data[k];
  }
  for (int dim = 0; dim < operands.dims; ++dim) {
    const Divisor size = operands.sizes[dim];
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      const uint32_t next = quotient(size, index[p]), place = index[p] - next * size.divisor;
      for (int k = 0; k < kOperands; ++k) at[p][k] += place * operands.strides[dim][k];
      index[p] = next;
    }
  }
  const auto exists = [&](int p) { return first + p * kStridedThreads < operands.count; };
  Pack<T, N> in[packs][kInputs<op>] = {};
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    for (int k = 0; k < kInputs<op>; ++k) {
      if (exists(p)) in[p][k] = load<N>(reinterpret_cast<const T*>(at[p][k + 1]), 0);
    }
  }
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    if (exists(p)) store(reinterpret_cast<T*>(at[p][0]), 0, apply<op, T, N>(in[p]));
  }
}

}  // namespace mish::cuda

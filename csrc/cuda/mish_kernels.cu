// CUDA kernels over mish_math.h: one for dense operands, one for any strides.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/pack.cuh"
#include "mish_kernels.h"

namespace mish::cuda {
namespace {

constexpr int kThreads = 256;

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
  using A = typename PlanOf<T>::A;
  typename A::V x[kInputs<op>][N], result[N];
  for (int k = 0; k < kInputs<op>; ++k) unpack(in[k], x[k]);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    typename A::V element[kInputs<op>];
    for (int k = 0; k < kInputs<op>; ++k) element[k] = x[k][i];
    result[i] = apply<op, A>(element);
  }
  Pack<T, N> out;
  pack(result, out);
  return out;
}

/// Pointers to dense operands; `in` may alias `out` element for element.
template <Op op, class T>
struct Dense {
  T* out;
  const T* in[kInputs<op>];
};

/// Packs of N elements that a thread has in flight: about 32 bytes of reads, 16 bytes each.
template <Op op, int N, class T>
constexpr int kPacks = kInputs<op> == 1 ? 32 / (N * sizeof(T)) : 16 / (N * sizeof(T));

/// Each block takes kThreads * kPacks * N elements; neighbouring threads take neighbouring packs.
/// All but perhaps the last are among the `full_blocks`, which have all their elements.
template <Op op, class T, int N>
__global__ void __launch_bounds__(kThreads)
    dense(Dense<op, T> operands, int64_t count, unsigned full_blocks) {
  constexpr int packs = kPacks<op, N, T>;
  // In packs: one multiplication makes the byte offset that all operands share.
  const uint64_t first = static_cast<uint64_t>(blockIdx.x) * (kThreads * packs) + threadIdx.x;
  if (blockIdx.x < full_blocks) {
    Pack<T, N> in[packs][kInputs<op>];
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      for (int k = 0; k < kInputs<op>; ++k) {
        in[p][k] = reinterpret_cast<const Pack<T, N>*>(operands.in[k])[first + p * kThreads];
      }
    }
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      reinterpret_cast<Pack<T, N>*>(operands.out)[first + p * kThreads] = apply<op, T, N>(in[p]);
    }
    return;
  }
  for (int p = 0; p < packs; ++p) {  // the last block: one element at a time, to the end exactly
    const int64_t begin = static_cast<int64_t>(first + p * kThreads) * N;
    for (int64_t i = begin; i < begin + N && i < count; ++i) {
      Pack<T, 1> in[kInputs<op>];
      for (int k = 0; k < kInputs<op>; ++k) in[k].element[0] = operands.in[k][i];
      operands.out[i] = apply<op, T, 1>(in).element[0];
    }
  }
}

/// Division of 31-bit numbers by an invariant: quotient = (high half of n m, plus n) >> shift, with
/// m = floor(2^32 (2^shift - d) / d) + 1 (Granlund and Montgomery, PLDI 1994, figure 4.1).
struct Divisor {
  uint32_t divisor, magic, shift;

  __host__ static Divisor of(uint32_t d) {
    uint32_t shift = 0;
    while ((uint64_t{1} << shift) < d) ++shift;
    const uint64_t magic = ((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1;
    return {d, static_cast<uint32_t>(magic), shift};
  }
  __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
    return (__umulhi(n, magic) + n) >> shift;
  }
};

/// Any strides, fewer than 2^31 elements.
template <int kOperands>
struct Strided {
  char* data[kOperands];
  int dims;
  uint32_t count;
  Divisor sizes[kMaxDims];
  int64_t strides[kMaxDims][kOperands];
};

template <Op op, class T>
__global__ void __launch_bounds__(kThreads)
    strided(const __grid_constant__ Strided<kInputs<op> + 1> operands) {
  constexpr int kOperands = kInputs<op> + 1;
  uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= operands.count) return;
  char* at[kOperands];
  for (int k = 0; k < kOperands; ++k) at[k] = operands.data[k];
  for (int dim = 0; dim < operands.dims; ++dim) {
    const Divisor size = operands.sizes[dim];
    const uint32_t quotient = size.quotient(index), place = index - quotient * size.divisor;
    for (int k = 0; k < kOperands; ++k) at[k] += place * operands.strides[dim][k];
    index = quotient;
  }
  Pack<T, 1> in[kInputs<op>];
  for (int k = 0; k < kInputs<op>; ++k) in[k].element[0] = *reinterpret_cast<const T*>(at[k + 1]);
  *reinterpret_cast<T*>(at[0]) = apply<op, T, 1>(in).element[0];
}

/// Queues `kernel` with one thread for each of `count` elements, or with fewer that take
/// `per_thread` each.
template <class... Parameters, class... Arguments>
cudaError_t enqueue(void (*kernel)(Parameters...), int64_t count, int per_thread,
                    cudaStream_t stream, const Arguments&... arguments) {
  const int64_t per_block = static_cast<int64_t>(kThreads) * per_thread;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((count + per_block - 1) / per_block));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <Op op, class T, int N>
cudaError_t launch_dense(const Operands& operands, cudaStream_t stream) {
  Dense<op, T> dense_operands;
  dense_operands.out = static_cast<T*>(operands.data[0]);
  for (int k = 0; k < kInputs<op>; ++k) {
    dense_operands.in[k] = static_cast<const T*>(operands.data[k + 1]);
  }
  constexpr int per_thread = kPacks<op, N, T> * N;
  const int64_t count = operands.sizes[0];
  const auto full_blocks = static_cast<unsigned>(count / (kThreads * per_thread));
  return enqueue(dense<op, T, N>, count, per_thread, stream, dense_operands, count, full_blocks);
}

template <Op op, class T>
cudaError_t launch_strided(const Operands& operands, cudaStream_t stream) {
  constexpr int kOperands = kInputs<op> + 1;
  Strided<kOperands> strided_operands = {};
  int64_t count = 1;
  for (int dim = 0; dim < operands.dims; ++dim) {
    count *= operands.sizes[dim];
    strided_operands.sizes[dim] = Divisor::of(static_cast<uint32_t>(operands.sizes[dim]));
    for (int k = 0; k < kOperands; ++k) {
      strided_operands.strides[dim][k] = operands.strides[k][dim];
    }
  }
  for (int k = 0; k < kOperands; ++k) {
    strided_operands.data[k] = static_cast<char*>(operands.data[k]);
  }
  strided_operands.dims = operands.dims;
  strided_operands.count = static_cast<uint32_t>(count);
  return enqueue(strided<op, T>, count, 1, stream, strided_operands);
}

template <Op op, class T>
cudaError_t launch_typed(const Operands& operands, cudaStream_t stream) {
  bool dense = operands.dims == 1, aligned = true;
  for (int k = 0; k < kInputs<op> + 1; ++k) {
    dense = dense && operands.strides[k][0] == sizeof(T);
    aligned = aligned && reinterpret_cast<uintptr_t>(operands.data[k]) % 16 == 0;
  }
  if (!dense) return launch_strided<op, T>(operands, stream);
  if (!aligned) return launch_dense<op, T, 1>(operands, stream);
  return launch_dense<op, T, 16 / sizeof(T)>(operands, stream);
}

template <Op op>
cudaError_t launch_op(DType dtype, const Operands& operands, cudaStream_t stream) {
  switch (dtype) {
    case DType::kFloat:
      return launch_typed<op, float>(operands, stream);
    case DType::kDouble:
      return launch_typed<op, double>(operands, stream);
    case DType::kHalf:
      return launch_typed<op, __half>(operands, stream);
    case DType::kBFloat16:
      return launch_typed<op, __nv_bfloat16>(operands, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int launch(Op op, DType dtype, const Operands& operands, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (op) {
    case Op::kForward:
      return launch_op<Op::kForward>(dtype, operands, cuda_stream);
    case Op::kBackward:
      return launch_op<Op::kBackward>(dtype, operands, cuda_stream);
    case Op::kDoubleBackward:
      return launch_op<Op::kDoubleBackward>(dtype, operands, cuda_stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace mish::cuda

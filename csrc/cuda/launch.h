// The launches, for whichever file includes this and says in find() where the kernels are.
#pragma once

#include <atomic>

#include "cuda/enqueue.h"
#include "cuda/parameters.h"

namespace mish::cuda {

/// Sets `kernel` to dense<op, T, kind, N> or strided<op, T, N> (of kernels.cuh), as the current
/// device has it. Each way to compile the kernels has a definition of its own.
template <Op op, class T, Kind kind, int N, class Kernel>
cudaError_t find(Kernel& kernel);

namespace {

/// Multiprocessors of the current device, asked for once.
cudaError_t multiprocessors(int& count) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  count = device < kDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (count > 0) return cudaSuccess;
  const auto error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess && device < kDevices) {
    known[device].store(count, std::memory_order_relaxed);
  }
  return error;
}

/// The blocks that a kernel needs for `count` elements.
template <Op op, class T, Kind kind, int N>
int64_t blocks(int64_t count) {
  constexpr Tile cut = kTile<op, T, kind, N>;
  constexpr int64_t per_block = static_cast<int64_t>(cut.threads) * cut.packs * N;
  return (count + per_block - 1) / per_block;
}

template <Op op, class T, Kind kind, int N, class... Arguments>
cudaError_t enqueue(int64_t count, cudaStream_t stream, const Arguments&... arguments) {
  void (*kernel)(Arguments...);
  if (const cudaError_t error = find<op, T, kind, N>(kernel); error != cudaSuccess) return error;
  return enqueue(kernel, blocks<op, T, kind, N>(count), kTile<op, T, kind, N>.threads, stream,
                 arguments...);
}

template <Op op, class T, Kind kind, int N>
cudaError_t launch_dense(const Operands& operands, cudaStream_t stream) {
  Dense<op, T> dense_operands;
  dense_operands.out = static_cast<T*>(operands.data[0]);
  for (int k = 0; k < kInputs<op>; ++k) {
    dense_operands.in[k] = static_cast<const T*>(operands.data[k + 1]);
  }
  constexpr Tile cut = kTile<op, T, kind, N>;
  const int64_t count = operands.sizes[0];
  const auto full_blocks = static_cast<unsigned>(count / (cut.threads * cut.packs * N));
  return enqueue<op, T, kind, N>(count, stream, dense_operands, count, full_blocks);
}

template <Op op, class T, int N>
cudaError_t launch_strided(const Operands& operands, cudaStream_t stream) {
  constexpr int kOperands = kInputs<op> + 1;
  Strided<kOperands> strided_operands = {};
  int64_t count = 1;
  for (int dim = 0; dim < operands.dims; ++dim) {
    const int step = dim == 0 ? N : 1;
    const int64_t size = operands.sizes[dim] / step;
    count *= size;
    strided_operands.sizes[dim] = Divisor::of(static_cast<uint32_t>(size));
    for (int k = 0; k < kOperands; ++k) {
      strided_operands.strides[dim][k] = operands.strides[k][dim] * step;
    }
  }
  for (int k = 0; k < kOperands; ++k) {
    strided_operands.data[k] = static_cast<char*>(operands.data[k]);
  }
  strided_operands.dims = operands.dims;
  strided_operands.count = static_cast<uint32_t>(count);
  return enqueue<op, T, Kind::kStrided, N>(count * N, stream, strided_operands);
}

/// Whether all packs of kWide elements in a row lie where one access reaches them.
template <Op op, class T>
bool aligned(const Operands& operands) {
  bool whole = true;
  for (int k = 0; k < kInputs<op> + 1; ++k) {
    whole = whole && reinterpret_cast<uintptr_t>(operands.data[k]) % MISH_PACK_BYTES == 0;
    for (int dim = 1; dim < operands.dims; ++dim) {
      whole = whole && operands.strides[k][dim] % MISH_PACK_BYTES == 0;
    }
  }
  return whole;
}

template <Op op, class T>
cudaError_t launch_typed(const Operands& operands, cudaStream_t stream) {
  constexpr int N = kWide<T>;
  bool rows = true;  // the innermost dimension of each operand is one element after the other
  for (int k = 0; k < kInputs<op> + 1; ++k) rows = rows && operands.strides[k][0] == sizeof(T);
  const bool wide = rows && aligned<op, T>(operands);
  if (operands.dims > 1 || !rows) {
    const bool packs = wide && operands.sizes[0] % N == 0;
    return packs ? launch_strided<op, T, N>(operands, stream)
                 : launch_strided<op, T, 1>(operands, stream);
  }
  if (!wide) return launch_dense<op, T, Kind::kSmall, 1>(operands, stream);
  int count = 0;
  if (const cudaError_t error = multiprocessors(count); error != cudaSuccess) return error;
  return blocks<op, T, Kind::kLarge, N>(operands.sizes[0]) < 2 * count
             ? launch_dense<op, T, Kind::kSmall, N>(operands, stream)
             : launch_dense<op, T, Kind::kLarge, N>(operands, stream);
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

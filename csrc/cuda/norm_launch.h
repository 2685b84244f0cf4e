// The launches of a norm with Mish, for whichever file includes this and says in find_norm() where
// the kernels are.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "cuda/enqueue.h"
#include "cuda/norm_parameters.h"
#include "norm_kernels.h"

namespace mish::cuda {

/// Sets `function` to a kernel of norm_kernels.cuh, as the current device has it. Each way to
/// compile the kernels has a definition of its own. kStatistics and kGradients have N = 1.
template <NormKernel kernel, class T, int N, class Function>
cudaError_t find_norm(Function& function);

namespace {

template <NormKernel kernel, class T, int N, class... Arguments>
cudaError_t enqueue_norm(int64_t blocks, cudaStream_t stream, const Arguments&... arguments) {
  void (*function)(Arguments...);
  const cudaError_t error = find_norm<kernel, T, N>(function);
  return error == cudaSuccess ? enqueue(function, blocks, kNormThreads, stream, arguments...)
                              : error;
}

/// Rows of `length` elements, `step` elements from one to the next, make up a set; the next set is
/// `set_step` elements away.
struct Sets {
  int64_t count, set_step, rows, length, step;
};

/// For lanes that take up to `most` packs each, of N elements, or any number if that is 0.
Cut cut_of(const Sets& sets, int N, int64_t most) {
  const int64_t packs = sets.rows * (sets.length / N);
  // Fewer adjacent lanes would not read whole sectors of memory.
  const int64_t least = std::min<int64_t>(packs, N > 1 ? 8 : 32);
  const int64_t wanted = std::max(least, most ? (packs + most - 1) / most : packs / 4);
  Cut cut = {};
  cut.sets = sets.count;
  cut.set_step = sets.set_step / N;
  cut.packs = packs;
  cut.gap = (sets.step - sets.length) / N;
  cut.row = Division::of(sets.length / N, packs);
  while ((1 << cut.log_lanes) < std::min<int64_t>(wanted, kNormThreads)) ++cut.log_lanes;
  cut.lanes = 1u << cut.log_lanes;
  cut.packs_of_part = most ? cut.lanes * most : packs;
  cut.parts =
      Divisor::of(static_cast<uint32_t>((packs + cut.packs_of_part - 1) / cut.packs_of_part));
  return cut;
}

/// The sets of a NormMish, for each kernel.
struct NormSets {
  const NormShape& shape;

  int64_t channels_of_set() const { return shape.groups ? shape.channels / shape.groups : 1; }
  Sets rows() const {
    return {shape.batch * shape.channels, shape.size, 1, shape.size, shape.size};
  }
  Sets channels() const {
    return {shape.channels, shape.size, shape.batch, shape.size, shape.channels * shape.size};
  }
  /// What is normalised together.
  Sets normalised() const {
    const int64_t length = channels_of_set() * shape.size;
    return shape.groups ? Sets{shape.sets(), length, 1, length, length} : channels();
  }
  /// What has sums of its own.
  Sets summed() const { return shape.groups ? rows() : channels(); }
};

template <NormKernel kernel>
Cut cut_for(const Sets& sets, int N) {
  return cut_of(sets, N, N > 1 ? kNormPacks<kernel, 2> : kNormPacks<kernel, 1>);
}
Cut cut_items(int64_t sets, int64_t items) { return cut_of({sets, 0, 1, items, items}, 1, 0); }

/// p and q of all sets, which the sums follow in the workspace, on a boundary of doubles.
int64_t bytes_of_lines(const NormShape& shape) { return shape.sets() * 2 * sizeof(double); }

/// Whether rows of `length` lie in packs, for all operands.
bool wide(int64_t length, int N, std::initializer_list<const void*> operands) {
  return length % N == 0 && std::all_of(operands.begin(), operands.end(), [](const void* operand) {
           return reinterpret_cast<uintptr_t>(operand) % MISH_PACK_BYTES == 0;
         });
}

template <class T>
struct Launches {
  using V = Number<T>;
  static constexpr int kN = kWide<T>;
  const NormMish& norm;
  const NormShape& shape = norm.shape;
  const NormSets sets = {norm.shape};
  const cudaStream_t stream = static_cast<cudaStream_t>(norm.stream);
  V* const mean = static_cast<V*>(norm.statistics);
  V* const rstd = mean + shape.sets();
  V* const rest = rstd + shape.sets();
  const int64_t rows = shape.batch * shape.channels;
  const Affines<T> affines = {mean,
                              rstd,
                              rest,
                              static_cast<const V*>(norm.weight),
                              static_cast<const V*>(norm.bias),
                              Division::of(shape.channels, rows),
                              Division::of(sets.channels_of_set(), rows),
                              shape.groups > 0};

  template <NormKernel kernel, int N, class... Arguments>
  cudaError_t enqueue_cut(const Sets& of, const Arguments&... arguments) const {
    const Cut cut = cut_for<kernel>(of, N);
    return enqueue_norm<kernel, T, N>(cut.blocks(), stream, arguments..., cut);
  }

  template <int N>
  cudaError_t measure(const T* x, Statistics<T> to) const {
    auto* const parts = static_cast<Distances*>(norm.workspace);
    const Sets of = sets.normalised();
    const cudaError_t error = enqueue_cut<NormKernel::kMoments, N>(of, parts, x);
    if (error != cudaSuccess) return error;
    const Cut cut = cut_for<NormKernel::kMoments>(of, N);
    to.parts = parts;
    to.parts_of_set = cut.parts.divisor;
    to.elements_of_part = cut.packs_of_part * N;
    to.elements = of.rows * of.length;
    return combine(to);
  }
  cudaError_t combine(Statistics<T> to) const {
    to.sets = cut_items(shape.sets(), std::max<int64_t>(to.parts_of_set, 1));
    return enqueue_norm<NormKernel::kStatistics, T, 1>(to.sets.blocks(), stream, to);
  }

  template <int N>
  cudaError_t apply(T* y, const T* x) const {
    return enqueue_cut<NormKernel::kApply, N>(sets.rows(), y, x, affines);
  }

  cudaError_t forward(T* y, const T* x, double eps, V* running_mean, V* running_variance,
                      double momentum) const {
    Statistics<T> to = {};
    to.mean = mean;
    to.rstd = rstd;
    to.rest = rest;
    to.running_mean = running_mean;
    to.running_variance = running_variance;
    to.eps = eps;
    to.momentum = momentum;
    const bool in_packs = wide(sets.normalised().length, kN, {x});
    const cudaError_t error = norm.given ? combine(to)
                              : in_packs ? measure<kN>(x, to)
                                         : measure<1>(x, to);
    if (error != cudaSuccess) return error;
    return wide(shape.size, kN, {x, y}) ? apply<kN>(y, x) : apply<1>(y, x);
  }

  template <int N>
  cudaError_t reduce(const T* dy, const T* x, Sums* parts, Gradients<T> to) const {
    const Sets of = sets.summed();
    const cudaError_t error = enqueue_cut<NormKernel::kReduce, N>(of, parts, dy, x, affines);
    if (error != cudaSuccess) return error;
    const int64_t parts_of_channel = cut_for<NormKernel::kReduce>(of, N).parts.divisor;
    to.parts = parts;
    to.parts_of_channel = Division::of(parts_of_channel, of.count * parts_of_channel);
    to.channels_of_set = sets.channels_of_set();
    to.elements_of_set =
        static_cast<double>(sets.normalised().rows) * static_cast<double>(sets.normalised().length);
    to.sets = cut_items(shape.sets(), to.channels_of_set * parts_of_channel);
    to.channels = cut_items(shape.channels, of.count / shape.channels * parts_of_channel);
    const int64_t of_sets = to.p ? to.sets.blocks() : 0;
    const int64_t of_channels = to.dweight || to.dbias ? to.channels.blocks() : 0;
    return enqueue_norm<NormKernel::kGradients, T, 1>(of_sets + of_channels, stream, to, affines,
                                                      static_cast<unsigned>(of_sets));
  }

  template <int N>
  cudaError_t finish(T* dx, const T* dy, const T* x, const V* p, const V* q) const {
    return enqueue_cut<NormKernel::kFinish, N>(sets.rows(), dx, dy, x, affines, p, q);
  }

  cudaError_t backward(T* dx, V* dweight, V* dbias, const T* dy, const T* x) const {
    Gradients<T> to = {};
    to.dweight = dweight;
    to.dbias = dbias;
    if (dx && !norm.given) {
      to.p = static_cast<V*>(norm.workspace);
      to.q = to.p + shape.sets();
    }
    if (to.p || dweight || dbias) {
      auto* const parts =
          reinterpret_cast<Sums*>(static_cast<char*>(norm.workspace) + bytes_of_lines(shape));
      const cudaError_t error = wide(shape.size, kN, {dy, x}) ? reduce<kN>(dy, x, parts, to)
                                                              : reduce<1>(dy, x, parts, to);
      if (error != cudaSuccess) return error;
    }
    if (!dx) return cudaSuccess;
    return wide(shape.size, kN, {dx, dy, x}) ? finish<kN>(dx, dy, x, to.p, to.q)
                                             : finish<1>(dx, dy, x, to.p, to.q);
  }
};

/// Calls work(T()) for the element type.
template <class Work>
int by_dtype(DType dtype, const Work& work) {
  switch (dtype) {
    case DType::kFloat:
      return work(float());
    case DType::kDouble:
      return work(double());
    case DType::kHalf:
      return work(__half());
    case DType::kBFloat16:
      return work(__nv_bfloat16());
  }
  return cudaErrorInvalidValue;
}

}  // namespace

int64_t NormMish::workspace_size() const {
  const NormSets sets = {shape};
  // Single elements make at least as many parts as packs do.
  const Sets of = sets.normalised(), summed = sets.summed();
  const int64_t moments = cut_for<NormKernel::kMoments>(of, 1).parts.divisor;
  const int64_t sums = cut_for<NormKernel::kReduce>(summed, 1).parts.divisor;
  const int64_t backward = bytes_of_lines(shape) + summed.count * sums * int64_t{sizeof(Sums)};
  return std::max(of.count * moments * int64_t{sizeof(Distances)}, backward);
}

int NormMish::forward(void* y, const void* x, double eps, void* running_mean,
                      void* running_variance, double momentum) const {
  return by_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    return Launches<T>{*this}.forward(static_cast<T*>(y), static_cast<const T*>(x), eps,
                                      static_cast<Number<T>*>(running_mean),
                                      static_cast<Number<T>*>(running_variance), momentum);
  });
}

int NormMish::backward(void* dx, void* dweight, void* dbias, const void* dy, const void* x) const {
  return by_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    return Launches<T>{*this}.backward(static_cast<T*>(dx), static_cast<Number<T>*>(dweight),
                                       static_cast<Number<T>*>(dbias), static_cast<const T*>(dy),
                                       static_cast<const T*>(x));
  });
}

}  // namespace mish::cuda

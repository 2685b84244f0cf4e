// The CUDA kernels of a norm with Mish behind it; the formulas are in norm_kernels.h. Sums are made
// without atomics: threads add up packs, lanes and blocks follow in an order that is fixed.
#pragma once

#include "cuda/kernels.cuh"
#include "cuda/norm_parameters.h"

namespace mish::cuda {

__device__ __forceinline__ int64_t quotient(const Division& by, int64_t n) {
  return by.is_narrow ? quotient(by.narrow, static_cast<uint32_t>(n)) : n / by.by;
}

/// What a thread takes of a Cut: every `lanes`th pack of a part of a set.
struct Share {
  int64_t set, part, first;  // the place of the first one in the set, in packs
  int left;                  // packs of the part from there on
  uint32_t lane, lanes;

  __device__ __forceinline__ Share(const Cut& cut, unsigned block)
      : lane(threadIdx.x & (cut.lanes - 1)), lanes(cut.lanes) {
    const uint32_t index = quotient(cut.parts, block);
    part = block - index * cut.parts.divisor;
    set = static_cast<int64_t>(index) * (kNormThreads >> cut.log_lanes) +
          (threadIdx.x >> cut.log_lanes);
    first = part * cut.packs_of_part + lane;
    const int64_t behind = set < cut.sets ? cut.packs - first : 0;
    left = static_cast<int>(behind < cut.packs_of_part ? behind : cut.packs_of_part);
  }
  /// Whether there is a pack number k, and its place, in packs.
  __device__ __forceinline__ bool exists(int k) const { return k * static_cast<int>(lanes) < left; }
  __device__ __forceinline__ uint64_t place(const Cut& cut, int k) const {
    return set * cut.set_step + first + k * lanes;
  }
  /// The same where rows have gaps.
  __device__ __forceinline__ uint64_t place_in_rows(const Cut& cut, int k) const {
    return place(cut, k) + quotient(cut.row, first + k * lanes) * cut.gap;
  }
};

/// The sum over all lanes of a set, for each of them. All threads of a block must call this.
template <class V>
__device__ __forceinline__ V sum_of_lanes(V value, uint32_t lanes) {
  for (uint32_t apart = lanes < 32 ? lanes / 2 : 16; apart > 0; apart /= 2) {
    value += __shfl_xor_sync(0xffffffff, value, apart);
  }
  if (lanes <= 32) return value;
  __shared__ V of_warp[kNormThreads / 32];
  __syncthreads();  // the last call's sums have been read
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  const uint32_t warps = lanes / 32, begin = threadIdx.x / lanes * warps;
  value = of_warp[begin];
  for (uint32_t warp = 1; warp < warps; ++warp) value += of_warp[begin + warp];
  return value;
}

template <class V, int N>
__device__ __forceinline__ V sum_of_pack(V (&values)[N]) {
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
}

/// In double, for numbers whose sum or squares leave the range of float. Reads the part again.
template <class T, int N>
__device__ Distances wide_distances(const T* x, const Cut& cut, const Share& share, double count) {
  constexpr int packs = kNormPacks<NormKernel::kMoments, N>;
  const auto sum = [&](const auto& of) {
    double result = 0;
#pragma unroll 1
    for (int k = 0; k < packs; ++k) {
      if (!share.exists(k)) break;
      Number<T> element[N];
      unpack(load<N>(x, share.place_in_rows(cut, k)), element);
#pragma unroll
      for (int i = 0; i < N; ++i) result += of(element[i]);
    }
    return sum_of_lanes(result, share.lanes);
  };
  const double mean = sum([](double value) { return value; }) / count;
  const double rest = sum([=](double value) { return value - mean; });
  return {mean, rest, sum([=](double value) { return (value - mean) * (value - mean); })};
}

/// Of each part. Reads it once: the second pass, around the mean, is over registers.
template <class T, int N>
__global__ void __launch_bounds__(kNormThreads)
    moments(Distances* out, const T* x, const __grid_constant__ Cut cut) {
  constexpr int packs = kNormPacks<NormKernel::kMoments, N>;
  using V = Number<T>;
  const Share share(cut, blockIdx.x);
  Pack<T, N> in[packs] = {};
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    if (share.exists(k)) in[k] = load<N>(x, share.place_in_rows(cut, k));
  }
  // Equal elements have no distance from the first of them.
  V one[1] = {};
  if (share.set < cut.sets) {
    Share of_first = share;
    of_first.first -= share.lane;
    unpack(load<1>(x, of_first.place_in_rows(cut, 0) * N), one);
  }
  const V some = one[0];
  V sums[N] = {}, squares[N] = {};
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    V element[N];
    unpack(in[k], element);
    if (!share.exists(k)) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] += element[i] - some;
  }
  const int64_t in_front = share.part * cut.packs_of_part;
  const int64_t here =
      cut.packs - in_front < cut.packs_of_part ? cut.packs - in_front : cut.packs_of_part;
  const V count = static_cast<V>(here * N);
  const V centre = some + sum_of_lanes(sum_of_pack(sums), share.lanes) / count;
#pragma unroll
  for (int i = 0; i < N; ++i) sums[i] = 0;
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    V element[N];
    unpack(in[k], element);
    if (!share.exists(k)) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const V distance = element[i] - centre;
      sums[i] += distance;
      squares[i] = PlanOf<T, 1>::A::fma(distance, distance, squares[i]);
    }
  }
  const V sum = sum_of_lanes(sum_of_pack(sums), share.lanes);
  const V square = sum_of_lanes(sum_of_pack(squares), share.lanes);
  Distances result = {centre, sum, square};
  if constexpr (sizeof(V) < sizeof(double)) {
    const bool in_range = square < 1e37f && (square > 1e-28f || square == 0);
    if (__syncthreads_or(!in_range)) {
      const Distances wide = wide_distances<T, N>(x, cut, share, static_cast<double>(here * N));
      if (!in_range) result = wide;
    }
  }
  if (share.lane == 0 && share.set < cut.sets)
    out[share.set * cut.parts.divisor + share.part] = result;
}

/// Of each set, out of the distances of its parts.
template <class T>
__global__ void __launch_bounds__(kNormThreads)
    statistics(const __grid_constant__ Statistics<T> to) {
  const Share share(to.sets, blockIdx.x);
  const bool exists = share.set < to.sets.sets;
  const int64_t set = exists ? share.set : 0;
  if (to.parts == nullptr) {
    if (!exists || share.lane != 0) return;
    to.mean[set] = to.running_mean[set];
    to.rstd[set] = static_cast<Number<T>>(1 / sqrt(to.running_variance[set] + to.eps));
    to.rest[set] = 0;
    return;
  }
  const Distances* const of_set = to.parts + set * to.parts_of_set;
  const auto count_of = [&](int64_t part) {
    const int64_t left = to.elements - part * to.elements_of_part;
    return static_cast<double>(left < to.elements_of_part ? left : to.elements_of_part);
  };
  const double first = of_set[0].centre;
  double total = 0;
  for (int64_t part = share.lane; part < to.parts_of_set; part += share.lanes) {
    total += of_set[part].sum + count_of(part) * (of_set[part].centre - first);
  }
  const auto n = static_cast<double>(to.elements);
  const double offset = sum_of_lanes(total, share.lanes) / n;
  double squares = 0;
  for (int64_t part = share.lane; part < to.parts_of_set; part += share.lanes) {
    const double from_mean = (of_set[part].centre - first) - offset;
    squares +=
        of_set[part].squares + from_mean * (2 * of_set[part].sum + count_of(part) * from_mean);
  }
  squares = sum_of_lanes(squares, share.lanes);
  if (!exists || share.lane != 0) return;
  const double variance = squares < 0 ? 0 : squares / n;  // NaN stays
  const double mean = first + offset;
  const auto centre = static_cast<Number<T>>(mean);
  to.mean[set] = centre;
  to.rstd[set] = static_cast<Number<T>>(1 / sqrt(variance + to.eps));
  to.rest[set] = static_cast<Number<T>>((first - centre) + offset);
  const auto update = [&](Number<T>* running, double now) {
    if (running) {
      running[set] = static_cast<Number<T>>((1 - to.momentum) * running[set] + to.momentum * now);
    }
  };
  update(to.running_mean, mean);
  update(to.running_variance, variance * (n / (n - 1)));
}

/// z = scale u + shift with u = x - centre.
template <class T>
struct Affine {
  Number<T> centre, scale, shift;
  int64_t set;

  /// Of a row, or of a channel.
  __device__ __forceinline__ Affine(const Affines<T>& from, int64_t row) {
    const int64_t channel = row - quotient(from.channels, row) * from.channels.by;
    set = from.groups ? quotient(from.of_set, row) : channel;
    const Number<T> weight = from.weight ? from.weight[channel] : 1;
    const Number<T> bias = from.bias ? from.bias[channel] : 0;
    centre = from.mean[set];
    scale = weight * from.rstd[set];
    shift = PlanOf<T, 1>::A::fma(-scale, from.rest[set], bias);
  }
};

/// Calls work(u, point of z, dy, result) for the elements of a pack, as many at a time as the
/// arithmetic takes. Returns what it wrote to the results.
template <class T, int N, class Work>
__device__ __forceinline__ Pack<T, N> each(const Affine<T>& affine, const Pack<T, N>& x,
                                           const Pack<T, N>& dy, const Work& work) {
  using A = typename PlanOf<T, N>::A;
  using V = typename A::V;
  Number<T> in[N], gradient[N], result[N];
  unpack(x, in);
  unpack(dy, gradient);
#pragma unroll
  for (int i = 0; i < N; i += A::kWidth) {
    V element, one_dy, one;
    memcpy(&element, &in[i], sizeof(V));
    memcpy(&one_dy, &gradient[i], sizeof(V));
    const V u = element - A::set(affine.centre);
    work(i, u, Point<A>(A::fma(A::set(affine.scale), u, A::set(affine.shift))), one_dy, one);
    memcpy(&result[i], &one, sizeof(V));
  }
  Pack<T, N> out;
  pack(result, out);
  return out;
}

/// y = f(z). A set is a row.
template <class T, int N>
__global__ void __launch_bounds__(kNormThreads)
    apply(T* y, const T* x, const __grid_constant__ Affines<T> affines,
          const __grid_constant__ Cut cut) {
  constexpr int packs = kNormPacks<NormKernel::kApply, N>;
  using A = typename PlanOf<T, N>::A;
  using V = typename A::V;
  const Share share(cut, blockIdx.x);
  if (share.left <= 0) return;
  Pack<T, N> in[packs] = {};
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    if (share.exists(k)) in[k] = load<N>(x, share.place(cut, k));
  }
  const Affine<T> affine(affines, share.set);
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    const Pack<T, N> out =
        each<T, N>(affine, in[k], in[k],
                   [](int, V, const Point<A>& z, V, V& result) { result = value<A>(z); });
    if (share.exists(k)) store(y, share.place(cut, k), out);
  }
}

/// The sums of each part. A set is a row, or a channel of all samples.
template <class T, int N>
__global__ void __launch_bounds__(kNormThreads)
    reduce(Sums* out, const T* dy, const T* x, const __grid_constant__ Affines<T> affines,
           const __grid_constant__ Cut cut) {
  constexpr int packs = kNormPacks<NormKernel::kReduce, N>;
  using A = typename PlanOf<T, N>::A;
  using V = typename A::V;
  const Share share(cut, blockIdx.x);
  // What is missing has dy = 0, and so g = 0.
  Pack<T, N> in[packs] = {}, gradient[packs] = {};
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    if (!share.exists(k)) continue;
    in[k] = load<N>(x, share.place_in_rows(cut, k));
    gradient[k] = load<N>(dy, share.place_in_rows(cut, k));
  }
  const bool exists = share.set < cut.sets;
  const Affine<T> affine(affines, exists ? share.set : 0);
  Number<T> g[N] = {}, gu[N] = {};
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    each<T, N>(affine, in[k], gradient[k], [&](int i, V u, const Point<A>& z, V one_dy, V& one) {
      one = one_dy * slope<A>(z);
      V sum, sum_u;
      memcpy(&sum, &g[i], sizeof(V));
      memcpy(&sum_u, &gu[i], sizeof(V));
      sum = sum + one;
      sum_u = A::fma(one, u, sum_u);
      memcpy(&g[i], &sum, sizeof(V));
      memcpy(&gu[i], &sum_u, sizeof(V));
    });
  }
  const Sums result = {sum_of_lanes(sum_of_pack(g), share.lanes),
                       sum_of_lanes(sum_of_pack(gu), share.lanes)};
  if (share.lane == 0 && exists) out[share.set * cut.parts.divisor + share.part] = result;
}

/// p and q of a set, from the sums of its channels.
template <class T>
__device__ void line(const Gradients<T>& to, const Affines<T>& affines) {
  const Share share(to.sets, blockIdx.x);
  const bool exists = share.set < to.sets.sets;
  const int64_t set = exists ? share.set : 0;
  const double rest = affines.rest[set], r = affines.rstd[set];
  double a = 0, b = 0;
  if (exists) {
    const int64_t begin = set * to.channels_of_set;
    for (int64_t i = share.lane; i < to.sets.packs; i += share.lanes) {
      const int64_t row = begin + quotient(to.parts_of_channel, i);
      const int64_t channel = row - quotient(affines.channels, row) * affines.channels.by;
      const double weight = affines.weight ? affines.weight[channel] : 1;
      const Sums sums = to.parts[begin * to.parts_of_channel.by + i];
      a += weight * sums.g;
      b += weight * (sums.gu - rest * sums.g);
    }
  }
  a = sum_of_lanes(a, share.lanes);
  b = sum_of_lanes(b, share.lanes);
  if (!exists || share.lane != 0) return;
  const double p = -r * r * r * b / to.elements_of_set;
  to.p[set] = static_cast<Number<T>>(p);
  to.q[set] = static_cast<Number<T>>(-r * a / to.elements_of_set - p * rest);
}

/// The gradients of a channel's weight and bias, from its sums in all samples.
template <class T>
__device__ void parameters(const Gradients<T>& to, const Affines<T>& affines, unsigned block) {
  const Share share(to.channels, block);
  const bool exists = share.set < to.channels.sets;
  double dweight = 0, dbias = 0;
  if (exists) {
    for (int64_t i = share.lane; i < to.channels.packs; i += share.lanes) {
      const int64_t sample = quotient(to.parts_of_channel, i);
      const int64_t row = sample * to.channels.sets + share.set;
      const int64_t set = affines.groups ? quotient(affines.of_set, row) : share.set;
      const double rest = affines.rest[set], r = affines.rstd[set];
      const Sums sums =
          to.parts[row * to.parts_of_channel.by + (i - sample * to.parts_of_channel.by)];
      dweight += r * (sums.gu - rest * sums.g);
      dbias += sums.g;
    }
  }
  dweight = sum_of_lanes(dweight, share.lanes);
  dbias = sum_of_lanes(dbias, share.lanes);
  if (!exists || share.lane != 0) return;
  if (to.dweight) to.dweight[share.set] = static_cast<Number<T>>(dweight);
  if (to.dbias) to.dbias[share.set] = static_cast<Number<T>>(dbias);
}

/// The first blocks are for sets, the others for channels.
template <class T>
__global__ void __launch_bounds__(kNormThreads)
    gradients(const __grid_constant__ Gradients<T> to, const __grid_constant__ Affines<T> affines,
              unsigned blocks_of_sets) {
  if (blockIdx.x < blocks_of_sets) {
    line(to, affines);
  } else {
    parameters(to, affines, blockIdx.x - blocks_of_sets);
  }
}

/// dx = scale g + p u + q; without p and q, they are 0. A set is a row.
template <class T, int N>
__global__ void __launch_bounds__(kNormThreads)
    finish(T* dx, const T* dy, const T* x, const __grid_constant__ Affines<T> affines,
           const Number<T>* p, const Number<T>* q, const __grid_constant__ Cut cut) {
  constexpr int packs = kNormPacks<NormKernel::kFinish, N>;
  using A = typename PlanOf<T, N>::A;
  using V = typename A::V;
  const Share share(cut, blockIdx.x);
  if (share.left <= 0) return;
  Pack<T, N> in[packs] = {}, gradient[packs] = {};
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    if (!share.exists(k)) continue;
    in[k] = load<N>(x, share.place(cut, k));
    gradient[k] = load<N>(dy, share.place(cut, k));
  }
  const Affine<T> affine(affines, share.set);
  const V scale = A::set(affine.scale);
  const V of_u = A::set(p ? p[affine.set] : 0), rest = A::set(q ? q[affine.set] : 0);
#pragma unroll
  for (int k = 0; k < packs; ++k) {
    const Pack<T, N> out = each<T, N>(
        affine, in[k], gradient[k], [&](int, V u, const Point<A>& z, V one_dy, V& result) {
          result = A::fma(scale, one_dy * slope<A>(z), A::fma(of_u, u, rest));
        });
    if (share.exists(k)) store(dx, share.place(cut, k), out);
  }
}

}  // namespace mish::cuda

// What the kernels are launched with. Knows nothing of CUDA: a compiler for the host reads it too.
#pragma once

#include <cstdint>

#include "cuda/tuning.h"
#include "mish_kernels.h"

namespace mish::cuda {

/// The kernels, for packs of N elements: one for dense operands in tiles of either size, one for
/// any strides.
enum class Kind { kLarge, kSmall, kStrided };

/// Elements that a wide access moves.
template <class T>
inline constexpr int kWide = MISH_PACK_BYTES / sizeof(T);

template <Op op, class T, Kind kind, int N>
constexpr Tile tile() {
  if (kind == Kind::kStrided)
    return {kStridedThreads, N == 1 ? kStridedElements : kStridedPacks, 0};
  Tile result = kind == Kind::kLarge ? kLargeTiles[kInputs<op> - 1] : kSmallTile;
  result.packs *= kWide<T> / N;
  return result;
}

/// How a kernel for packs of N elements cuts its operands.
template <Op op, class T, Kind kind, int N>
inline constexpr Tile kTile = tile<op, T, kind, N>();

/// Pointers to dense operands; `in` may alias `out` element for element.
template <Op op, class T>
struct Dense {
  T* out;
  const T* in[kInputs<op>];
};

/// What divides 31-bit numbers by an invariant d, see quotient() in kernels.cuh:
/// m = floor(2^32 (2^shift - d) / d) + 1 (Granlund and Montgomery, PLDI 1994, figure 4.1).
struct Divisor {
  uint32_t divisor, magic, shift;

  static Divisor of(uint32_t d) {
    uint32_t shift = 0;
    while ((uint64_t{1} << shift) < d) ++shift;
    const uint64_t magic = ((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1;
    return {d, static_cast<uint32_t>(magic), shift};
  }
};

/// Any strides, fewer than 2^31 packs. An innermost size and stride are those of packs.
template <int kOperands>
struct Strided {
  char* data[kOperands];
  int dims;
  uint32_t count;
  Divisor sizes[kMaxDims];
  int64_t strides[kMaxDims][kOperands];
};

}  // namespace mish::cuda

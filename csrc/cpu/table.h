// The table of loops that the file of each instruction set defines for the dispatcher.
#pragma once

#include <array>
#include <cstdint>

#include "mish_kernels.h"
#include "norm_kernels.h"

// Wide vectors need a compiler that can change its target within a file: GCC or Clang.
#if defined(__x86_64__) && defined(__GNUC__)
#define MISH_X86_TARGETS 1
#else
#define MISH_X86_TARGETS 0
#endif

namespace mish::cpu {

/// 16-bit formats as bits: the kernels bring their own conversions.
enum class half_bits : uint16_t {};
enum class bfloat16_bits : uint16_t {};

/// [Op][DType]
using Table = std::array<std::array<Loop, 4>, 3>;

/// [DType]
using NormTable = std::array<NormKernels, 4>;

extern const Table baseline_table;
extern const NormTable baseline_norm_table;
#if MISH_X86_TARGETS
extern const Table avx2_table;
extern const NormTable avx2_norm_table;
extern const Table avx512_table;
extern const NormTable avx512_norm_table;
#endif

}  // namespace mish::cpu

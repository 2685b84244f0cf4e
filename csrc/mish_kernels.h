// The interface between the kernels and the code that holds the tensors: raw pointers, sizes in
// elements, strides in bytes, no torch types.
#pragma once

#include <cstdint>

namespace mish {

/// Element types. Half types are computed in float and rounded once, to nearest even.
enum class DType { kFloat, kDouble, kHalf, kBFloat16 };

/// The function that a kernel writes to operand 0, from operands 1, 2, 3. All have one dtype and
/// one shape. Operand 0 may be an input, element for element, but may not overlap one otherwise.
enum class Op {
  kForward,         // out = f(x)               operands: out, x
  kBackward,        // out = g f'(x)            operands: out, g, x
  kDoubleBackward,  // out = h g f''(x)         operands: out, h, g, x
};

template <Op op>
inline constexpr int kInputs = static_cast<int>(op) + 1;

namespace cpu {

/// Instruction sets that the kernels are compiled for. kBaseline is the compiler's default target.
enum class Isa { kBaseline, kAvx2, kAvx512 };

/// Works on a size0 x size1 block. `data` holds one pointer an operand; `strides` their steps in
/// bytes along size0, then along size1 (the layout of TensorIterator's two-dimensional loops).
/// Pointers need the alignment of one element only. An element's result does not depend on its
/// place, on the strides or on the block.
using Loop = void (*)(char* const* data, const int64_t* strides, int64_t size0, int64_t size1);

/// Whether this build has `isa` and this processor can run it.
bool supported(Isa isa);

/// The widest supported instruction set.
Isa best_isa();

/// "AVX-512", "AVX2" or "baseline".
const char* name(Isa isa);

/// The loop for an operation; `isa` must be supported.
Loop loop(Op op, DType dtype, Isa isa);

}  // namespace cpu

namespace cuda {

inline constexpr int kMaxDims = 16;

/// The operands of a kernel: pointers, and common sizes with strides in bytes for each operand,
/// innermost dimension first. No size is 0. Pointers need the alignment of one element
/// only; dense operands (one dimension, stride of one element) on 16-byte boundaries run fastest.
struct Operands {
  void* data[4];
  int dims;
  int64_t sizes[kMaxDims];
  int64_t strides[4][kMaxDims];
};

/// Queues the kernel on `stream` (a cudaStream_t) of the current device and returns the launch's
/// cudaError_t, 0 for success. Never synchronises. Dense operands may have any size; others at
/// most 2^31 - 1 elements, and byte offsets of as much.
int launch(Op op, DType dtype, const Operands& operands, void* stream);

}  // namespace cuda
}  // namespace mish

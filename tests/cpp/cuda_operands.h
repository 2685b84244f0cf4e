// What test_cuda_kernels.cpp launches: an op in a format, and operands of three layouts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "mish_kernels.h"
#include "reference.h"

namespace mish::test {

using cuda::Operands;

struct Case {
  Op op;
  Format format;

  int inputs() const { return static_cast<int>(op) + 1; }
  std::string name() const {
    const char* ops[] = {"forward", "backward", "double backward"};
    return std::string(ops[static_cast<int>(op)]) + " " + format.name;
  }
};

/// Operands of one dimension, each element after the other.
inline Operands dense(const Case& c, int64_t count) {
  Operands operands = {};
  operands.dims = 1;
  operands.sizes[0] = count;
  for (auto& strides : operands.strides) strides[0] = c.format.size;
  return operands;
}

/// Where element i of operand k lies, in bytes from its first.
inline int64_t place(const Operands& operands, int k, int64_t i) {
  int64_t bytes = 0;
  for (int dim = 0; dim < operands.dims; ++dim) {
    bytes += i % operands.sizes[dim] * operands.strides[k][dim];
    i /= operands.sizes[dim];
  }
  return bytes;
}

/// Operands of any shape, without memory: the last dimension of the inputs is the innermost. The
/// output has `gap` - 1 elements between each two; the last input is broadcast along the first
/// dimension.
inline Operands strided(const Case& c, const std::vector<int64_t>& shape, int64_t gap) {
  Operands operands = {};
  operands.dims = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), operands.sizes);
  int64_t up = gap, down = 1;
  for (const int64_t size : shape) down *= size;
  for (int dim = 0; dim < operands.dims; ++dim) {
    operands.strides[0][dim] = up * c.format.size;
    up *= shape[dim];
    down /= shape[dim];
    for (int k = 1; k <= c.inputs(); ++k) {
      const bool broadcast = k == c.inputs() && dim == 0;
      operands.strides[k][dim] = broadcast ? 0 : down * c.format.size;
    }
  }
  return operands;
}

/// Rows of `size` elements, `gap` elements apart, and `outer` times as many of them.
inline Operands rows(const Case& c, int64_t size, int64_t count, int64_t gap, int64_t outer) {
  Operands operands = {};
  operands.dims = 3;
  const int64_t pitch = size + gap, sizes[] = {size, count, outer};
  std::copy(std::begin(sizes), std::end(sizes), operands.sizes);
  for (int k = 0; k <= c.inputs(); ++k) {
    const int64_t strides[] = {1, pitch, k == 1 ? 0 : (count + 1) * pitch};
    for (int dim = 0; dim < 3; ++dim) operands.strides[k][dim] = strides[dim] * c.format.size;
  }
  return operands;
}

}  // namespace mish::test

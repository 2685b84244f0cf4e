// The CUDA kernels behind a C interface, for `python -m benchmarks variants` to load.
#include "cuda/mish_kernels.cu"

/// An op on `count` elements that lie one after the other; returns a cudaError_t.
extern "C" int run(int op, int dtype, void* const* data, int64_t count, int64_t element_size,
                   void* stream) {
  mish::cuda::Operands operands = {};
  operands.dims = 1;
  operands.sizes[0] = count;
  for (int k = 0; k < op + 2; ++k) {
    operands.data[k] = data[k];
    operands.strides[k][0] = element_size;
  }
  return mish::cuda::launch(mish::Op{op}, mish::DType{dtype}, operands, stream);
}

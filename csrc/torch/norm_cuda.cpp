// The CUDA kernels of norms with Mish, on tensors.
#ifdef MISH_WITH_CUDA
#include "torch/norm_cuda.h"

#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

namespace mish {
namespace {

/// In the dtype that the kernels take: float32, for float64 that.
at::Tensor as_numbers(const at::Tensor& tensor, const at::Tensor& input) {
  return tensor.defined() ? tensor.to(at::toOpMathType(input.scalar_type())) : tensor;
}
at::Tensor empty_numbers(at::IntArrayRef sizes, const at::Tensor& input) {
  return at::empty(sizes, input.options().dtype(at::toOpMathType(input.scalar_type())));
}
void* memory(const at::Tensor& tensor) { return tensor.defined() ? tensor.data_ptr() : nullptr; }
const void* constant(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

/// Calls work(norm) for the kernels' norm, and raises the error that it returns. What the norm
/// takes from the allocator is given back when the kernels are queued, to be used behind them on
/// the same stream.
template <class Work>
void run(const CudaNorm& of, const Work& work) {
  const c10::cuda::CUDAGuard device_guard(of.input.device());
  const at::Tensor weight = as_numbers(of.weight, of.input), bias = as_numbers(of.bias, of.input);
  cuda::NormMish norm = {of.shape,
                         of.dtype,
                         of.statistics.data_ptr(),
                         of.given,
                         constant(weight),
                         constant(bias),
                         nullptr,
                         c10::cuda::getCurrentCUDAStream().stream()};
  const at::Tensor workspace =
      at::empty({norm.workspace_size()}, of.input.options().dtype(at::kByte));
  norm.workspace = workspace.data_ptr();
  C10_CUDA_CHECK(static_cast<cudaError_t>(work(norm)));
}

}  // namespace

at::Tensor CudaNorm::empty_statistics(const at::Tensor& input, int64_t sets) {
  return empty_numbers({3, sets}, input);
}

at::Tensor CudaNorm::forward(const at::Tensor& running_mean, const at::Tensor& running_var,
                             double momentum, double eps) const {
  const at::Tensor y = at::empty_like(input);
  const at::Tensor mean = as_numbers(running_mean, input), var = as_numbers(running_var, input);
  run(*this, [&](const cuda::NormMish& norm) {
    return norm.forward(y.data_ptr(), input.const_data_ptr(), eps, memory(mean), memory(var),
                        momentum);
  });
  const auto updated = [&](const at::Tensor& running, const at::Tensor& now) {
    if (given || !running.defined()) return;
    if (!now.is_same(running)) running.copy_(now);
  };
  updated(running_mean, mean);
  updated(running_var, var);
  return y;
}

std::array<at::Tensor, 3> CudaNorm::backward(const at::Tensor& dy,
                                             const std::array<bool, 3>& wanted) const {
  const at::Tensor none;
  const at::Tensor dx = wanted[0] ? at::empty_like(input) : none;
  const at::Tensor dweight = wanted[1] ? empty_numbers({shape.channels}, input) : none;
  const at::Tensor dbias = wanted[2] ? empty_numbers({shape.channels}, input) : none;
  run(*this, [&](const cuda::NormMish& norm) {
    return norm.backward(memory(dx), memory(dweight), memory(dbias), dy.const_data_ptr(),
                         input.const_data_ptr());
  });
  return {dx, wanted[1] ? dweight.to(weight.scalar_type()) : none,
          wanted[2] ? dbias.to(bias.scalar_type()) : none};
}

}  // namespace mish
#endif

// Which inputs of a norm and Mish the kernels can take, and for which that pays.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

#include "norm_kernels.h"
#include "torch/norm_cuda.h"

namespace mish {
namespace {

using Keys = c10::DispatchKeySet;
using OptionalTensor = std::optional<at::Tensor>;

/// Whether nothing stands between a call and its kernel but autograd: no transform of torch.func,
/// no tracing, no mode.
bool nothing_intercepts() {
  const Keys usual = Keys({c10::DispatchKey::BackendSelect, c10::DispatchKey::ADInplaceOrView}) |
                     c10::autocast_dispatch_keyset;
  const auto local = c10::impl::tls_local_dispatch_key_set();
  return (local.included_ - local.excluded_ - usual).highestPriorityTypeId() ==
         c10::DispatchKey::Undefined;
}

/// A tensor in the memory of the CPU or of a GPU that there are kernels for, of no subclass or
/// special kind.
bool is_plain(const at::Tensor& tensor) {
  const Keys usual =
      Keys({c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU, c10::DispatchKey::CUDA,
            c10::DispatchKey::AutogradCUDA, c10::DispatchKey::ADInplaceOrView}) |
      c10::autocast_dispatch_keyset;
  return (tensor.is_cpu() || (kHasCudaKernels && tensor.is_cuda())) &&
         tensor.layout() == at::kStrided &&
         (tensor.key_set() - usual).highestPriorityTypeId() == c10::DispatchKey::Undefined &&
         !autograd::isFwGradDefined(tensor);
}

bool is_narrow(at::ScalarType dtype) { return dtype == at::kHalf || dtype == at::kBFloat16; }

/// One number for each channel, in the dtype of the input or, for one of 16 bits, float32.
bool fits(const at::Tensor& tensor, const at::Tensor& input) {
  return is_plain(tensor) && tensor.device() == input.device() && tensor.dim() == 1 &&
         tensor.size(0) == input.size(1) && tensor.is_contiguous() &&
         (tensor.scalar_type() == input.scalar_type() ||
          (is_narrow(input.scalar_type()) && tensor.scalar_type() == at::kFloat));
}
bool fits(const OptionalTensor& tensor, const at::Tensor& input) {
  return !tensor || !tensor->defined() || fits(*tensor, input);
}

/// Whether the kernels can take it. On the CPU, the plain loops of the baseline are slower than
/// torch's norms.
bool has_kernels(const at::Tensor& input) {
  const at::ScalarType dtype = input.scalar_type();
  return (input.is_cuda() || cpu::best_isa() != cpu::Isa::kBaseline) && is_plain(input) &&
         nothing_intercepts() &&
         (dtype == at::kFloat || dtype == at::kDouble || is_narrow(dtype)) && input.dim() >= 2 &&
         input.numel() > 0 && input.is_contiguous();
}

int64_t row_length(const at::Tensor& input) {
  return input.numel() / (input.size(0) * input.size(1));
}

// Whether the kernels are faster than torch's norm and mish. Short rows leave vectors, or threads
// of a GPU, idle, and on the CPU a channel or group takes as long as some more elements would.
// Found by timing small shapes on an EPYC of the fifth generation.

bool batch_norm_pays(const at::Tensor& input, bool training) {
  const int64_t length = row_length(input);
  if (input.is_cuda()) return length >= 4;
  if (is_narrow(input.scalar_type())) return length >= (training ? 24 : 48);
  return training ? length >= 4 && length * input.size(0) >= 48 : length >= 16;
}
bool group_norm_pays(const at::Tensor& input, int64_t groups) {
  const int64_t length = row_length(input);
  return input.is_cuda() ? length >= 16 : input.size(1) / groups * length >= 32;
}

}  // namespace
}  // namespace mish

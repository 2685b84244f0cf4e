// The ops, as typed handles into torch's dispatcher: ops::mish().call(x) is what torch.ops calls,
// so autograd, torch.func, profilers and modes see it; redispatch(keys, x) continues below a key.
// The comments at the schemas in ops.cpp say what each op computes and which errors it raises.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/TypeProperties.h>

#include "mish_kernels.h"

namespace mish {

/// The kernels' name of a dtype; raises for one that they do not have.
DType dtype_of(at::ScalarType dtype);

/// Raises unless `other`, called `name` in the message, is real and has the device and shape of
/// `self`.
void check_like(const char* name, const at::Tensor& other, const at::Tensor& self);

/// The dtype to which torch's own elementwise ops promote these tensors.
template <class... Others>
at::ScalarType common_dtype(const at::Tensor& first, const Others&... others) {
  if (((others.scalar_type() == first.scalar_type()) && ...)) return first.scalar_type();
  at::native::ResultTypeState state = at::native::update_result_type_state(first, {});
  ((state = at::native::update_result_type_state(others, state)), ...);
  return at::native::result_type(state);
}

namespace ops {

template <class Signature>
using Handle = const c10::TypedOperatorHandle<Signature>&;
using at::Tensor;

Handle<Tensor(const Tensor& self)> mish();
Handle<Tensor&(Tensor& self)> mish_();
Handle<Tensor&(const Tensor& self, Tensor& out)> mish_out();
Handle<Tensor(const Tensor& grad_output, const Tensor& self)> mish_backward();
Handle<Tensor(const Tensor& grad_grad_input, const Tensor& grad_output, const Tensor& self)>
mish_double_backward();

// norm.cpp
using Optional = std::optional<Tensor>;
Handle<Tensor(const Tensor& input, const Optional& running_mean, const Optional& running_var,
              const Optional& weight, const Optional& bias, bool training, double momentum,
              double eps)>
batch_norm_mish();
Handle<Tensor(const Tensor& input, int64_t num_groups, const Optional& weight, const Optional& bias,
              double eps)>
group_norm_mish();

}  // namespace ops

/// Whether the ops batch_norm_mish and group_norm_mish compute norm and Mish at once for such
/// inputs, or call torch's norm and mish.
bool batch_norm_is_fused(const at::Tensor& input, const ops::Optional& running_mean,
                         const ops::Optional& running_var, const ops::Optional& weight,
                         const ops::Optional& bias, bool training);
bool group_norm_is_fused(const at::Tensor& input, int64_t num_groups, const ops::Optional& weight,
                         const ops::Optional& bias);

/// number.add_(1), for which torch's op takes 20 µs when its code is in no cache.
void count(at::Tensor number);

}  // namespace mish

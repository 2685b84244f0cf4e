// The ops, as typed handles into torch's dispatcher: ops::mish().call(x) is what torch.ops calls,
// so autograd, torch.func, profilers and modes see it; redispatch(keys, x) goes on below a key.
// What each op computes and refuses stands at its schema in ops.cpp.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

namespace mish {

/// Raises unless `other`, called `name` in the message, has the dtype, device and shape of `self`.
void check_like(const char* name, const at::Tensor& other, const at::Tensor& self);

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

}  // namespace ops
}  // namespace mish

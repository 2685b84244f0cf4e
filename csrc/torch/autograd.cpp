// The derivative graph, written as PyTorch's own generated code writes it: kernels for the Autograd
// key that record a node, set the forward-mode tangent, and redispatch below autograd. That is why
// torch.func, forward-mode AD and gradients of gradients need no code of their own. (A C++
// torch::autograd::Function would refuse torch.func and forward mode.)
//
//   of mish            gradient   mish_backward(g, x)
//                      tangent    mish_backward(dx, x)
//   of mish_backward   gradients  mish_backward(h, x) for g, mish_double_backward(h, g, x) for x
//                      tangent    mish_backward(dg, x) + mish_double_backward(dx, g, x)
//   of mish_double_backward       in torch calls, so that any order follows
#include "torch/autograd.h"

#include <ATen/ATen.h>
#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/OpMathType.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include "torch/node.h"
#include "torch/ops.h"

namespace mish {
namespace {

namespace autograd = torch::autograd;

struct MishBackward final : InputsNode<MishBackward, 1> {
  static constexpr const char* kName = "MishCudaBackward";

  static autograd::variable_list gradients(const at::Tensor& g, const Tensors& inputs,
                                           const Wanted&) {
    return {ops::mish_backward().call(g, inputs[0])};
  }
};

struct MishBackwardBackward final : InputsNode<MishBackwardBackward, 2> {
  static constexpr const char* kName = "MishCudaBackwardBackward";

  static autograd::variable_list gradients(const at::Tensor& h, const Tensors& inputs,
                                           const Wanted& wanted) {
    const auto& [grad_output, self] = inputs;
    autograd::variable_list result(2);
    if (wanted[0]) result[0] = ops::mish_backward().call(h, self);
    if (wanted[1]) result[1] = ops::mish_double_backward().call(h, grad_output, self);
    return result;
  }
};

/// f''(x) in torch calls, differentiable any number of times. The formula is that of mish_math.h: a
/// change there needs the same change here. Each factor stays finite: e/D, 1/D and (e+1)/D are at
/// most 1, and so is cubic/D^2 / 2.
at::Tensor differentiable_curvature(const at::Tensor& x) {
  const bool wide = x.scalar_type() == at::kDouble;
  const double lowest = wide ? -746 : -104, saturation = wide ? 22 : 20;  // as in eager.py
  // Not clamp, whose derivative is 0 at NaN.
  const at::Tensor inside = at::where(x < lowest, lowest, at::where(x > saturation, saturation, x));
  const at::Tensor e = inside.exp();
  const at::Tensor r = (e * (e + 2) + 2).reciprocal();
  const at::Tensor er = 4 * e * r;
  const at::Tensor cubic = ((-2 * e - 3) * e + 2) * e + 2;
  const at::Tensor result = er * (2 * ((e + 1) * r) + inside * (cubic * r * r));
  return at::where(x > saturation, 0, result);
}

bool has_tangent(const at::Tensor& tensor) { return autograd::isFwGradDefined(tensor); }

at::Tensor tangent(const at::Tensor& tensor) { return tensor._fw_grad(/*level=*/0); }

at::Tensor primal(const at::Tensor& tensor) {
  return has_tangent(tensor) ? tensor._fw_primal(/*level=*/0) : tensor;
}

at::Tensor mish_autograd(c10::DispatchKeySet keys, const at::Tensor& self) {
  decltype(make_node<MishBackward>()) node;
  if (autograd::compute_requires_grad(self)) {
    node = make_node<MishBackward>();
    node->set_next_edges(autograd::collect_next_edges(self));
    node->saved[0] = autograd::SavedVariable(self, /*is_output=*/false);
  }
  at::Tensor result;
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    result = ops::mish().redispatch(keys & c10::after_autograd_keyset, self);
  }
  if (node) autograd::set_history(result, node);
  if (has_tangent(self)) {
    result._set_fw_grad(ops::mish_backward().call(tangent(self), primal(self)), /*level=*/0,
                        /*is_inplace_op=*/false);
  }
  return result;
}

at::Tensor& mish_inplace_autograd(c10::DispatchKeySet keys, at::Tensor& self) {
  const bool needs_grad = autograd::compute_requires_grad(self);
  autograd::check_inplace(self, needs_grad);
  // The op overwrites the input and its tangent, so derivatives need a copy.
  at::Tensor input;
  if (needs_grad || has_tangent(self)) input = self.clone();
  decltype(make_node<MishBackward>()) node;
  if (needs_grad) {
    node = make_node<MishBackward>();
    node->set_next_edges(autograd::collect_next_edges(self));
    node->saved[0] = autograd::SavedVariable(input, /*is_output=*/false);
  }
  {
    at::AutoDispatchBelowAutograd guard;
    ops::mish_().redispatch(keys & c10::after_autograd_keyset, self);
  }
  if (node) autograd::rebase_history(self, NodePointer(node));
  // The tangent is overwritten, not replaced, so that views of it change too. A zero tensor without
  // memory stays zero.
  if (has_tangent(self) && !tangent(self)._is_zerotensor()) {
    const at::Tensor result_tangent =
        tangent(self).copy_(ops::mish_backward().call(tangent(input), primal(input)));
    self._set_fw_grad(result_tangent, /*level=*/0, /*is_inplace_op=*/true);
  }
  return self;
}

at::Tensor& mish_out_autograd(c10::DispatchKeySet keys, const at::Tensor& self, at::Tensor& out) {
  if (autograd::compute_requires_grad(self, out)) autograd::throw_error_out_requires_grad("mish");
  TORCH_CHECK(!has_tangent(self) && !has_tangent(out),
              "mish(): functions with out=... arguments don't support automatic differentiation, "
              "but one of the arguments has a forward gradient.");
  at::AutoDispatchBelowAutograd guard;
  return ops::mish_out().redispatch(keys & c10::after_autograd_keyset, self, out);
}

at::Tensor mish_backward_autograd(c10::DispatchKeySet keys, const at::Tensor& grad_output,
                                  const at::Tensor& self) {
  decltype(make_node<MishBackwardBackward>()) node;
  if (autograd::compute_requires_grad(grad_output, self)) {
    node = make_node<MishBackwardBackward>();
    node->set_next_edges(autograd::collect_next_edges(grad_output, self));
    node->saved[0] = autograd::SavedVariable(grad_output, /*is_output=*/false);
    node->saved[1] = autograd::SavedVariable(self, /*is_output=*/false);
  }
  at::Tensor result;
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    result = ops::mish_backward().redispatch(keys & c10::after_autograd_keyset, grad_output, self);
  }
  if (node) autograd::set_history(result, node);
  at::Tensor result_tangent;
  if (has_tangent(grad_output))
    result_tangent = ops::mish_backward().call(tangent(grad_output), primal(self));
  if (has_tangent(self)) {
    const auto term =
        ops::mish_double_backward().call(tangent(self), primal(grad_output), primal(self));
    result_tangent = result_tangent.defined() ? result_tangent + term : term;
  }
  if (result_tangent.defined()) {
    result._set_fw_grad(result_tangent, /*level=*/0, /*is_inplace_op=*/false);
  }
  return result;
}

at::Tensor mish_double_backward_autograd(c10::DispatchKeySet keys,
                                         const at::Tensor& grad_grad_input,
                                         const at::Tensor& grad_output, const at::Tensor& self) {
  check_like("grad_grad_input", grad_grad_input, self);
  check_like("grad_output", grad_output, self);
  // Torch calls also for jagged tensors, which have rules for torch's ops and for pointwise ops of
  // up to two operands, but not for this one of three.
  if (autograd::compute_requires_grad(grad_grad_input, grad_output, self) ||
      has_tangent(grad_grad_input) || has_tangent(grad_output) || has_tangent(self) ||
      self.is_nested()) {
    const at::ScalarType dtype = common_dtype(grad_grad_input, grad_output, self);
    const at::ScalarType wide = at::toOpMathType(dtype);
    const at::Tensor product = grad_grad_input.to(wide) * grad_output.to(wide);
    return (product * differentiable_curvature(self.to(wide))).to(dtype);
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return ops::mish_double_backward().redispatch(keys & c10::after_autograd_keyset, grad_grad_input,
                                                grad_output, self);
}

TORCH_LIBRARY_IMPL(mish_cuda, Autograd, library) {
  library.impl("mish", mish_autograd);
  library.impl("mish_", mish_inplace_autograd);
  library.impl("mish.out", mish_out_autograd);
  library.impl("mish_backward", mish_backward_autograd);
  library.impl("mish_double_backward", mish_double_backward_autograd);
}

// Writing to a tensor increments its version, by which saved tensors detect the write, and views
// that their base has a new history. (Torch's fallback increments that of a copy under torch.func.)
at::Tensor& mish_inplace_version(c10::DispatchKeySet keys, at::Tensor& self) {
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    ops::mish_().redispatch(keys & c10::after_ADInplaceOrView_keyset, self);
  }
  autograd::increment_version(self);
  return self;
}

at::Tensor& mish_out_version(c10::DispatchKeySet keys, const at::Tensor& self, at::Tensor& out) {
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    ops::mish_out().redispatch(keys & c10::after_ADInplaceOrView_keyset, self, out);
  }
  autograd::increment_version(out);
  return out;
}

TORCH_LIBRARY_IMPL(mish_cuda, ADInplaceOrView, library) {
  library.impl("mish_", mish_inplace_version);
  library.impl("mish.out", mish_out_version);
}

// torch.compile replaces writes to memory by new values; these functions define them.
at::Tensor& mish_inplace_functional(at::Tensor& self) {
  namespace functional = at::functionalization::impl;
  const at::Tensor result = ops::mish().call(self);
  const at::Tensor inner = functional::from_functional_tensor(self, /*assert_functional=*/false);
  const bool differentiated = inner.requires_grad() || has_tangent(inner);
  // After copy_, compilers do not save the memory that the caller overwrites. But it becomes an op
  // without a derivative, so where one is taken the value is replaced, as by torch's own ops.
  if (!differentiated || !functional::isFunctionalTensor(self)) return self.copy_(result);
  functional::replace_(self, functional::from_functional_tensor(result));
  functional::commit_update(self);
  functional::sync(self);
  return self;
}
at::Tensor& mish_out_functional(const at::Tensor& self, at::Tensor& out) {
  return out.copy_(ops::mish().call(self));
}

TORCH_LIBRARY_IMPL(mish_cuda, Functionalize, library) {
  library.impl("mish_", mish_inplace_functional);
  library.impl("mish.out", mish_out_functional);
}

}  // namespace

NodeType mish_node() { return {MishBackward::kName, typeid(MishBackward)}; }
NodeType mish_backward_node() {
  return {MishBackwardBackward::kName, typeid(MishBackwardBackward)};
}

}  // namespace mish

// The derivative graph, written as PyTorch's own generated code writes it: kernels for the Autograd
// key that record a node, set the forward-mode tangent, and redispatch below autograd. That is why
// torch.func, forward-mode AD and gradients of gradients work without a case of their own. (A C++
// torch::autograd::Function would refuse torch.func and forward mode.)
//
//   of mish            gradient   mish_backward(g, x)
//                      tangent    mish_backward(dx, x)
//   of mish_backward   gradients  mish_backward(h, x) for g, mish_double_backward(h, g, x) for x
//                      tangent    mish_backward(dg, x) + mish_double_backward(dx, g, x)
//   of mish_double_backward       by torch maths, so that any order follows
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/library.h>

#include <array>
#include <mutex>

#include "torch/ops.h"

namespace mish {
namespace {

namespace autograd = torch::autograd;

/// How this torch holds nodes: std::shared_ptr up to 2.11, c10::intrusive_ptr in 2.13.
using NodePointer = decltype(autograd::Edge::function);

template <class Node>
auto make_node() {
  if constexpr (std::is_same_v<NodePointer, std::shared_ptr<autograd::Node>>) {
    return std::shared_ptr<Node>(new Node(), [](Node* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<Node>();
  }
}

/// A node that saves its kInputs inputs. `Formula::gradients(g, inputs, wanted)` gives the
/// gradients that are wanted, with undefined tensors for the others.
template <class Formula, int kInputs>
struct SavingNode final : autograd::Node {
  using Tensors = std::array<at::Tensor, kInputs>;
  using Wanted = std::array<bool, kInputs>;

  autograd::SavedVariable saved[kInputs];

  std::string name() const override { return Formula::kName; }

  autograd::variable_list apply(autograd::variable_list&& grads) override {
    // Threads may share a graph: one may release what another is about to unpack.
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!grads[0].defined()) return autograd::variable_list(kInputs);
    return Formula::gradients(grads[0], unpack(), wanted());
  }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& variable : saved) variable.reset_data();
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    for (const auto& variable : saved) args.collect(variable, false);
    for (int i = 0; i < kInputs; ++i) args.collect(task_should_compute_output(i));
  }
  /// Compiled autograd calls this with placeholders that have no shape: it is to be given a
  /// function of gradients and arguments, which it traces later.
  autograd::variable_list apply_with_saved(
      const autograd::variable_list& grads,
      torch::dynamo::autograd::SwapSavedVariables& swap) override {
    for (auto& variable : saved) swap.before(variable);
    const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
    static std::once_flag bound;
    std::call_once(bound, [&] {
      std::vector<at::TypePtr> types(
          kInputs, torch::dynamo::autograd::IValuePacker<at::Tensor>::packed_type());
      types.push_back(torch::dynamo::autograd::IValuePacker<Wanted>::packed_type());
      compiler->bind_function(swap.get_py_compiler(), name(), apply_packed, types);
    });
    torch::dynamo::autograd::PackedArgs arguments;
    for (const at::Tensor& input : unpack()) arguments.pack(input);
    arguments.pack(wanted());
    using Metadata = std::vector<std::optional<autograd::InputMetadata>>;
    auto result = compiler->call_function(
        swap.get_py_compiler(), "apply_functional", name(), grads, arguments.vec(),
        torch::dynamo::autograd::IValuePacker<Metadata>::pack(
            torch::dynamo::autograd::get_input_metadata(next_edges())));
    for (auto& variable : saved) swap.after(variable);
    return result;
  }

 private:
  static autograd::variable_list apply_packed(const autograd::variable_list& grads,
                                              const std::vector<c10::IValue>& arguments) {
    if (!grads[0].defined()) return autograd::variable_list(kInputs);
    torch::dynamo::autograd::PackedArgs packed(arguments);
    Tensors inputs;
    for (at::Tensor& input : inputs) input = packed.unpack<at::Tensor>();
    return Formula::gradients(grads[0], inputs, packed.unpack<Wanted>());
  }
  Tensors unpack() {
    Tensors inputs;
    for (int i = 0; i < kInputs; ++i) inputs[i] = saved[i].unpack();
    return inputs;
  }
  Wanted wanted() const {
    Wanted result;
    for (int i = 0; i < kInputs; ++i) result[i] = task_should_compute_output(i);
    return result;
  }
};

struct OfMish {
  static constexpr const char* kName = "MishCudaBackward";

  static autograd::variable_list gradients(const at::Tensor& g,
                                           const std::array<at::Tensor, 1>& inputs,
                                           const std::array<bool, 1>&) {
    return {ops::mish_backward().call(g, inputs[0])};
  }
};
using MishBackward = SavingNode<OfMish, 1>;

struct OfMishBackward {
  static constexpr const char* kName = "MishCudaBackwardBackward";

  static autograd::variable_list gradients(const at::Tensor& h,
                                           const std::array<at::Tensor, 2>& inputs,
                                           const std::array<bool, 2>& wanted) {
    const auto& [grad_output, self] = inputs;
    autograd::variable_list result(2);
    if (wanted[0]) result[0] = ops::mish_backward().call(h, self);
    if (wanted[1]) result[1] = ops::mish_double_backward().call(h, grad_output, self);
    return result;
  }
};
using MishBackwardBackward = SavingNode<OfMishBackward, 2>;

/// f''(x) in torch maths, differentiable any number of times; the formula of mish_math.h. Each
/// factor stays finite: e/D, 1/D and (e+1)/D are at most 1, and so is cubic/D^2 / 2.
at::Tensor differentiable_curvature(const at::Tensor& x) {
  const bool wide = x.scalar_type() == at::kDouble;
  const double lowest = wide ? -746 : -104, saturation = wide ? 22 : 20;  // as in eager.py
  const at::Tensor inside = x.clamp(lowest, saturation);
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
  // The input is about to be overwritten, with its tangent, so what derivatives need is copied.
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
  if (has_tangent(self)) {  // overwritten too, not replaced: views of it have to follow
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
  if (autograd::compute_requires_grad(grad_grad_input, grad_output, self) ||
      has_tangent(grad_grad_input) || has_tangent(grad_output) || has_tangent(self)) {
    const at::ScalarType wide = at::toOpMathType(self.scalar_type());
    const at::Tensor product = grad_grad_input.to(wide) * grad_output.to(wide);
    return (product * differentiable_curvature(self.to(wide))).to(self.scalar_type());
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

// Counts up the version of what is written to.
TORCH_LIBRARY_IMPL(mish_cuda, ADInplaceOrView, library) {
  library.impl("mish_", autograd::autogradNotImplementedInplaceOrViewFallback());
  library.impl("mish.out", autograd::autogradNotImplementedInplaceOrViewFallback());
}

// torch.compile rewrites writes to memory as new values; what it needs to know is which ones.
at::Tensor& mish_inplace_functional(at::Tensor& self) { return self.copy_(ops::mish().call(self)); }
at::Tensor& mish_out_functional(const at::Tensor& self, at::Tensor& out) {
  return out.copy_(ops::mish().call(self));
}

TORCH_LIBRARY_IMPL(mish_cuda, Functionalize, library) {
  library.impl("mish_", mish_inplace_functional);
  library.impl("mish.out", mish_out_functional);
}

}  // namespace
}  // namespace mish

// Nodes of the derivative graph, in the ways of each torch.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <array>
#include <memory>
#include <mutex>
#include <tuple>

#include "torch/autograd.h"

namespace mish {

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

/// A node called Derived::kName that saves its kInputs inputs, and numbers. `Derived::gradients(g,
/// inputs, wanted, numbers...)` gives the gradients that are wanted, with undefined tensors for the
/// others.
template <class Derived, int kInputs, class... Numbers>
struct InputsNode : SavingNode {
  using Tensors = std::array<at::Tensor, kInputs>;
  using Wanted = std::array<bool, kInputs>;

  autograd::SavedVariable saved[kInputs];
  std::tuple<Numbers...> numbers;

  const autograd::SavedVariable& saved_input(size_t position) const override {
    return saved[position];
  }
  std::string name() const override { return Derived::kName; }

  autograd::variable_list apply(autograd::variable_list&& grads) override {
    // Threads may share a graph: one may release what another is about to unpack.
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!grads[0].defined()) return autograd::variable_list(kInputs);
    return std::apply(
        [&](const Numbers&... number) {
          return Derived::gradients(grads[0], unpack(), wanted(), number...);
        },
        numbers);
  }
  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& variable : saved) variable.reset_data();
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    for (const auto& variable : saved) args.collect(variable, false);
    for (int i = 0; i < kInputs; ++i) args.collect(task_should_compute_output(i));
    std::apply([&](const Numbers&... number) { (args.collect(number), ...); }, numbers);
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
      (types.push_back(torch::dynamo::autograd::IValuePacker<Numbers>::packed_type()), ...);
      compiler->bind_function(swap.get_py_compiler(), name(), apply_packed, types);
    });
    torch::dynamo::autograd::PackedArgs arguments;
    for (const at::Tensor& input : unpack()) arguments.pack(input);
    arguments.pack(wanted());
    std::apply([&](const Numbers&... number) { (arguments.pack(number), ...); }, numbers);
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
    const auto wanted = packed.unpack<Wanted>();
    const std::tuple<Numbers...> numbers{packed.unpack<Numbers>()...};  // in their order
    return std::apply(
        [&](const Numbers&... number) {
          return Derived::gradients(grads[0], inputs, wanted, number...);
        },
        numbers);
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

}  // namespace mish

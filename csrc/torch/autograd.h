// The nodes that autograd.cpp puts into graphs, for module.cpp, which gives them Python classes.
// (autograd.cpp itself also serves programs without Python.)
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <typeinfo>

namespace mish {

/// A node that saves the inputs of its op.
struct SavingNode : torch::autograd::Node {
  virtual const torch::autograd::SavedVariable& saved_input(size_t position) const = 0;
};

struct NodeType {
  const char* name;
  const std::type_info& type;
};
NodeType mish_node();           // saves self
NodeType mish_backward_node();  // saves grad_output, self
NodeType norm_mish_node();      // saves input, weight, bias and the statistics

}  // namespace mish

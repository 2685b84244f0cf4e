// The Python module mish_cuda._C. Importing it registers the ops; its functions are the ops
// themselves, called through the dispatcher without torch.ops' parsing of arguments.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include "mish_kernels.h"
#include "torch/ops.h"

namespace {

using at::Tensor;
using pybind11::arg;

/// For Python: torch's errors and warnings become Python's, and other Python threads may run.
template <class Function>
auto wrap(Function function) {
  return torch::wrap_pybind_function_no_gil(function);
}

Tensor mish_function(const Tensor& input) { return mish::ops::mish().call(input); }
Tensor mish_inplace(Tensor& input) { return mish::ops::mish_().call(input); }
Tensor mish_out(const Tensor& input, Tensor& out) { return mish::ops::mish_out().call(input, out); }

// The old mish-cuda package's functions, with its order of arguments.
Tensor mish_forward(const Tensor& input, std::optional<Tensor> out) {
  return out ? mish::ops::mish_out().call(input, *out) : mish::ops::mish().call(input);
}
Tensor mish_backward(const Tensor& input, const Tensor& grad_out) {
  return mish::ops::mish_backward().call(grad_out, input);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "Mish kernels; importing this registers torch.ops.mish_cuda";
  module.def("mish", wrap(mish_function), arg("input"));
  module.def("mish_", wrap(mish_inplace), arg("input"));
  module.def("mish_out", wrap(mish_out), arg("input"), arg("out"));
  module.def("mish_forward", wrap(mish_forward), arg("input"), arg("out") = pybind11::none());
  module.def("mish_backward", wrap(mish_backward), arg("input"), arg("grad_out"));
  module.def(
      "cpu_isa", [] { return mish::cpu::name(mish::cpu::best_isa()); },
      "The instruction set that the CPU kernels use on this processor.");
}

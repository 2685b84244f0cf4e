// The Python module mish_cuda._C. Importing it registers the ops; its functions are the ops
// themselves, called through the dispatcher without torch.ops' parsing of arguments.
#include <torch/csrc/utils/pybind.h>

#include "mish_kernels.h"
#include "torch/ops.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using at::Tensor;
  using pybind11::arg;
  using release_gil = pybind11::call_guard<pybind11::gil_scoped_release>;
  module.doc() = "Mish kernels; importing this registers torch.ops.mish_cuda";

  module.def(
      "mish", [](const Tensor& input) { return mish::ops::mish().call(input); }, arg("input"),
      release_gil());
  module.def(
      "mish_", [](Tensor& input) { return mish::ops::mish_().call(input); }, arg("input"),
      release_gil());
  module.def(
      "mish_out",
      [](const Tensor& input, Tensor& out) { return mish::ops::mish_out().call(input, out); },
      arg("input"), arg("out"), release_gil());
  // The old mish-cuda package's names, with its order of arguments.
  module.def(
      "mish_forward",
      [](const Tensor& input, std::optional<Tensor> out) {
        return out ? mish::ops::mish_out().call(input, *out) : mish::ops::mish().call(input);
      },
      arg("input"), arg("out") = pybind11::none(), release_gil());
  module.def(
      "mish_backward",
      [](const Tensor& input, const Tensor& grad_out) {
        return mish::ops::mish_backward().call(grad_out, input);
      },
      arg("input"), arg("grad_out"), release_gil());

  module.def(
      "cpu_isa", [] { return mish::cpu::name(mish::cpu::best_isa()); },
      "The instruction set that the CPU kernels use on this processor.");
}

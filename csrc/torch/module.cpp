// The Python module mish_cuda._C. Importing it registers the ops; its functions are the ops
// themselves, called through the dispatcher without torch.ops' parsing of arguments. The nodes of
// the graph get Python classes like those of torch's own nodes.
#include <ATen/core/PythonFallbackKernel.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <atomic>
#include <mutex>

#include "mish_kernels.h"
#include "torch/autograd.h"
#include "torch/ops.h"

extern char mish_cuda_facts[];  // see facts() in build_config.py

namespace {

using at::Tensor;
using pybind11::arg;

constexpr char kInput[] = "input", kOut[] = "out", kGradOutput[] = "grad_output";

/// A tensor that Python passes as the argument kName.
template <const char* kName>
struct Argument {
  Tensor tensor;
};

/// For Python: torch's errors and warnings become Python's, and other Python threads may run.
template <class Function>
auto wrap(Function function) {
  return torch::wrap_pybind_function_no_gil(function);
}

Tensor mish_function(const Argument<kInput>& input) { return mish::ops::mish().call(input.tensor); }
Tensor mish_inplace(Argument<kInput>& input) { return mish::ops::mish_().call(input.tensor); }
Tensor mish_out(const Argument<kInput>& input, Argument<kOut>& out) {
  return mish::ops::mish_out().call(input.tensor, out.tensor);
}

// The functions of the old mish-cuda package. Its mish_backward takes the input first, where the op
// takes it last.
Tensor old_mish_forward(const Argument<kInput>& input, std::optional<Argument<kOut>> out) {
  return out ? mish_out(input, *out) : mish_function(input);
}
Tensor old_mish_backward(const Argument<kInput>& input, const Argument<kGradOutput>& grad_out) {
  return mish::ops::mish_backward().call(grad_out.tensor, input.tensor);
}

using Optional = std::optional<Tensor>;

Tensor batch_norm_mish(const Argument<kInput>& input, const Optional& running_mean,
                       const Optional& running_var, const Optional& weight, const Optional& bias,
                       bool training, double momentum, double eps) {
  return mish::ops::batch_norm_mish().call(input.tensor, running_mean, running_var, weight, bias,
                                           training, momentum, eps);
}
Tensor group_norm_mish(const Argument<kInput>& input, int64_t num_groups, const Optional& weight,
                       const Optional& bias, double eps) {
  return mish::ops::group_norm_mish().call(input.tensor, num_groups, weight, bias, eps);
}

// --- node._saved_NAME and node._raw_saved_NAME: the input that a node saves at some position ---

using namespace torch::autograd;  // as THP_FUNCTION_DEFAULT_PROPERTIES needs it

auto& node_of(PyObject* self) { return reinterpret_cast<THPCppFunction*>(self)->cdata; }

const SavedVariable& saved_input(PyObject* self, size_t position) {
  return static_cast<const mish::SavingNode*>(node_of(self).get())->saved_input(position);
}

template <size_t position>
PyObject* get_saved(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  return THPVariable_Wrap(saved_input(self, position).unpack(node_of(self)));
  END_HANDLE_TH_ERRORS
}

/// A torch._C._autograd.SavedTensor, to register hooks with. It keeps its node alive.
template <size_t position>
PyObject* get_raw_saved(PyObject* self, void*) {
  HANDLE_TH_ERRORS
  const auto policy = pybind11::return_value_policy::reference_internal;
  return pybind11::cast(saved_input(self, position), policy, self).release().ptr();
  END_HANDLE_TH_ERRORS
}

#define SAVED(name, position)                                              \
  {"_saved_" name, get_saved<position>, nullptr, nullptr, nullptr}, {      \
    "_raw_saved_" name, get_raw_saved<position>, nullptr, nullptr, nullptr \
  }
PyGetSetDef mish_properties[] = {THP_FUNCTION_DEFAULT_PROPERTIES, SAVED("self", 0), {nullptr}};
PyGetSetDef mish_backward_properties[] = {
    THP_FUNCTION_DEFAULT_PROPERTIES, SAVED("grad_output", 0), SAVED("self", 1), {nullptr}};
PyGetSetDef norm_mish_properties[] = {THP_FUNCTION_DEFAULT_PROPERTIES,
                                      SAVED("input", 0),
                                      SAVED("weight", 1),
                                      SAVED("bias", 2),
                                      {nullptr}};

/// Nodes without a class of their own are CppFunctions, of which tools see only names and edges.
void register_node(PyTypeObject& type, const mish::NodeType& node, PyGetSetDef* properties) {
  _initFunctionPyTypeObject(type, node.name, properties, nullptr);
  registerCppFunction(node.type, &type);
  // Node recognises torch's own classes by their place in torch._C._functions.
  const auto base = pybind11::module_::import("torch.autograd.graph").attr("Node");
  base.attr("register")(pybind11::handle(reinterpret_cast<PyObject*>(&type)));
}

void register_nodes() {
  static PyTypeObject mish_type, mish_backward_type, norm_mish_type;
  register_node(mish_type, mish::mish_node(), mish_properties);
  register_node(mish_backward_type, mish::mish_backward_node(), mish_backward_properties);
  register_node(norm_mish_type, mish::norm_mish_node(), norm_mish_properties);
}

// --- The rules for DTensor. Importing it takes half a second, and most programs never use it. So
// they are registered when an op first meets a subclass of Tensor after DTensor was imported. ---

void register_sharding_rules() {
  static std::atomic<bool> registered = false;
  if (registered) return;
  const pybind11::gil_scoped_acquire gil;
  const auto modules = pybind11::module_::import("sys").attr("modules");
  if (!modules.contains("torch.distributed.tensor")) return;  // then there is no DTensor yet
  pybind11::module_::import("mish_cuda._sharding").attr("register")();
  registered = true;
}

/// Runs for subclasses that implement __torch_dispatch__: they have this key, which comes before
/// the Python key, for calls from Python, from nodes of the graph and from compilers. Plain tensors
/// do not have the key, so this costs them nothing.
void before_torch_dispatch(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                           torch::jit::Stack* stack) {
  register_sharding_rules();
  // The rest is what torch's own kernel for this key does.
  const at::impl::MaybeSetTLSOnEntryGuard guard;
  const c10::DispatchKeySet after(c10::DispatchKeySet::FULL_AFTER,
                                  c10::DispatchKey::PythonTLSSnapshot);
  op.redispatchBoxed(keys & after, stack);
}

TORCH_LIBRARY_IMPL(mish_cuda, PythonTLSSnapshot, library) {
  for (const char* name : {"mish", "mish_", "mish_backward", "mish_double_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&before_torch_dispatch>());
  }
}

}  // namespace

/// Like torch's own caster of tensors, but anything else raises the error of the eager functions;
/// pybind would list C++ signatures and print the whole argument.
template <const char* kName>
struct pybind11::detail::type_caster<Argument<kName>> {
  PYBIND11_TYPE_CASTER(Argument<kName>, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    if (!THPVariable_Check(source.ptr())) {
      module_::import("mish_cuda.eager").attr("check_tensor")(kName, source);
    }
    value.tensor = THPVariable_Unpack(source.ptr());
    return true;
  }
};

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module, pybind11::mod_gil_not_used()) {
  module.doc() = "Mish kernels; importing this registers torch.ops.mish_cuda";
  module.attr("facts") = pybind11::str(mish_cuda_facts);  // so that no linker leaves them out
  static std::once_flag registered;                       // the module may be imported again
  std::call_once(registered, register_nodes);
  module.def("mish", wrap(mish_function), arg("input"));
  module.def("mish_", wrap(mish_inplace), arg("input"));
  module.def("mish_out", wrap(mish_out), arg("input"), arg("out"));
  module.def("mish_forward", wrap(old_mish_forward), arg("input"), arg("out") = pybind11::none());
  module.def("mish_backward", wrap(old_mish_backward), arg("input"), arg("grad_out"));
  module.def("batch_norm_mish", wrap(batch_norm_mish), arg("input"), arg("running_mean"),
             arg("running_var"), arg("weight"), arg("bias"), arg("training"), arg("momentum"),
             arg("eps"));
  module.def("group_norm_mish", wrap(group_norm_mish), arg("input"), arg("num_groups"),
             arg("weight"), arg("bias"), arg("eps"));
  module.def("batch_norm_is_fused", mish::batch_norm_is_fused, arg("input"), arg("running_mean"),
             arg("running_var"), arg("weight"), arg("bias"), arg("training"));
  module.def("group_norm_is_fused", mish::group_norm_is_fused, arg("input"), arg("num_groups"),
             arg("weight"), arg("bias"));
  module.def("count", wrap(mish::count), arg("number"));
  module.def(
      "cpu_isa", [] { return mish::cpu::name(mish::cpu::best_isa()); },
      "The instruction set that the CPU kernels use on this processor.");
}

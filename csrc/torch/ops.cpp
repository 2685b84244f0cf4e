// Schemas, argument checks, and the CPU, CUDA and Meta kernels. Shapes, strides, overlap, output
// allocation and threads are TensorIterator's work; the maths is the kernels'.
#include "torch/ops.h"

#include <ATen/ATen.h>
#include <ATen/TensorIterator.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "mish_kernels.h"

#ifdef MISH_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace mish {

DType dtype_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return DType::kFloat;
    case at::kDouble:
      return DType::kDouble;
    case at::kHalf:
      return DType::kHalf;
    case at::kBFloat16:
      return DType::kBFloat16;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(
          false, "mish: expected a float32, float64, float16 or bfloat16 tensor, got ", dtype,
          ". Convert it first, for example with input.float().");
  }
}

namespace {

/// torch.ops passes None as an undefined tensor.
void check_defined(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(tensor.defined(), "mish: expected ", name,
                   " to be a tensor, got None. Pass one.");
}

void check_input(const at::Tensor& self) {
  check_defined("input", self);
  dtype_of(self.scalar_type());
}

void check_device(const char* name, const at::Tensor& other, const at::Tensor& self) {
  check_defined("input", self);
  check_defined(name, other);
  TORCH_CHECK(other.device() == self.device(), "mish: expected ", name,
              " to be on the device of the input, ", self.device(), ", got ", other.device(), ".");
}

void check_out(const at::Tensor& out, const at::Tensor& self) {
  check_device("out", out, self);
  TORCH_CHECK(out.scalar_type() == self.scalar_type(),
              "mish: expected out to have the dtype of the input, ", self.scalar_type(), ", got ",
              out.scalar_type(), ".");
}

}  // namespace

void check_like(const char* name, const at::Tensor& other, const at::Tensor& self) {
  TORCH_CHECK(!other.is_complex(), "mish: expected ", name, " to be real as the input, ",
              self.scalar_type(), ", got ", other.scalar_type(), ".");
  check_device(name, other, self);
  TORCH_CHECK(other.sym_sizes() == self.sym_sizes(), "mish: expected ", name,
              " to have the shape of the input, ", self.sym_sizes(), ", got ", other.sym_sizes(),
              ".");
}

namespace {

#ifdef MISH_WITH_CUDA
void run_cuda(Op op, DType dtype, at::TensorIteratorBase& iter) {
  if (iter.numel() == 0) return;
  // The dispatcher does not set the current device, which may differ from that of the tensors.
  const c10::cuda::CUDAGuard device_guard(iter.device(0));
  if (!iter.is_contiguous() && !iter.can_use_32bit_indexing()) {
    for (auto& part : iter.with_32bit_indexing()) run_cuda(op, dtype, part);
    return;
  }
  if (iter.ndim() > cuda::kMaxDims) {
    const int outermost = iter.ndim() - 1;
    for (int64_t i = 0; i < iter.shape()[outermost]; ++i) {
      at::TensorIterator part(iter);
      part.narrow(outermost, i, 1);  // which leaves the dimension out
      run_cuda(op, dtype, part);
    }
    return;
  }
  cuda::Operands operands = {};
  operands.dims = std::max(iter.ndim(), 1);
  operands.sizes[0] = 1;  // a tensor without dimensions is one element
  for (int k = 0; k < iter.ntensors(); ++k) {
    operands.data[k] = iter.data_ptr(k);
    operands.strides[k][0] = iter.element_size(k);
    for (int dim = 0; dim < iter.ndim(); ++dim) operands.strides[k][dim] = iter.strides(k)[dim];
  }
  for (int dim = 0; dim < iter.ndim(); ++dim) operands.sizes[dim] = iter.shape()[dim];
  const auto error = cuda::launch(op, dtype, operands, c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_CHECK(static_cast<cudaError_t>(error));
}
#endif

void run_cpu(Op op, DType dtype, at::TensorIteratorBase& iter) {
  iter.for_each(cpu::loop(op, dtype, cpu::best_isa()));
}

using Run = void (*)(Op, DType, at::TensorIteratorBase&);

/// Runs op on (out, inputs...) and returns out. An undefined out is allocated, with the strides
/// that TensorIterator gives any elementwise result.
template <Run run, class... Inputs>
at::Tensor elementwise(Op op, const at::Tensor& out, const Inputs&... inputs) {
  const at::ScalarType common = common_dtype(inputs...);
  const DType dtype = dtype_of(common);
  // The kernels need one dtype for all operands. TensorIterator converts only on the CPU.
  if (((inputs.scalar_type() != common) || ...)) {
    return elementwise<run>(op, out, inputs.to(common)...);
  }
  at::TensorIteratorConfig config;
  config.set_check_mem_overlap(true).check_all_same_dtype(true).add_output(out);
  (config.add_const_input(inputs), ...);
  at::TensorIterator iter = config.build();
  run(op, dtype, iter);
  return iter.output();
}

/// The ops on one kind of device.
template <Run run>
struct Kernels {
  static at::Tensor mish(const at::Tensor& self) {
    return elementwise<run>(Op::kForward, at::Tensor(), self);
  }

  static at::Tensor& mish_(at::Tensor& self) {
    elementwise<run>(Op::kForward, self, self);
    return self;
  }

  static at::Tensor& mish_out(const at::Tensor& self, at::Tensor& out) {
    check_input(self);
    check_out(out, self);
    elementwise<run>(Op::kForward, out, self);
    return out;
  }

  static at::Tensor mish_backward(const at::Tensor& grad_output, const at::Tensor& self) {
    check_input(self);
    check_like("grad_output", grad_output, self);
    return elementwise<run>(Op::kBackward, at::Tensor(), grad_output, self);
  }

  static at::Tensor mish_double_backward(const at::Tensor& grad_grad_input,
                                         const at::Tensor& grad_output, const at::Tensor& self) {
    check_input(self);
    check_like("grad_grad_input", grad_grad_input, self);
    check_like("grad_output", grad_output, self);
    return elementwise<run>(Op::kDoubleBackward, at::Tensor(), grad_grad_input, grad_output, self);
  }

  static void register_to(torch::Library& library) {
    library.impl("mish", mish);
    library.impl("mish_", mish_);
    library.impl("mish.out", mish_out);
    library.impl("mish_backward", mish_backward);
    library.impl("mish_double_backward", mish_double_backward);
  }
};

/// Shapes without data, for FakeTensor and torch.device("meta"): by ATen's elementwise ops with the
/// same number of operands, so that dtype, strides and symbolic sizes follow torch's rules.
namespace meta {

at::Tensor mish(const at::Tensor& self) {
  check_input(self);
  return at::mish(self);
}

at::Tensor& mish_(at::Tensor& self) {
  check_input(self);
  return at::mish_(self);
}

at::Tensor& mish_out(const at::Tensor& self, at::Tensor& out) {
  check_input(self);
  check_out(out, self);
  return at::mish_out(out, self);
}

at::Tensor mish_backward(const at::Tensor& grad_output, const at::Tensor& self) {
  check_input(self);
  check_like("grad_output", grad_output, self);
  return at::mul(grad_output, self);
}

at::Tensor mish_double_backward(const at::Tensor& grad_grad_input, const at::Tensor& grad_output,
                                const at::Tensor& self) {
  check_input(self);
  check_like("grad_grad_input", grad_grad_input, self);
  check_like("grad_output", grad_output, self);
  return at::addcmul(grad_grad_input, grad_output, self);
}

}  // namespace meta
}  // namespace

namespace ops {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

Handle<Tensor(const Tensor&)> mish() {
  static const auto handle = find<Tensor(const Tensor&)>("mish_cuda::mish");
  return handle;
}
Handle<Tensor&(Tensor&)> mish_() {
  static const auto handle = find<Tensor&(Tensor&)>("mish_cuda::mish_");
  return handle;
}
Handle<Tensor&(const Tensor&, Tensor&)> mish_out() {
  static const auto handle = find<Tensor&(const Tensor&, Tensor&)>("mish_cuda::mish", "out");
  return handle;
}
Handle<Tensor(const Tensor&, const Tensor&)> mish_backward() {
  static const auto handle = find<Tensor(const Tensor&, const Tensor&)>("mish_cuda::mish_backward");
  return handle;
}
Handle<Tensor(const Tensor&, const Tensor&, const Tensor&)> mish_double_backward() {
  static const auto handle =
      find<Tensor(const Tensor&, const Tensor&, const Tensor&)>("mish_cuda::mish_double_backward");
  return handle;
}

}  // namespace ops

TORCH_LIBRARY(mish_cuda, library) {
  const std::vector<at::Tag> tags = {at::Tag::pointwise, at::Tag::pt2_compliant_tag};
  // f(self). Any shape and strides; float32, float64, float16 or bfloat16; the result has the
  // shape and dtype of self. Other dtypes: NotImplementedError.
  library.def("mish(Tensor self) -> Tensor", tags);
  library.def("mish_(Tensor(a!) self) -> Tensor(a!)", tags);
  library.def("mish.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", tags);
  // grad_output f'(self). Both of one shape and device, else RuntimeError. The result has the dtype
  // that torch promotes the two to: forward mode makes float64 tangents of 0-dim float32 tensors,
  // and saved-tensor hooks may give back another dtype than they got. grad_output may be sparse,
  // and so is the result then.
  library.def("mish_backward(Tensor grad_output, Tensor self) -> Tensor", tags);
  // grad_grad_input grad_output f''(self): the derivative of mish_backward with respect to self,
  // applied to grad_grad_input. Takes and returns dtypes and layouts as mish_backward does.
  library.def(
      "mish_double_backward(Tensor grad_grad_input, Tensor grad_output, Tensor self) -> Tensor",
      tags);
}

TORCH_LIBRARY_IMPL(mish_cuda, CPU, library) { Kernels<run_cpu>::register_to(library); }

TORCH_LIBRARY_IMPL(mish_cuda, Meta, library) {
  library.impl("mish", meta::mish);
  library.impl("mish_", meta::mish_);
  library.impl("mish.out", meta::mish_out);
  library.impl("mish_backward", meta::mish_backward);
  library.impl("mish_double_backward", meta::mish_double_backward);
}

#ifdef MISH_WITH_CUDA
TORCH_LIBRARY_IMPL(mish_cuda, CUDA, library) { Kernels<run_cuda>::register_to(library); }
#endif

}  // namespace mish

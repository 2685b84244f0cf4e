// BatchNorm and GroupNorm with Mish behind them, as ops. Where the kernels can serve, an op
// computes norm and Mish at once and records one node, which saves the input and the statistics.
// Everywhere else it is torch's own norm with mish behind it: that raises torch's own errors, and
// whatever sees through both, such as torch.func, sees through the op.
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "norm_kernels.h"
#include "torch/autograd.h"
#include "torch/node.h"
#include "torch/norm_cuda.h"
#include "torch/norm_served.h"
#include "torch/ops.h"

namespace mish {
namespace {

// --- Calls of the kernels ---

at::Tensor defined(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

/// Calls visit(memory) for the memory of a contiguous tensor, as that of its dtype.
template <class Visit>
void visit(const at::Tensor& tensor, const Visit& visit_memory) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return visit_memory(static_cast<double*>(tensor.data_ptr()));
    case at::kHalf:
      return visit_memory(static_cast<at::Half*>(tensor.data_ptr()));
    case at::kBFloat16:
      return visit_memory(static_cast<at::BFloat16*>(tensor.data_ptr()));
    default:
      return visit_memory(static_cast<float*>(tensor.data_ptr()));
  }
}

/// The numbers of a tensor, which may be undefined, in double.
struct Doubles {
  std::vector<double> values;

  explicit Doubles(const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    values.resize(tensor.numel());
    visit(tensor, [&](const auto* from) { std::copy_n(from, values.size(), values.begin()); });
  }
  const double* get() const { return values.empty() ? nullptr : values.data(); }
};

/// A tensor like `like`, of numbers.
at::Tensor rounded(const std::vector<double>& values, const at::Tensor& like) {
  const at::Tensor result = at::empty_like(like);
  visit(result, [&](auto* to) {
    for (const double value : values) *to++ = static_cast<std::decay_t<decltype(*to)>>(value);
  });
  return result;
}

NormShape shape_of(const at::Tensor& input, int64_t groups) {
  const int64_t rows = input.size(0) * input.size(1);
  return {input.size(0), input.size(1), input.numel() / rows, groups};
}

/// By TensorIterator, whose loops are compiled in torch's library: at::parallel_for here, without
/// the compiler's OpenMP, would be serial.
void share_out(int64_t n, int64_t elements, void (*part)(void*, int64_t, int64_t), void* data) {
  const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / elements);
  if (n <= grain || at::get_num_threads() == 1) return part(data, 0, n);
  at::Tensor places = at::empty({n}, at::kByte);  // not written to: their addresses count
  const char* const first = static_cast<const char*>(places.const_data_ptr());
  auto iterator = at::TensorIterator::nullary_op(places);
  iterator.for_each(
      [&](char** place, const int64_t*, int64_t count) {
        const int64_t begin = *place - first;
        part(data, begin, begin + count);
      },
      grain);
}

/// `statistics`: mean and 1 / sqrt(variance + eps) of each set, perhaps variance.
cpu::NormMish norm_mish(const at::Tensor& input, const Doubles& weight, const Doubles& bias,
                        const at::Tensor& statistics, int64_t groups, bool given) {
  const NormShape shape = shape_of(input, groups);
  double* const mean = statistics.data_ptr<double>();
  return {shape,
          dtype_of(input.scalar_type()),
          cpu::best_isa(),
          mean,
          mean + shape.sets(),
          statistics.size(0) == 3 ? mean + 2 * shape.sets() : nullptr,
          given,
          weight.get(),
          bias.get(),
          {at::in_parallel_region() ? 1 : at::get_num_threads(), share_out}};
}

CudaNorm cuda_norm(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                   const at::Tensor& statistics, int64_t groups, bool given) {
  return {input, weight, bias, statistics, shape_of(input, groups), dtype_of(input.scalar_type()),
          given};
}

/// Of so many sets, in `rows` rows on the CPU; see norm_mish() and CudaNorm.
at::Tensor empty_statistics(const at::Tensor& input, int64_t rows, int64_t sets) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  if constexpr (kHasCudaKernels) {
    if (input.is_cuda()) return CudaNorm::empty_statistics(input, sets);
  }
  return at::empty({rows, sets}, at::kDouble);
}

/// Running statistics; a GPU also reads them.
struct Running {
  at::Tensor mean, var;
  double momentum;
};

// --- The derivative ---

/// Gradients for input, weight and bias, differentiable any number of times, as torch calls: the
/// formulas of norm_kernels.h.
autograd::variable_list differentiable(const at::Tensor& grad_output,
                                       const std::array<at::Tensor, 4>& inputs,
                                       const std::array<bool, 4>& wanted, int64_t groups,
                                       bool given, double eps) {
  const auto& [input, weight, bias, statistics] = inputs;
  const at::ScalarType wide = at::toOpMathType(input.scalar_type());
  // As samples, what is normalised apart in each, channels of that, elements.
  const bool grouped = groups > 0;
  const c10::SymInt n = input.sym_size(0), channels = input.sym_size(1);
  const c10::SymInt sets = grouped ? c10::SymInt(groups) : channels;
  const std::vector<c10::SymInt> split = {n, sets, channels / sets, -1};
  const auto per_channel = [&](const at::Tensor& tensor) {
    return tensor.to(wide).reshape_symint({1, sets, channels / sets, 1});
  };
  const std::vector<int64_t> together =
      grouped ? std::vector<int64_t>{2, 3} : std::vector<int64_t>{0, 2, 3};
  const auto mean = [&](const at::Tensor& tensor) { return tensor.mean(together, true); };
  const at::Tensor x = input.to(wide).reshape_symint(split);
  const at::Tensor dy = grad_output.to(wide).reshape_symint(split);
  const at::Tensor constants =
      given ? statistics.to(wide).reshape_symint({-1, 1, sets, 1, 1}) : at::Tensor();
  const at::Tensor u = x - (given ? constants.select(0, 0) : mean(x));
  const at::Tensor r = given ? constants.select(0, 1) : (mean(u * u) + eps).rsqrt();
  const at::Tensor normal = u * r;
  at::Tensor z = weight.defined() ? normal * per_channel(weight) : normal;
  if (bias.defined()) z = z + per_channel(bias);
  const at::Tensor g = ops::mish_backward().call(dy, z);
  autograd::variable_list result(4);
  if (wanted[0]) {
    const at::Tensor gw = r * (weight.defined() ? g * per_channel(weight) : g);
    const at::Tensor dx = given ? gw : gw - mean(gw) - normal * mean(gw * normal);
    result[0] = dx.reshape_symint(input.sym_sizes()).to(input.scalar_type());
  }
  const auto sum = [](const at::Tensor& tensor, const at::Tensor& like) {
    return tensor.sum(at::IntArrayRef{0, 3})
        .reshape_symint(like.sym_sizes())
        .to(like.scalar_type());
  };
  if (wanted[1]) result[1] = sum(g * normal, weight);
  if (wanted[2]) result[2] = sum(g, bias);
  return result;
}

struct NormMishBackward final
    : InputsNode<NormMishBackward, 4, /*groups*/ int64_t, /*given*/ bool, /*eps*/ double> {
  static constexpr const char* kName = "NormMishBackward";

  static autograd::variable_list gradients(const at::Tensor& grad_output, const Tensors& inputs,
                                           const Wanted& wanted, int64_t groups, bool given,
                                           double eps) {
    const auto& [input, weight, bias, statistics] = inputs;
    if (at::GradMode::is_enabled() || !is_plain(grad_output) ||
        grad_output.device() != input.device() || !has_kernels(input)) {
      return differentiable(grad_output, inputs, wanted, groups, given, eps);
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    const at::Tensor dy = grad_output.to(input.scalar_type()).contiguous();
    if constexpr (kHasCudaKernels) {
      if (input.is_cuda()) {
        const auto [of_input, of_weight, of_bias] =
            cuda_norm(input, weight, bias, statistics, groups, given)
                .backward(dy, {wanted[0], wanted[1], wanted[2]});
        return {of_input, of_weight, of_bias, at::Tensor()};
      }
    }
    const at::Tensor dx = wanted[0] ? at::empty_like(input) : at::Tensor();
    std::vector<double> dweight(wanted[1] ? weight.numel() : 0);
    std::vector<double> dbias(wanted[2] ? bias.numel() : 0);
    // Hooks for saved tensors may have stored them as another dtype.
    norm_mish(input, Doubles(weight), Doubles(bias), statistics.to(at::kDouble), groups, given)
        .backward(wanted[0] ? dx.data_ptr() : nullptr, wanted[1] ? dweight.data() : nullptr,
                  wanted[2] ? dbias.data() : nullptr, dy.const_data_ptr(), input.const_data_ptr());
    return {dx, wanted[1] ? rounded(dweight, weight) : at::Tensor(),
            wanted[2] ? rounded(dbias, bias) : at::Tensor(), at::Tensor()};
  }
};

/// running = (1 - momentum) running + momentum factor now. Like torch's norms, it does not count as
/// a change: nodes of other calls may have saved the running statistics.
void update(const at::Tensor& running, const double* now, double momentum, double factor) {
  visit(running, [&](auto* to) {
    for (int64_t c = 0; c < running.numel(); ++c) {
      to[c] = static_cast<std::decay_t<decltype(*to)>>((1 - momentum) * to[c] +
                                                       momentum * factor * now[c]);
    }
  });
}

at::Tensor fused(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                 const at::Tensor& statistics, int64_t groups, bool given, double eps,
                 const Running& running = {}) {
  decltype(make_node<NormMishBackward>()) node;
  const auto key = input.is_cuda() ? c10::DispatchKey::AutogradCUDA : c10::DispatchKey::AutogradCPU;
  const bool recorded = !c10::impl::tls_local_dispatch_key_set().excluded_.has(key);
  if (recorded && autograd::compute_requires_grad(input, weight, bias)) {
    node = make_node<NormMishBackward>();
    node->set_next_edges(autograd::collect_next_edges(input, weight, bias, statistics));
    node->numbers = {groups, given, eps};
  }
  at::Tensor result;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    if (input.is_cpu()) {
      result = at::empty_like(input);
      norm_mish(input, Doubles(weight), Doubles(bias), statistics, groups, given)
          .forward(result.data_ptr(), input.const_data_ptr(), eps);
      // Before anything is saved: a checkpoint stops there when it runs this again.
      if (running.mean.defined() && !given) {
        const int64_t channels = input.size(1);
        const auto n = static_cast<double>(input.numel() / channels);
        const double* const of_batch = statistics.data_ptr<double>();
        update(running.mean, of_batch, running.momentum, 1);
        update(running.var, of_batch + 2 * channels, running.momentum, n / (n - 1));
      }
    } else if constexpr (kHasCudaKernels) {
      result = cuda_norm(input, weight, bias, statistics, groups, given)
                   .forward(running.mean, running.var, running.momentum, eps);
    }
  }
  if (node) {
    const at::Tensor saved[] = {input, weight, bias, statistics};
    for (int i = 0; i < 4; ++i) node->saved[i] = autograd::SavedVariable(saved[i], false);
    autograd::set_history(result, node);
  }
  return result;
}

// --- The ops ---

at::Tensor batch_norm_mish(const at::Tensor& input, const OptionalTensor& running_mean,
                           const OptionalTensor& running_var, const OptionalTensor& weight,
                           const OptionalTensor& bias, bool training, double momentum, double eps) {
  if (!batch_norm_is_fused(input, running_mean, running_var, weight, bias, training)) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    return ops::mish().call(at::batch_norm(input, weight, bias, running_mean, running_var, training,
                                           momentum, eps, at::globalContext().userEnabledCuDNN()));
  }
  const at::Tensor mean = defined(running_mean), var = defined(running_var);
  const int64_t channels = input.size(1);
  const at::Tensor statistics = empty_statistics(input, training ? 3 : 2, channels);
  if (!training && input.is_cpu()) {
    double* const of_batch = statistics.data_ptr<double>();
    visit(mean, [&](const auto* from) { std::copy_n(from, channels, of_batch); });
    visit(var, [&](const auto* from) {
      for (int64_t c = 0; c < channels; ++c) {
        of_batch[channels + c] = 1 / std::sqrt(static_cast<double>(from[c]) + eps);
      }
    });
  }
  return fused(input, defined(weight), defined(bias), statistics, 0, !training, eps,
               {mean, var, momentum});
}

at::Tensor group_norm_mish(const at::Tensor& input, int64_t num_groups,
                           const OptionalTensor& weight, const OptionalTensor& bias, double eps) {
  if (!group_norm_is_fused(input, num_groups, weight, bias)) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    return ops::mish().call(at::group_norm(input, num_groups, weight, bias, eps,
                                           at::globalContext().userEnabledCuDNN()));
  }
  const at::Tensor statistics = empty_statistics(input, 2, input.size(0) * num_groups);
  return fused(input, defined(weight), defined(bias), statistics, num_groups, false, eps);
}

// Composite: what these call has rules for every device, transform and compiler.
TORCH_LIBRARY_FRAGMENT(mish_cuda, library) {
  // mish(batch_norm(input)), with the arguments of torch.nn.functional.batch_norm in their order.
  library.def(
      "batch_norm_mish(Tensor input, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
      "Tensor? weight=None, Tensor? bias=None, bool training=False, float momentum=0.1, "
      "float eps=1e-05) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  // mish(group_norm(input)), likewise; the result has the dtype of the input, under autocast too.
  library.def(
      "group_norm_mish(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, "
      "float eps=1e-05) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(mish_cuda, CompositeImplicitAutograd, library) {
  library.impl("batch_norm_mish", batch_norm_mish);
  library.impl("group_norm_mish", group_norm_mish);
}

// vmap asks for ops by themselves, composite or not; torch 2.9 asks another key.
TORCH_LIBRARY_IMPL(mish_cuda, FuncTorchBatchedDecomposition, library) {
  library.impl("batch_norm_mish", batch_norm_mish);
  library.impl("group_norm_mish", group_norm_mish);
}
TORCH_LIBRARY_IMPL(mish_cuda, FuncTorchBatched, library) {
  library.impl("batch_norm_mish", batch_norm_mish);
  library.impl("group_norm_mish", group_norm_mish);
}

}  // namespace

bool batch_norm_is_fused(const at::Tensor& input, const OptionalTensor& running_mean,
                         const OptionalTensor& running_var, const OptionalTensor& weight,
                         const OptionalTensor& bias, bool training) {
  const bool has_mean = defined(running_mean).defined();
  return has_kernels(input) && batch_norm_pays(input, training) && fits(weight, input) &&
         fits(bias, input) && fits(running_mean, input) && fits(running_var, input) &&
         has_mean == defined(running_var).defined() && (training || has_mean);
}
bool group_norm_is_fused(const at::Tensor& input, int64_t num_groups, const OptionalTensor& weight,
                         const OptionalTensor& bias) {
  return has_kernels(input) && num_groups > 0 && input.size(1) % num_groups == 0 &&
         group_norm_pays(input, num_groups) && fits(weight, input) && fits(bias, input);
}

void count(at::Tensor number) {
  if (is_plain(number) && number.is_cpu() && number.scalar_type() == at::kLong &&
      number.numel() == 1 && !number.is_inference() && nothing_intercepts()) {
    ++*number.mutable_data_ptr<int64_t>();
    autograd::increment_version(number);
  } else {
    number.add_(1);
  }
}

namespace ops {

Handle<decltype(mish::batch_norm_mish)> batch_norm_mish() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("mish_cuda::batch_norm_mish", "")
                                 .typed<decltype(mish::batch_norm_mish)>();
  return handle;
}
Handle<decltype(mish::group_norm_mish)> group_norm_mish() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("mish_cuda::group_norm_mish", "")
                                 .typed<decltype(mish::group_norm_mish)>();
  return handle;
}

}  // namespace ops

NodeType norm_mish_node() { return {NormMishBackward::kName, typeid(NormMishBackward)}; }

}  // namespace mish

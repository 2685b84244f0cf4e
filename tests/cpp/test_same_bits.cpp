// float and double have the same bits everywhere: in the CPU kernels of each instruction set with
// FMA, and in the functions of the CUDA kernels, compiled for the host, whether the reciprocal
// instruction is exact or off by one ULP in either direction. Of all floats every 509th is tried,
// with
// --exhaustive each; of double 10^6 or so.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cuda/kernels.cuh"
#include "cuda_runtime.h"
#include "mish_kernels.h"

namespace {

using mish::DType;
using mish::kInputs;
using mish::Op;
using mish::cpu::Isa;
namespace ptx = mish::cuda::ptx;

constexpr int64_t kCount = 4096;  // at a time: all operands stay in L1

/// Gradients h and g, and x. An op takes the last of them.
template <class T>
struct Inputs {
  std::vector<T> operands[3] = {std::vector<T>(kCount, 1), std::vector<T>(kCount, 1),
                                std::vector<T>(kCount)};

  std::vector<T>& x() { return operands[2]; }
  const std::vector<T>& x() const { return operands[2]; }
  template <Op op>
  const T* of(int k) const {
    return operands[3 - kInputs<op> + k].data();
  }
};

template <Op op, class T>
void on_cpu(Isa isa, const Inputs<T>& in, std::vector<T>& out) {
  char* data[4] = {reinterpret_cast<char*>(out.data())};
  for (int k = 0; k < kInputs<op>; ++k) {
    data[k + 1] = reinterpret_cast<char*>(const_cast<T*>(in.template of<op>(k)));
  }
  const int64_t size = sizeof(T), strides[8] = {size, size, size, size};
  constexpr DType dtype = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  mish::cpu::loop(op, dtype, isa)(data, strides, kCount, 1);
}

template <Op op, class T>
void as_on_gpu(const Inputs<T>& in, std::vector<T>& out) {
  const T* from[kInputs<op>];
  for (int k = 0; k < kInputs<op>; ++k) from[k] = in.template of<op>(k);
  T* to = out.data();
  for (int64_t i = 0; i < kCount; ++i) {
    T element[kInputs<op>];
    for (int k = 0; k < kInputs<op>; ++k) element[k] = from[k][i];
    to[i] = mish::cuda::apply<op, typename mish::cuda::PlanOf<T, 1>::A>(element);
  }
}

std::map<std::string, int64_t> failures;  // by function

/// The payload of a NaN may differ.
template <class T>
void compare(const std::string& function, const std::string& who, const std::vector<T>& x,
             const std::vector<T>& expected, const std::vector<T>& got) {
  if (std::memcmp(got.data(), expected.data(), kCount * sizeof(T)) == 0) return;
  for (int64_t i = 0; i < kCount; ++i) {
    if (std::memcmp(&got[i], &expected[i], sizeof(T)) == 0) continue;
    if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
    if (++failures[function] > 20) return;
    std::printf("%s, %s: %a at x = %a, not %a\n", function.c_str(), who.c_str(), got[i], x[i],
                expected[i]);
  }
}

template <Op op, class T>
void check(const char* function, const Inputs<T>& in) {
  std::vector<T> expected(kCount), got(kCount);
  bool first = true;
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    if (!mish::cpu::supported(isa)) continue;
    on_cpu<op>(isa, in, first ? expected : got);
    if (!first) compare(function, mish::cpu::name(isa), in.x(), expected, got);
    first = false;
  }
  for (ptx::rcp_error = -1; ptx::rcp_error <= 1; ++ptx::rcp_error) {
    as_on_gpu<op>(in, got);
    compare(function, "CUDA, rcp off by " + std::to_string(ptx::rcp_error), in.x(), expected, got);
  }
}

/// `in` has gradients of 1; `scaled` has others.
template <class T>
void check_all(const Inputs<T>& in, Inputs<T>& scaled) {
  scaled.x() = in.x();
  check<Op::kForward>("f", in);
  check<Op::kBackward>("f'", in);
  check<Op::kBackward>("g f'", scaled);
  check<Op::kDoubleBackward>("f''", in);
  check<Op::kDoubleBackward>("h g f''", scaled);
}

std::mt19937_64 generator(1);
std::normal_distribution<double> normal(0, 4);

template <class T>
Inputs<T> random_gradients() {
  Inputs<T> in;
  for (int k = 0; k < 2; ++k) {
    for (T& g : in.operands[k]) g = static_cast<T>(normal(generator));
  }
  return in;
}

void sweep_floats(int64_t step) {
  Inputs<float> in, scaled = random_gradients<float>();
  for (int64_t first = 0; first < int64_t{1} << 32; first += kCount * step) {
    for (int64_t i = 0; i < kCount; ++i) {
      const auto bits = static_cast<uint32_t>(first + i * step);
      std::memcpy(&in.x()[i], &bits, sizeof(bits));
    }
    check_all(in, scaled);
  }
}

void try_doubles() {
  Inputs<double> in, scaled = random_gradients<double>();
  std::uniform_real_distribution<double> range(-750, 50);
  for (int repeat = 0; repeat < 100; ++repeat) {
    for (double& x : in.x()) x = normal(generator);
    check_all(in, scaled);
    for (double& x : in.x()) x = range(generator);
    check_all(in, scaled);
    for (double& x : in.x()) {
      const uint64_t bits = generator();
      std::memcpy(&x, &bits, sizeof(bits));
    }
    check_all(in, scaled);
  }
}

}  // namespace

int main(int argc, char** argv) {
#if !defined(__FMA__) && !defined(__ARM_FEATURE_FMA)
  std::printf("skipped: this processor or compiler has no FMA\n");
  return 0;
#endif
  sweep_floats(argc > 1 && std::strcmp(argv[1], "--exhaustive") == 0 ? 1 : 509);
  try_doubles();
  for (const auto& [function, count] : failures) {
    std::printf("%s: %lld differ\n", function.c_str(), static_cast<long long>(count));
  }
  std::printf("%s\n", failures.empty() ? "the same bits everywhere" : "FAILED");
  return failures.empty() ? 0 : 1;
}

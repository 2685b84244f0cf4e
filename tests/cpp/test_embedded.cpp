// How the embedded kernels are loaded and chosen, with a runtime that only takes notes: the image
// that fits the GPU, once for each device; the kernel that fits the operands.
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/embedded.cpp"

namespace {

using mish::DType;
using mish::Op;
using mish::cuda::Operands;

int failures = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  std::printf("%s\n", what.c_str());
}

LoadedKernel last_launched() {
  return fake.launched.empty() ? LoadedKernel{} : fake.launched.back();
}

/// 64 elements of a dtype, on boundaries of 16 bytes but for the offset, a step apart.
int launch(Op op, DType dtype, int size, int offset = 0, int step = 1) {
  alignas(16) static char memory[4][2048];
  Operands operands = {};
  operands.dims = 1;
  operands.sizes[0] = 64;
  for (int k = 0; k < 4; ++k) {
    operands.data[k] = memory[k] + offset;
    operands.strides[k][0] = step * size;
  }
  return mish::cuda::launch(op, dtype, operands, nullptr);
}

/// The images for GPUs of all kinds, each a device of its own.
void test_images() {
  const struct {
    int capability;
    std::string image;
  } gpus[] = {{75, "7.5"}, {80, "8.0"},       {86, "8.6"},      {87, "8.6"},
              {89, "8.6"}, {90, "9.0"},       {100, "PTX 9.0"}, {110, "PTX 9.0"},
              {75, "7.5"}, {120, "PTX 12.0"}, {121, "PTX 12.0"}};
  for (const auto& [capability, image] : gpus) {
    fake.device = static_cast<int>(fake.capabilities.size());
    fake.capabilities[fake.device] = capability;
    fake.loaded.clear();
    for (int repeat = 0; repeat < 2; ++repeat) {
      expect(launch(Op::kForward, DType::kFloat, 4) == cudaSuccess, "a launch failed");
      expect(launch(Op::kBackward, DType::kHalf, 2) == cudaSuccess, "a launch failed");
      expect(last_launched().image == image,
             std::to_string(capability) + " runs " + last_launched().image);
    }
    expect(fake.loaded == std::vector<std::string>{image}, "not loaded once");
    expect(fake.capture_mode == cudaStreamCaptureModeGlobal, "the capture mode is not as it was");
  }
}

/// What cannot be loaded is an error, not a launch; and it is tried again.
void test_errors() {
  fake.device = static_cast<int>(fake.capabilities.size());
  fake.capabilities[fake.device] = 70;
  fake.launched.clear();
  expect(launch(Op::kForward, DType::kFloat, 4) == cudaErrorNoKernelImageForDevice, "7.0 runs");
  fake.capabilities[fake.device] = 80;
  fake.load_error = cudaErrorMemoryAllocation;
  expect(launch(Op::kForward, DType::kFloat, 4) == cudaErrorMemoryAllocation, "an error is lost");
  expect(fake.launched.empty(), "launched without a kernel");
  fake.load_error = cudaSuccess;
  expect(launch(Op::kForward, DType::kFloat, 4) == cudaSuccess, "an error stays");
}

void test_kernels() {
  const struct {
    DType dtype;
    int size;
    std::string name;
  } types[] = {{DType::kFloat, 4, "float"},
               {DType::kDouble, 8, "double"},
               {DType::kHalf, 2, "__half"},
               {DType::kBFloat16, 2, "__nv_bfloat16"}};
  const std::string ops[] = {"kForward", "kBackward", "kDoubleBackward"};
  for (int op = 0; op < 3; ++op) {
    for (const auto& [dtype, size, type] : types) {
      const auto check = [&, type = type](const char* kind, int n, int error) {
        const std::string name = last_launched().name;
        const bool right = name.find("::" + ops[op]) != std::string::npos &&
                           name.find(" " + type) != std::string::npos &&
                           name.find(kind) != std::string::npos &&
                           name.find("N = " + std::to_string(n)) != std::string::npos;
        expect(right && error == cudaSuccess, type + " " + ops[op] + " launches " + name);
      };
      fake.multiprocessors = 0;
      check("kLarge", 16 / size, launch(static_cast<Op>(op), dtype, size));
      fake.device = 1000;  // nothing is known of it yet
      fake.capabilities[fake.device] = 80;
      fake.multiprocessors = 100;
      check("kSmall", 16 / size, launch(static_cast<Op>(op), dtype, size));
      check("kSmall", 1, launch(static_cast<Op>(op), dtype, size, size));
      check("kStrided", 1, launch(static_cast<Op>(op), dtype, size, 0, 2));
    }
  }
}

/// The kernels that a norm with Mish launches, in their order: of packs where they fit.
void test_norm() {
  fake.device = 0;
  alignas(16) static char x[4096], other[4096], statistics[4096], workspace[65536];
  const auto check = [](int error, const std::vector<std::string>& kernels,
                        const std::string& arguments) {
    expect(error == cudaSuccess && fake.launched.size() == kernels.size(), "other launches");
    for (size_t i = 0; i < fake.launched.size() && i < kernels.size(); ++i) {
      const std::string& name = fake.launched[i].name;
      const bool combines = kernels[i] == "kStatistics" || kernels[i] == "kGradients";
      const std::string wanted =
          combines ? arguments.substr(0, arguments.rfind('=')) + "= 1" : arguments;
      expect(name.find("::" + kernels[i] + ";") != std::string::npos &&
                 name.find(wanted) != std::string::npos,
             kernels[i] + " " + wanted + ": launches " + name);
    }
    fake.launched.clear();
  };
  fake.launched.clear();
  for (const int64_t size : {64, 63}) {
    for (const int64_t groups : {0, 2}) {
      const mish::cuda::NormMish norm = {{2, 4, size, groups},
                                         DType::kFloat,
                                         statistics,
                                         false,
                                         nullptr,
                                         nullptr,
                                         workspace,
                                         nullptr};
      const std::string arguments = size == 64 ? "T = float; int N = 4" : "T = float; int N = 1";
      check(norm.forward(other, x, 1e-5, nullptr, nullptr, 0),
            {"kMoments", "kStatistics", "kApply"}, arguments);
      check(norm.backward(other, nullptr, nullptr, x, x), {"kReduce", "kGradients", "kFinish"},
            arguments);
    }
  }
  const mish::cuda::NormMish given = {{2, 4, 64, 0}, DType::kFloat, statistics, true,
                                      nullptr,       nullptr,       workspace,  nullptr};
  check(given.forward(other, x, 1e-5, x, x, 0), {"kStatistics", "kApply"}, "N = 4");
  check(given.backward(other, nullptr, nullptr, x, x), {"kFinish"}, "N = 4");
}

}  // namespace

int main() {
  test_images();
  test_errors();
  test_kernels();
  test_norm();
  std::printf("%d failures\n", failures);
  return failures != 0;
}

// Runs a model that Python compiled ahead of time (aoti.py), without Python: the package calls the
// op of the library by name.
//
//   aoti <path of libmish_cuda.so> <path of the package>
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>
#include <limits>

int main(int argc, char** argv) {
  if (argc != 3 || dlopen(argv[1], RTLD_NOW) == nullptr) {
    std::cerr << "expected the paths of libmish_cuda.so and of a package: "
              << (argc == 3 ? dlerror() : "not two arguments") << "\n";
    return 2;
  }
  const auto mish = c10::Dispatcher::singleton()
                        .findSchemaOrThrow("mish_cuda::mish", "")
                        .typed<at::Tensor(const at::Tensor&)>();
  torch::inductor::AOTIModelPackageLoader model(argv[2]);
  at::Tensor x = at::linspace(-4, 4, 9);
  // Where torch's own Mish is NaN and the library's is not, which shows whose op has run.
  x[0] = -std::numeric_limits<float>::infinity();
  const at::Tensor y = model.run({x}).at(0);
  std::cout << at::stack({x, y}, 1) << "\n";
  return at::equal(y, 2 * mish.call(x) + 1) ? 0 : 1;
}

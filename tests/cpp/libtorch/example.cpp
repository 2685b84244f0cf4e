// Calls an op of the library by name. Nothing of mish_cuda is needed to compile this.
//
//   example                             linked with the library, as CMakeLists.txt here does it
//   example <path of libmish_cuda.so>   loads it
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc == 2 && dlopen(argv[1], RTLD_NOW) == nullptr) {
    std::cerr << "expected the path of libmish_cuda.so: " << dlerror() << "\n";
    return 2;
  }
  const auto mish = c10::Dispatcher::singleton()
                        .findSchemaOrThrow("mish_cuda::mish", "")
                        .typed<at::Tensor(const at::Tensor&)>();
  const at::Tensor x = at::linspace(-4, 4, 9);
  const at::Tensor y = mish.call(x);
  std::cout << at::stack({x, y}, 1) << "\n";
  return at::allclose(y, x * at::tanh(at::softplus(x))) ? 0 : 1;
}

// The CPU kernels of every instruction set behind a C interface, for Python to load: its own module
// runs the best one only.
#include <cstdint>

#include "mish_kernels.h"

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

using mish::DType;
using mish::Op;
using mish::cpu::Isa;

/// The name of an instruction set, or null where this build or processor lacks it.
EXPORT const char* isa_name(int isa) {
  return mish::cpu::supported(Isa{isa}) ? mish::cpu::name(Isa{isa}) : nullptr;
}

EXPORT void run(int op, int dtype, int isa, char* const* data, const int64_t* strides,
                int64_t size0, int64_t size1) {
  mish::cpu::loop(Op{op}, DType{dtype}, Isa{isa})(data, strides, size0, size1);
}

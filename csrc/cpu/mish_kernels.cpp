// Chooses among the instruction sets.
#include "mish_kernels.h"

#include "cpu/table.h"

namespace mish::cpu {

bool supported(Isa isa) {
  switch (isa) {
#if MISH_X86_TARGETS
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::kAvx2:
      // F16C is used as well: every processor with AVX2 has it, but not every compiler can ask.
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    default:
      return isa == Isa::kBaseline;
  }
}

Isa best_isa() {
  static const Isa best = supported(Isa::kAvx512) ? Isa::kAvx512
                          : supported(Isa::kAvx2) ? Isa::kAvx2
                                                  : Isa::kBaseline;
  return best;
}

const char* name(Isa isa) {
  return isa == Isa::kAvx512 ? "AVX-512" : isa == Isa::kAvx2 ? "AVX2" : "baseline";
}

Loop loop(Op op, DType dtype, [[maybe_unused]] Isa isa) {
  const Table* table = &baseline_table;
#if MISH_X86_TARGETS
  if (isa == Isa::kAvx512) table = &avx512_table;
  if (isa == Isa::kAvx2) table = &avx2_table;
#endif
  return (*table)[static_cast<int>(op)][static_cast<int>(dtype)];
}

}  // namespace mish::cpu

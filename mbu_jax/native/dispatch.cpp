// Picks the widest instruction set that this processor has.

#include <cstdlib>
#include <cstring>

#include "network.h"

namespace mbu {

extern const Kernels kernels_portable;
#ifdef MBU_X86
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512vnni;
#endif

namespace {

const Kernels& choose() {
  // For tests: an instruction set by name, if the processor has it.
  const char* wanted = std::getenv("MBU_JAX_INSTRUCTIONS");
  const auto take = [&](const Kernels& kernels) {
    return !wanted || !std::strcmp(wanted, kernels.name);
  };
#ifdef MBU_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512vnni") && take(kernels_avx512vnni))
    return kernels_avx512vnni;
  if (avx512 && take(kernels_avx512)) return kernels_avx512;
  if (avx2 && take(kernels_avx2)) return kernels_avx2;
#endif
  return kernels_portable;
}

}  // namespace

const Kernels& best_kernels() {
  static const Kernels& best = choose();
  return best;
}

}  // namespace mbu

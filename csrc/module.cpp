// The Python module pruning._C: importing it registers the CPU kernels; it tells how it was built and what it runs on.

#include <pybind11/pybind11.h>

#include <cstdlib>
#include <string>

#include "isa.h"
#include "prune_build.h"

namespace prune {

namespace {

Isa detect() {
  Isa best = Isa::scalar;
#if PRUNE_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("popcnt")) {
    best = Isa::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
      best = Isa::avx512;
  }
#endif
  const char* wanted = std::getenv("PRUNE_CPU");
  if (wanted == nullptr) return best;
  const std::string name = wanted;
  const Isa cap = name == "scalar" ? Isa::scalar : name == "avx2" ? Isa::avx2 : Isa::avx512;
  return cap < best ? cap : best;
}

}  // namespace

Isa isa() {
  static const Isa found = detect();
  return found;
}

const char* isa_name() {
  return isa() == Isa::avx512 ? "avx512" : isa() == Isa::avx2 ? "avx2" : "scalar";
}

}  // namespace prune

PYBIND11_MODULE(_C, m) {
  m.doc() = "Kernels for the CPU; importing the module registers them.";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["torch"] = PRUNE_BUILD_TORCH;
        info["compiler"] = PRUNE_BUILD_COMPILER;
        info["nvcc"] = PRUNE_BUILD_NVCC;
        info["archs"] = PRUNE_BUILD_ARCHS;
        return info;
      },
      "Returns what the kernels were built with; nvcc and archs are empty where CUDA kernels were not built.");
  m.def("cpu_capability", &prune::isa_name, "Returns the instruction set in use: avx512, avx2 or scalar.");
}

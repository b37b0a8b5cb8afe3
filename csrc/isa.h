// Instruction sets of the CPU kernels: compiled side by side by function attributes, chosen when the module is loaded.

#pragma once

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PRUNE_X86 1
#include <immintrin.h>
#define PRUNE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")))
#define PRUNE_AVX2 __attribute__((target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")))
#else
#define PRUNE_X86 0
#endif
#define PRUNE_INLINE inline __attribute__((always_inline))

namespace prune {

enum class Isa { scalar, avx2, avx512 };

Isa isa();  // the best of this machine, or what PRUNE_CPU=scalar|avx2|avx512 lowers it to
const char* isa_name();

}  // namespace prune

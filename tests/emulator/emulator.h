// CUDA on the CPU, as far as csrc/*.cu needs it, so that the kernels run and are tested without a GPU. Blocks run one after
// another; the threads of a block are fibers that switch at barriers, at what warps do together and, now and then, at
// atomics. Orders are shuffled by a seed. Misuse fails the launch and says where: a lane that a warp's operation waits for
// has exited or waits elsewhere, a barrier is not reached by all threads, an address is not aligned for its access.
// Shared memory and fresh allocations hold 0xAB; asynchronous copies arrive when they are waited for, not before.

#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <tuple>
#include <type_traits>

namespace emulator {

using Site = std::source_location;

bool run(unsigned blocks, unsigned threads, const std::function<void()>& kernel);  // false: misused; failure() tells how
const char* failure();
int multiprocessors();
void fail(const char* what);
void perhaps_let_others_go();
unsigned lane();
bool barrier(bool value, const Site& site);  // whether any thread has it
// Waits for all lanes of the mask, which must come to the same site, and returns what each of the warp's lanes brought.
const uint64_t* together(unsigned mask, uint64_t value, const Site& site);
void copy_later(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_for_copies(size_t but);  // the last `but` commits

template <class T>
uint64_t as_word(T value) {
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  return word;
}

template <class T>
T from_lane(unsigned mask, T value, unsigned source, const Site& site) {
  const uint64_t word = together(mask, as_word(value), site)[source];
  if ((mask >> source & 1) == 0) fail("a shuffle reads a lane that is not in its mask");
  std::memcpy(&value, &word, sizeof value);
  return value;
}

}  // namespace emulator

// Qualifiers. Shared memory lies in one section, so that it can be spoilt before each block.
#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("emulated_shared")))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// What threads do together, and to memory.
inline void __syncthreads(emulator::Site site = emulator::Site::current()) { emulator::barrier(false, site); }
inline int __syncthreads_or(int value, emulator::Site site = emulator::Site::current()) { return emulator::barrier(value != 0, site); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, emulator::Site site = emulator::Site::current()) {
  return emulator::from_lane(mask, value, source % 32, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, emulator::Site site = emulator::Site::current()) {
  return emulator::from_lane(mask, value, emulator::lane() ^ bits, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, emulator::Site site = emulator::Site::current()) {
  const unsigned lane = emulator::lane();
  return emulator::from_lane(mask, value, lane >= by ? lane - by : lane, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, emulator::Site site = emulator::Site::current()) {
  const unsigned lane = emulator::lane();
  return emulator::from_lane(mask, value, lane + by < 32 ? lane + by : lane, site);
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, emulator::Site site = emulator::Site::current()) {
  const uint64_t* all = emulator::together(mask, emulator::as_word(value), site);
  unsigned same = 0;
  for (unsigned l = 0; l < 32; ++l) same |= static_cast<unsigned>((mask >> l & 1) != 0 && all[l] == emulator::as_word(value)) << l;
  return same;
}
inline unsigned __ballot_sync(unsigned mask, int value, emulator::Site site = emulator::Site::current()) {
  const uint64_t* all = emulator::together(mask, value != 0, site);
  unsigned votes = 0;
  for (unsigned l = 0; l < 32; ++l) votes |= static_cast<unsigned>((mask >> l & 1) != 0 && all[l] != 0) << l;
  return votes;
}

template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  emulator::perhaps_let_others_go();
  const T before = *at;
  *at += value;
  return before;
}
inline void __threadfence() {}
template <class T>
T __ldcg(const T* at) { return *at; }
template <class T>
T __ldcs(const T* at) { return *at; }
inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) { emulator::copy_later(to, from, bytes); }
inline void __pipeline_commit() { emulator::commit_copies(); }
inline void __pipeline_wait_prior(size_t but) { emulator::wait_for_copies(but); }

// Numbers.
template <class A, class B>
std::common_type_t<A, B> min(A a, B b) { return std::min<std::common_type_t<A, B>>(a, b); }
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) { return std::max<std::common_type_t<A, B>>(a, b); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<uint32_t>(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
inline unsigned __vcmpeq4(unsigned a, unsigned b) {
  unsigned equal = 0;
  for (int s = 0; s < 32; s += 8) equal |= (a >> s & 255) == (b >> s & 255) ? 255u << s : 0;
  return equal;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
using __half = c10::Half;
using __nv_bfloat16 = c10::BFloat16;
inline __half __ushort_as_half(uint16_t bits) { return __half(bits, __half::from_bits()); }
inline float __half2float(__half x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }

// The runtime.
#define CUDART_VERSION 13000
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorLaunchFailure };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  int numAttrs;
};
inline const char* cudaGetErrorString(cudaError_t) { return emulator::failure(); }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulator::multiprocessors() : 9;
  return cudaSuccess;
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), const Arguments&... arguments) {
  const std::tuple<Parameters...> all(arguments...);
  const bool ran = emulator::run(config->gridDim.x, config->blockDim.x, [&] { std::apply(kernel, all); });
  return ran ? cudaSuccess : cudaErrorLaunchFailure;
}

// torch: tensors of the CPU stand for those of the device, and ops are registered in a namespace of their own.
namespace torch::stable {
inline Tensor spoilt_empty(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef size, torch::headeronly::ScalarType type) {
  Tensor result = new_empty(like, size, type);
  std::memset(result.data_ptr(), 0xAB, result.numel() * (type == torch::headeronly::ScalarType::Long ? 8 : 1));
  return result;
}
inline Tensor spoilt_empty(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef size) {  // masks alone
  Tensor result = new_empty(like, size);
  std::memset(result.data_ptr(), 0xAB, result.numel());
  return result;
}
namespace accelerator {
struct NoGuard {
  explicit NoGuard(int) {}
};
}  // namespace accelerator
}  // namespace torch::stable
inline int current_stream(int, void** stream) {
  *stream = nullptr;
  return 0;
}
#define new_empty spoilt_empty
#define DeviceGuard NoGuard
#define aoti_torch_get_current_cuda_stream current_stream
#define is_cuda() numel() >= 0
#define is_cpu() numel() < 0
#define EMULATED_IMPL(...) _STABLE_TORCH_LIBRARY_IMPL(__VA_ARGS__)
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(ns, key, m) EMULATED_IMPL(EMULATED, CPU, m, C10_UID)

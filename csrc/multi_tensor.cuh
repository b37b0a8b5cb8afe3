// What the CUDA kernels share: the current stream and device, launch checks, and one launch over a list of tensors. The
// list travels in the kernel's arguments, by value, so that nothing is copied to the device and a CUDA graph keeps it.
//
// Every .cu is compiled once for the host and once per architecture. torch's headers cost more than the kernels, so the
// host's part stands under `#ifndef __CUDA_ARCH__`, and template kernels are instantiated by name outside it.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/headeronly/core/ScalarType.h>

#ifndef __CUDA_ARCH__
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <utility>

#include "ops.h"
#endif

namespace prune {

using torch::headeronly::ScalarType;

constexpr int kThreads = 256;

// Rows per launch: kernel arguments hold 32,764 bytes from CUDA 12.1 on, 4,096 before.
#if CUDART_VERSION >= 12010
constexpr int64_t kArgumentBytes = 32000;
#else
constexpr int64_t kArgumentBytes = 3800;
#endif
constexpr int kFewRows = kArgumentBytes > 4096 ? 64 : 32;

template <class Row, int kRows>
struct Table {  // rows[i] owns chunks first[i] to first[i + 1] - 1
  Row rows[kRows];
  int64_t first[kRows + 1];
  int count;

  __device__ int find(int64_t chunk) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first[middle] <= chunk)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

#ifndef __CUDA_ARCH__

struct Place {  // where kernels are launched: the tensors' device, its current stream
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Place(const Tensor& t) : guard(t.get_device_index()) {
    void* current = nullptr;
    // 0 is success; torch 2.11 has no STABLE_TORCH_ERROR_CODE_CHECK
    expect(aoti_torch_get_current_cuda_stream(t.get_device_index(), &current) == 0, "no current CUDA stream");
    stream = static_cast<cudaStream_t>(current);
  }
};

inline void check(cudaError_t error, const char* what) {
  expect(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

inline int device_attribute(cudaDeviceAttr attribute) {  // of the current device
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

inline int64_t multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

// Whether the current device lets a kernel come before the last one is done.
inline bool overlaps() { return device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9; }

// Launches a kernel in the stream and throws what this launch gave: cudaGetLastError would tell of earlier errors too.
template <class... Parameters, class... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream, const Arguments&... arguments) {
  expect(blocks <= 2147483647, op, ": more than 2^31 - 1 blocks in one launch");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = overlaps() ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), op);
}

// Launches over all rows in slices that fit the kernel's arguments: run(table, blocks), row i taking chunks(i) blocks.
template <int kRows, class Row, class Chunks, class Run>
void in_slices(const std::vector<Row>& rows, const Chunks& chunks, const Run& run) {
  static_assert(sizeof(Table<Row, kRows>) <= 32764);
  Table<Row, kRows> table;
  for (size_t begin = 0; begin < rows.size(); begin += kRows) {
    table.count = static_cast<int>(std::min<size_t>(kRows, rows.size() - begin));
    table.first[0] = 0;
    for (int i = 0; i < table.count; ++i) {
      table.rows[i] = rows[begin + i];
      table.first[i + 1] = table.first[i] + chunks(rows[begin + i]);
    }
    if (table.first[table.count] > 0) run(table, table.first[table.count]);
  }
}

// The same, in one launch with few arguments where there are few rows: a launch takes longer the more it carries.
template <int kRows, class Row, class Chunks, class Run>
void over(const std::vector<Row>& rows, const Chunks& chunks, const Run& run) {
  if (rows.size() <= kFewRows)
    in_slices<kFewRows>(rows, chunks, run);
  else
    in_slices<kRows>(rows, chunks, run);
}

// Elements a block takes, smaller where there is little to do, so that every multiprocessor has some.
inline int64_t chunk_for(int64_t total, int64_t chunk, int64_t small_chunk) {
  return total < 512 * chunk ? small_chunk : chunk;
}

inline void check_cuda(const Tensor& t, const Tensor& like, const char* op, const char* list, size_t i) {
  expect(t.is_cuda() && t.get_device_index() == like.get_device_index(), op, ": ", list, "[", i, "] is on another device");
}

inline bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

#endif  // __CUDA_ARCH__

// Every kernel that is launched with `launch` calls it first: from compute capability 9.0 on a kernel comes to the device
// while the one before it in the stream still runs, and waits here until that one's writes are seen.
__device__ inline void after_the_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

template <class T>
__device__ T warp_sum(T value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (sizeof(T) == 4) return static_cast<T>(__reduce_add_sync(0xffffffffu, static_cast<unsigned>(value)));
#endif
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// The sum over the block, in every thread; `scratch` holds 32 values. All threads call it.
template <class T>
__device__ T block_sum(T value, T* scratch) {
  value = warp_sum(value);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < warps; ++w) sum += scratch[w];
  __syncthreads();
  return sum;
}

// The bits that any thread of the block has, in every thread; `scratch` holds 32 values. All threads call it.
__device__ inline uint64_t block_or(uint64_t value, uint64_t* scratch) {
  for (int step = 16; step > 0; step /= 2) value |= __shfl_xor_sync(0xffffffffu, value, step);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  uint64_t any = 0;
  for (int w = 0; w < warps; ++w) any |= scratch[w];
  __syncthreads();
  return any;
}

// The sum of the threads before this one; `total` becomes the block's sum. `scratch` holds 32 values. All threads call it.
template <class T>
__device__ T block_before(T value, T* scratch, T& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
  T sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(0xffffffffu, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  __syncthreads();
  return before + sum - value;
}

}  // namespace prune

// cub::DeviceTopK (CCCL 3.3 and later) behind a C function, for topk_masks.py: compiled by nvcc at run time.
#include <cub/device/device_topk.cuh>
#include <cuda/stream_ref>

// Writes the k largest of n keys to `out`, in no order. With `workspace` null writes to `bytes` how many it must have.
extern "C" int cub_topk(void* workspace, size_t* bytes, const float* keys, float* out, long long n, long long k, void* stream) {
  namespace execution = cuda::execution;
  auto requirements = execution::require(execution::determinism::not_guaranteed, execution::output_ordering::unsorted);
  auto environment = cuda::std::execution::env{cuda::stream_ref{static_cast<cudaStream_t>(stream)}, requirements};
  return cub::DeviceTopK::MaxKeys(workspace, *bytes, keys, out, static_cast<int>(n), static_cast<int>(k), environment);
}

// pack and unpack on CUDA: one thread per byte of bits.

#include "multi_tensor.cuh"

namespace prune {
namespace {

__global__ void __launch_bounds__(kThreads) pack_kernel(const char* mask, int64_t n, uint8_t* bits) {
  after_the_kernel_before();
  const int64_t byte = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (byte * 8 >= n) return;
  uint32_t value = 0;
  for (int64_t i = byte * 8; i < min(byte * 8 + 8, n); ++i) value |= static_cast<uint32_t>(mask[i] != 0) << (i & 7);
  bits[byte] = static_cast<uint8_t>(value);
}

__global__ void __launch_bounds__(kThreads) unpack_kernel(const uint8_t* bits, int64_t n, char* mask) {
  after_the_kernel_before();
  const int64_t byte = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (byte * 8 >= n) return;
  const uint32_t value = bits[byte];
  for (int64_t i = byte * 8; i < min(byte * 8 + 8, n); ++i) mask[i] = value >> (i & 7) & 1;
}

}  // namespace

#ifndef __CUDA_ARCH__

Tensor pack_cuda(const Tensor& mask) {
  const Place place(mask);
  const Tensor flat = torch::stable::contiguous(mask);
  const View m = view(flat);
  expect(m.type == ScalarType::Bool, "pack: mask is not bool");
  const int64_t bytes = (m.numel + 7) / 8;
  Tensor bits = torch::stable::new_empty(mask, {&bytes, 1}, ScalarType::Byte);
  if (bytes > 0)
    launch("pack", pack_kernel, (bytes + kThreads - 1) / kThreads, kThreads, place.stream, m.data, m.numel, static_cast<uint8_t*>(bits.data_ptr()));
  return bits;
}

Tensor unpack_cuda(const Tensor& bits, const std::vector<int64_t>& shape) {
  const Place place(bits);
  const Tensor flat = torch::stable::contiguous(bits);
  const View b = view(flat);
  int64_t n = 1;
  for (int64_t size : shape) n *= size;
  expect(b.type == ScalarType::Byte && b.dim == 1 && b.numel == (n + 7) / 8, "unpack: bits do not fit the shape");
  Tensor mask = torch::stable::new_empty(bits, {shape.data(), shape.size()}, ScalarType::Bool);
  if (n > 0)
    launch("unpack", unpack_kernel, (b.numel + kThreads - 1) / kThreads, kThreads, place.stream, reinterpret_cast<const uint8_t*>(b.data), n,
           static_cast<char*>(mask.data_ptr()));
  return mask;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) {
  m.impl("pack", TORCH_BOX(&pack_cuda));
  m.impl("unpack", TORCH_BOX(&unpack_cuda));
}

#endif  // __CUDA_ARCH__

}  // namespace prune

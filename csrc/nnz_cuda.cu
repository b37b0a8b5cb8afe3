// nnz on CUDA: one launch over all tensors, one block per chunk, one integer atomic per block.

#include "multi_tensor.cuh"

namespace prune {
namespace {

constexpr int64_t kChunkBytes = 1 << 16;
constexpr int kRows = kArgumentBytes / 48;

struct Row {
  const char* data;
  int64_t bytes;
  int64_t index;  // of the tensor in the list
  ScalarType type;
};

__device__ int count_word(uint32_t word, ScalarType type) {  // nonzeros among 4 bytes
  switch (type) {
    case ScalarType::Float: return (word & 0x7fffffffu) != 0;
    case ScalarType::Bool: return 4 - __popc(__vcmpeq4(word, 0)) / 8;
    case ScalarType::Byte: return __popc(word);
    default: return ((word & 0x7fffu) != 0) + ((word & 0x7fff0000u) != 0);
  }
}

__device__ int count_words(uint4 w, ScalarType type) {
  if (type == ScalarType::Double)
    return ((w.x | (w.y & 0x7fffffffu)) != 0) + ((w.z | (w.w & 0x7fffffffu)) != 0);
  return count_word(w.x, type) + count_word(w.y, type) + count_word(w.z, type) + count_word(w.w, type);
}

__device__ int count_bytes(const char* data, int64_t bytes, ScalarType type) {  // element by element, any alignment to one
  int total = 0;
  const int64_t size = type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4
                       : type == ScalarType::Bool || type == ScalarType::Byte ? 1 : 2;
  for (int64_t at = threadIdx.x * size; at < bytes; at += blockDim.x * size) {
    const char* p = data + at;
    if (size == 8)
      total += (*reinterpret_cast<const uint64_t*>(p) & ~(1ull << 63)) != 0;
    else if (size == 4)
      total += (*reinterpret_cast<const uint32_t*>(p) & 0x7fffffffu) != 0;
    else if (size == 2)
      total += (*reinterpret_cast<const uint16_t*>(p) & 0x7fffu) != 0;
    else
      total += type == ScalarType::Byte ? __popc(*reinterpret_cast<const uint8_t*>(p)) : *p != 0;
  }
  return total;
}

__global__ void __launch_bounds__(kThreads) nnz_kernel(const __grid_constant__ Table<Row, kRows> table, unsigned long long* counts) {
  const int r = table.find(blockIdx.x);
  const Row& row = table.rows[r];
  const int64_t begin = (blockIdx.x - table.first[r]) * kChunkBytes;
  const int64_t bytes = min(kChunkBytes, row.bytes - begin);
  const char* data = row.data + begin;
  int64_t total = 0;
  int64_t vectors = 0;
  if (reinterpret_cast<uintptr_t>(data) % 16 == 0) {
    vectors = bytes / 16;
    for (int64_t i = threadIdx.x; i < vectors; i += blockDim.x) total += count_words(__ldcs(reinterpret_cast<const uint4*>(data) + i), row.type);
  }
  total += count_bytes(data + 16 * vectors, bytes - 16 * vectors, row.type);
  __shared__ int64_t scratch[32];
  total = block_sum(total, scratch);
  if (threadIdx.x == 0 && total != 0) atomicAdd(counts + row.index, static_cast<unsigned long long>(total));
}

}  // namespace

#ifndef __CUDA_ARCH__

Tensor nnz_cuda(const std::vector<Tensor>& tensors) {
  STD_TORCH_CHECK(!tensors.empty(), "nnz: an empty list has no device");
  const Place place(tensors[0]);
  std::vector<Tensor> held;  // contiguous copies live until their kernels are in the stream
  std::vector<Row> rows;
  for (size_t t = 0; t < tensors.size(); ++t) {
    check_cuda(tensors[t], tensors[0], "nnz", "tensors", t);
    held.push_back(torch::stable::contiguous(tensors[t]));
    const View x = view(held.back());
    STD_TORCH_CHECK(is_float(x.type) || x.type == ScalarType::Bool || x.type == ScalarType::Byte,
                    "nnz: tensors[", t, "] has a dtype that cannot be counted");
    const int64_t size = x.type == ScalarType::Double ? 8 : x.type == ScalarType::Float ? 4
                         : x.type == ScalarType::Bool || x.type == ScalarType::Byte ? 1 : 2;
    rows.push_back({x.data, x.numel * size, static_cast<int64_t>(t), x.type});
  }
  const int64_t n = static_cast<int64_t>(tensors.size());
  Tensor counts = torch::stable::new_zeros(tensors[0], {&n, 1}, ScalarType::Long);
  auto* out = static_cast<unsigned long long*>(counts.data_ptr());
  over<kRows>(rows, [](const Row& r) { return (r.bytes + kChunkBytes - 1) / kChunkBytes; }, [&](const auto& table, int64_t blocks) {
    check_blocks(blocks, "nnz");
    nnz_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, place.stream>>>(table, out);
    check_launch("nnz");
  });
  return counts;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("nnz", TORCH_BOX(&nnz_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune

// nnz on CUDA: one launch over all tensors, one block per chunk, one integer atomic per block.

#include "multi_tensor.cuh"

namespace prune {
namespace {

constexpr int kChunkBytes = 1 << 16, kSmallChunkBytes = 1 << 14;

struct Row {
  const char* data;
  int64_t bytes;
  int64_t index;  // of the tensor in the list
  int chunk;      // bytes of a block
  ScalarType type;
};
constexpr int kRows = (kArgumentBytes - 64) / (sizeof(Row) + 8);

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

template <int kTableRows>
__global__ void __launch_bounds__(kThreads) nnz_kernel(const __grid_constant__ Table<Row, kTableRows> table, unsigned long long* counts) {
  constexpr int kAhead = 4;  // reads that are on their way at a time
  after_the_kernel_before();
  const int r = table.find(blockIdx.x);
  const Row& row = table.rows[r];
  const int64_t begin = (blockIdx.x - table.first[r]) * row.chunk;
  const int bytes = static_cast<int>(min(static_cast<int64_t>(row.chunk), row.bytes - begin));
  const char* data = row.data + begin;
  int total = 0, vectors = 0;
  if (reinterpret_cast<uintptr_t>(data) % 16 == 0) {
    vectors = bytes / 16;
    for (int base = static_cast<int>(threadIdx.x); base < vectors; base += kAhead * kThreads) {
      uint4 words[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
        words[j] = base + j * kThreads < vectors ? __ldcs(reinterpret_cast<const uint4*>(data) + base + j * kThreads) : uint4{};
#pragma unroll
      for (int j = 0; j < kAhead; ++j) total += count_words(words[j], row.type);
    }
  }
  total += count_bytes(data + 16 * vectors, bytes - 16 * vectors, row.type);
  __shared__ int scratch[32];
  total = block_sum(total, scratch);
  if (threadIdx.x == 0 && total != 0) atomicAdd(counts + row.index, static_cast<unsigned long long>(total));
}

template __global__ void nnz_kernel<kFewRows>(const __grid_constant__ Table<Row, kFewRows>, unsigned long long*);
template __global__ void nnz_kernel<kRows>(const __grid_constant__ Table<Row, kRows>, unsigned long long*);

}  // namespace

#ifndef __CUDA_ARCH__

Tensor nnz_cuda(const std::vector<Tensor>& tensors) {
  expect(!tensors.empty(), "nnz: an empty list has no device");
  const Place place(tensors[0]);
  std::vector<Tensor> held;  // contiguous copies live until their kernels are in the stream
  std::vector<Row> rows;
  int64_t total = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    check_cuda(tensors[t], tensors[0], "nnz", "tensors", t);
    held.push_back(torch::stable::contiguous(tensors[t]));
    const View x = view(held.back());
    expect(is_float(x.type) || x.type == ScalarType::Bool || x.type == ScalarType::Byte,
           "nnz: tensors[", t, "] has a dtype that cannot be counted");
    const int64_t size = x.type == ScalarType::Double ? 8 : x.type == ScalarType::Float ? 4
                         : x.type == ScalarType::Bool || x.type == ScalarType::Byte ? 1 : 2;
    rows.push_back({x.data, x.numel * size, static_cast<int64_t>(t), kChunkBytes, x.type});
    total += x.numel * size;
  }
  for (Row& row : rows) row.chunk = static_cast<int>(chunk_for(total, kChunkBytes, kSmallChunkBytes));
  const int64_t n = static_cast<int64_t>(tensors.size());
  Tensor counts = torch::stable::new_zeros(tensors[0], {&n, 1}, ScalarType::Long);
  auto* out = static_cast<unsigned long long*>(counts.data_ptr());
  over<kRows>(rows, [](const Row& r) { return (r.bytes + r.chunk - 1) / r.chunk; }, [&]<int kTableRows>(const Table<Row, kTableRows>& table, int64_t blocks) {
    launch("nnz", nnz_kernel<kTableRows>, blocks, kThreads, place.stream, table, out);
  });
  return counts;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("nnz", TORCH_BOX(&nnz_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune

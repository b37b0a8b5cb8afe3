// pack and unpack on the CPU.

#include <cstring>

#include "ops.h"
#include "parallel.h"

namespace prune {
namespace {

constexpr int64_t kChunk = 1 << 16;  // mask entries, a multiple of 8

inline uint8_t pack8(const char* bytes) {  // eight bytes, unequal to 0 or not -> eight bits
  uint64_t word;
  std::memcpy(&word, bytes, 8);
  constexpr uint64_t low = 0x7f7f7f7f7f7f7f7f, ones = 0x0101010101010101;
  word = (((word & low) + low) | word) >> 7 & ones;
  return static_cast<uint8_t>(word * 0x0102040810204080ull >> 56);
}

}  // namespace

Tensor pack_cpu(const Tensor& mask) {
  const View m = view(mask);
  expect(m.type == ScalarType::Bool, "pack: mask is not bool");
  Tensor bits = torch::stable::empty({(m.numel + 7) / 8}, ScalarType::Byte);
  uint8_t* out = static_cast<uint8_t*>(bits.data_ptr());
  share((m.numel + kChunk - 1) / kChunk, threads_for(m.numel, kChunk), [&](int64_t unit, int64_t) {
    const int64_t begin = unit * kChunk, end = std::min(begin + kChunk, m.numel);
    char bytes[8] = {};
    walk(m, begin, end - begin, [&](int64_t j, int64_t offset) {
      bytes[j % 8] = m.data[offset];
      if (j % 8 == 7) out[(begin + j) / 8] = pack8(bytes);
    });
    if (end % 8 != 0) {
      std::fill(bytes + end % 8, bytes + 8, 0);
      out[end / 8] = pack8(bytes);
    }
  });
  return bits;
}

Tensor unpack_cpu(const Tensor& bits, const std::vector<int64_t>& shape) {
  const View b = view(bits);
  int64_t n = 1;
  for (int64_t size : shape) n *= size;
  expect(b.type == ScalarType::Byte && b.dim == 1 && b.numel == (n + 7) / 8, "unpack: bits do not fit the shape");
  Tensor mask = torch::stable::empty({shape.data(), shape.size()}, ScalarType::Bool);
  char* out = static_cast<char*>(mask.data_ptr());
  share((n + kChunk - 1) / kChunk, threads_for(n, kChunk), [&](int64_t unit, int64_t) {
    const int64_t end = std::min((unit + 1) * kChunk, n);
    for (int64_t i = unit * kChunk; i < end; ++i)
      out[i] = static_cast<uint8_t>(b.data[b.offset(i / 8)]) >> (i & 7) & 1;
  });
  return mask;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CPU, m) {
  m.impl("pack", TORCH_BOX(&pack_cpu));
  m.impl("unpack", TORCH_BOX(&unpack_cpu));
}

}  // namespace prune

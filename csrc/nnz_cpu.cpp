// nnz on the CPU: every tensor in fixed chunks, one count per chunk, summed in order.

#include <bit>
#include <cstring>

#include "isa.h"
#include "ops.h"
#include "parallel.h"

namespace prune {
namespace {

constexpr int64_t kChunkBytes = 1 << 18;
constexpr int64_t kStreams = 8;  // places of a chunk read in turn, where little is computed: memory serves several faster

template <class Word>
PRUNE_INLINE int64_t count_words(const char* data, int64_t n, Word bits) {  // words with any of `bits` set
  int64_t total = 0;
  const Word* words = reinterpret_cast<const Word*>(data);
  for (int64_t i = 0; i < n;) {
    const int64_t stop = n - i < (1 << 14) ? n : i + (1 << 14);  // a partial count fits the word's own width
    Word partial = 0;
    for (; i < stop; ++i) partial += (words[i] & bits) != 0;
    total += static_cast<int64_t>(partial);
  }
  return total;
}

PRUNE_INLINE int64_t count_bytes(const char* data, int64_t n) {  // bytes unequal to 0, eight at a time
  constexpr uint64_t low = 0x7f7f7f7f7f7f7f7f, ones = 0x0101010101010101;
  int64_t total = 0, i = 0;
  while (i + 64 <= n) {
    uint64_t lanes[8] = {};
    for (int round = 0; round < 255 && i + 64 <= n; ++round, i += 64) {
      uint64_t words[8];
      std::memcpy(words, data + i, 64);
      for (int j = 0; j < 8; ++j) lanes[j] += ((((words[j] & low) + low) | words[j]) >> 7) & ones;
    }
    for (uint64_t lane : lanes)
      for (int shift = 0; shift < 64; shift += 8) total += (lane >> shift) & 255;
  }
  for (; i < n; ++i) total += data[i] != 0;
  return total;
}

PRUNE_INLINE int64_t count_bits(const char* data, int64_t n) {
  const int64_t part = n / kStreams / 64 * 64;
  int64_t total = 0, sums[kStreams] = {};
  for (int64_t i = 0; i < part; i += 64)
    for (int64_t s = 0; s < kStreams; ++s) {
      uint64_t words[8];
      std::memcpy(words, data + s * part + i, 64);
      for (uint64_t word : words) sums[s] += std::popcount(word);
    }
  for (int64_t sum : sums) total += sum;
  int64_t i = kStreams * part;
  for (uint64_t word; i + 8 <= n; i += 8) {
    std::memcpy(&word, data + i, 8);
    total += std::popcount(word);
  }
  for (; i < n; ++i) total += std::popcount(static_cast<unsigned char>(data[i]));
  return total;
}

#if PRUNE_X86
PRUNE_AVX2 int64_t count_bytes_avx2(const char* data, int64_t n) {  // 32 at a time
  const int64_t part = n / kStreams / 32 * 32;
  const __m256i one = _mm256_set1_epi8(1), zero = _mm256_setzero_si256();
  __m256i sums = zero;
  for (int64_t i = 0; i < part; i += 32)
    for (int64_t s = 0; s < kStreams; ++s) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + s * part + i));
      sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_min_epu8(bytes, one), zero));
    }
  alignas(32) int64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + count_bytes(data + kStreams * part, n - kStreams * part);
}
#endif

PRUNE_INLINE int64_t count_any(const char* data, int64_t n, ScalarType type) {
  switch (type) {
    case ScalarType::Float: return count_words<uint32_t>(data, n, 0x7fffffffu);
    case ScalarType::Double: return count_words<uint64_t>(data, n, ~0ull >> 1);
    case ScalarType::Bool: return count_bytes(data, n);
    case ScalarType::Byte: return count_bits(data, n);
    default: return count_words<uint16_t>(data, n, 0x7fffu);
  }
}

int64_t count_scalar(const char* data, int64_t n, ScalarType type) { return count_any(data, n, type); }
#if PRUNE_X86
PRUNE_AVX2 int64_t count_avx2(const char* data, int64_t n, ScalarType type) {
  return type == ScalarType::Bool ? count_bytes_avx2(data, n) : count_any(data, n, type);
}
PRUNE_AVX512 int64_t count_avx512(const char* data, int64_t n, ScalarType type) {
  return type == ScalarType::Bool ? count_bytes_avx2(data, n) : count_any(data, n, type);
}
#endif

auto* const kCount =
#if PRUNE_X86
    isa() == Isa::avx512 ? count_avx512 : isa() == Isa::avx2 ? count_avx2 :
#endif
                                                              count_scalar;

int64_t size_of(ScalarType type) {
  return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : type == ScalarType::Bool || type == ScalarType::Byte ? 1 : 2;
}

}  // namespace

Tensor nnz_cpu(const std::vector<Tensor>& tensors) {
  struct Unit {
    int64_t tensor, begin, end;
  };
  std::vector<View> all = views(tensors);
  std::vector<Unit> units;
  int64_t bytes = 0;
  for (size_t t = 0; t < all.size(); ++t) {
    expect(is_float(all[t].type) || all[t].type == ScalarType::Bool || all[t].type == ScalarType::Byte,
           "nnz: tensors[", t, "] has a dtype that cannot be counted");
    expect(tensors[t].is_cpu(), "nnz: several devices");
    all[t].flat = all[t].flat || gapless(all[t]);  // a count needs no order
    const int64_t chunk = kChunkBytes / size_of(all[t].type);
    bytes += all[t].numel * size_of(all[t].type);
    for (int64_t i = 0; i < all[t].numel; i += chunk)
      units.push_back({static_cast<int64_t>(t), i, std::min(i + chunk, all[t].numel)});
  }
  std::vector<int64_t> partial(units.size());
  share(units.size(), threads_for(bytes, kChunkBytes), [&](int64_t u, int64_t) {
    const auto [t, begin, end] = units[u];
    const View& x = all[t];
    const int64_t size = size_of(x.type);
    if (x.flat) {
      partial[u] = kCount(x.data + begin * size, end - begin, x.type);
    } else {
      walk(x, begin, end - begin, [&](int64_t, int64_t offset) { partial[u] += count_scalar(x.data + offset * size, 1, x.type); });
    }
  });
  Tensor counts = torch::stable::empty({static_cast<int64_t>(tensors.size())}, ScalarType::Long);
  int64_t* out = counts.mutable_data_ptr<int64_t>();
  std::fill_n(out, tensors.size(), 0);
  for (size_t u = 0; u < units.size(); ++u) out[units[u].tensor] += partial[u];
  return counts;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CPU, m) { m.impl("nnz", TORCH_BOX(&nnz_cpu)); }

}  // namespace prune

// topk_masks on CUDA. One ranking over many weights goes as on the CPU: a sample's histogram brackets the threshold; one
// pass writes the masks, lists what lies strictly inside the bracket and counts, chunk by chunk, what lies on its ends;
// the threshold is then found among the listed, or is an end of the bracket (heavy ties), whose ties are handed out to
// chunks in order. What was listed carries its index in its key, so that the order of appending cannot matter. A sample
// that misled sends one block through everything, digit by digit: exact, and slow. Small rankings take that way at once,
// one block each, all in one launch. Decisions stay on the device: the host never waits, and a CUDA graph keeps it all.

#include "multi_tensor.cuh"

namespace prune {
namespace {

constexpr int kChunk = 8192;         // elements that a block classifies; 32 per thread, one bit each in a register
constexpr int kWide = 1024;          // threads of the kernels that run as one block
constexpr int kSampleBins = 1 << 16; // by a rank's leading 16 bits; magnitudes have no sign, and so one bit more
constexpr int kListBins = 4096;      // over the bracket
constexpr int kRun = 8;              // neighbours sampled together, 32 bytes of floats
constexpr int64_t kOneBlock = 1 << 15;      // a ranking up to this size is one block's work
constexpr int64_t kOneBlockEach = 1 << 18;  // so is one of many, which blocks do side by side
constexpr int kTableRows = (kArgumentBytes - 64) / 56;

template <class Rank>
struct Numbers;
template <>
struct Numbers<int32_t> {
  using Bits = uint32_t;
  static constexpr int32_t kMin = INT32_MIN, kMax = INT32_MAX, kInfinity = 0x7f800000;
};
template <>
struct Numbers<int64_t> {
  using Bits = uint64_t;
  static constexpr int64_t kMin = INT64_MIN, kMax = INT64_MAX, kInfinity = 0x7ff0000000000000;
};
template <class Rank>
constexpr Rank kDead = Numbers<Rank>::kMin;  // what is not alive; NaN ranks one above, every number higher
template <class Rank>
constexpr Rank kNan = Numbers<Rank>::kMin + 1;

struct Row {  // a tensor in its ranking
  const char* x;
  const char* alive;  // null: all are
  char* mask;
  int64_t n;
  int64_t start;  // index of its first element in the ranking
  ScalarType type;
  bool vector;    // addresses are aligned for four elements
};

template <class Rank>
__device__ Rank rank_of_bits(typename Numbers<Rank>::Bits bits, bool magnitude) {
  const Rank size = static_cast<Rank>(bits & static_cast<typename Numbers<Rank>::Bits>(Numbers<Rank>::kMax));
  if (size > Numbers<Rank>::kInfinity) return kNan<Rank>;
  return !magnitude && static_cast<Rank>(bits) < 0 ? -size : size;
}

__device__ uint32_t half_bits(uint16_t h) {  // the bits of the same float
  return __float_as_uint(__half2float(__ushort_as_half(h)));
}

__device__ uint64_t double_bits(uint32_t f) {  // the bits of the same double, denormals kept apart
  const uint64_t sign = static_cast<uint64_t>(f & 0x80000000u) << 32, exponent = f >> 23 & 255, fraction = f & 0x7fffffu;
  if (exponent == 255) return sign | 0x7ff0000000000000ull | fraction << 29;
  if (exponent != 0) return sign | (exponent + 896) << 52 | fraction << 29;
  if (fraction == 0) return sign;
  const int up = __clz(static_cast<int>(fraction)) - 8;
  return sign | static_cast<uint64_t>(897 - up) << 52 | (fraction << up & 0x7fffff) << 29;
}

template <class Rank>
__device__ Rank rank_from_float(uint32_t bits, bool magnitude) {
  if constexpr (sizeof(Rank) == 4)
    return rank_of_bits<Rank>(bits, magnitude);
  else
    return rank_of_bits<Rank>(double_bits(bits), magnitude);
}

template <class Rank>
__device__ Rank rank_at(const Row& row, int64_t i, bool magnitude) {
  if (row.alive != nullptr && row.alive[i] == 0) return kDead<Rank>;
  switch (row.type) {
    case ScalarType::Float: return rank_from_float<Rank>(reinterpret_cast<const uint32_t*>(row.x)[i], magnitude);
    case ScalarType::BFloat16:
      return rank_from_float<Rank>(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(row.x)[i]) << 16, magnitude);
    case ScalarType::Half: return rank_from_float<Rank>(half_bits(reinterpret_cast<const uint16_t*>(row.x)[i]), magnitude);
    default:
      if constexpr (sizeof(Rank) == 8) return rank_of_bits<Rank>(reinterpret_cast<const uint64_t*>(row.x)[i], magnitude);
      return kDead<Rank>;  // doubles are ranked by 64 bits
  }
}

template <class Rank>
__device__ void ranks_at_four(const Row& row, int64_t i, bool magnitude, Rank ranks[4]) {  // row.vector, i % 4 = 0
  if (row.type == ScalarType::Float) {
    const uint4 bits = *reinterpret_cast<const uint4*>(reinterpret_cast<const uint32_t*>(row.x) + i);
    ranks[0] = rank_from_float<Rank>(bits.x, magnitude);
    ranks[1] = rank_from_float<Rank>(bits.y, magnitude);
    ranks[2] = rank_from_float<Rank>(bits.z, magnitude);
    ranks[3] = rank_from_float<Rank>(bits.w, magnitude);
  } else if (row.type != ScalarType::Double) {
    const ushort4 bits = *reinterpret_cast<const ushort4*>(reinterpret_cast<const uint16_t*>(row.x) + i);
    const bool brain = row.type == ScalarType::BFloat16;
    ranks[0] = rank_from_float<Rank>(brain ? static_cast<uint32_t>(bits.x) << 16 : half_bits(bits.x), magnitude);
    ranks[1] = rank_from_float<Rank>(brain ? static_cast<uint32_t>(bits.y) << 16 : half_bits(bits.y), magnitude);
    ranks[2] = rank_from_float<Rank>(brain ? static_cast<uint32_t>(bits.z) << 16 : half_bits(bits.z), magnitude);
    ranks[3] = rank_from_float<Rank>(brain ? static_cast<uint32_t>(bits.w) << 16 : half_bits(bits.w), magnitude);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      ranks[j] = kDead<Rank>;
      if constexpr (sizeof(Rank) == 8) ranks[j] = rank_of_bits<Rank>(reinterpret_cast<const uint64_t*>(row.x)[i + j], magnitude);
    }
  }
  if (row.alive != nullptr) {
    const uint32_t alive = *reinterpret_cast<const uint32_t*>(row.alive + i);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if ((alive >> 8 * j & 255) == 0) ranks[j] = kDead<Rank>;
  }
}

// A listed entry: its rank, then its index from the end, so that larger keys are kept first. 32-bit ranks with 32-bit
// indices make one word; 64-bit ranks (and rankings of 2^32 and more entries) two.
template <class Rank>
struct Entry;
template <>
struct Entry<int32_t> {
  uint64_t key;
  static constexpr int kDigits = 8;
  __device__ static Entry make(int32_t rank, int64_t index) {
    return {static_cast<uint64_t>(static_cast<uint32_t>(rank) ^ 0x80000000u) << 32 | (0xffffffffu - static_cast<uint32_t>(index))};
  }
  __device__ int32_t rank() const { return static_cast<int32_t>(static_cast<uint32_t>(key >> 32) ^ 0x80000000u); }
  __device__ int64_t index() const { return 0xffffffffu - static_cast<uint32_t>(key); }
  __device__ int digit(int d) const { return key >> 8 * (7 - d) & 255; }  // 0 leads
};
template <>
struct Entry<int64_t> {
  uint64_t high, low;
  static constexpr int kDigits = 16;
  __device__ static Entry make(int64_t rank, int64_t index) {
    return {static_cast<uint64_t>(rank) ^ 1ull << 63, ~static_cast<uint64_t>(index)};
  }
  __device__ int64_t rank() const { return static_cast<int64_t>(high ^ 1ull << 63); }
  __device__ int64_t index() const { return static_cast<int64_t>(~low); }
  __device__ int digit(int d) const { return (d < 8 ? high >> 8 * (7 - d) : low >> 8 * (15 - d)) & 255; }
};

enum Mode : int { kUndecided, kListed, kThreshold, kMissed };

template <class Rank>
struct State {  // of one ranking, in device memory, zero at first
  unsigned long long living, inside, close;
  long long keep, close_keep, quota;
  Rank lo, hi, threshold;
  int mode, bin, shift;
  bool all, at_lo;  // all: keep everything alive; at_lo: the threshold's ties are those counted at lo, else at hi
};

struct Tally {
  int above, at_hi, at_lo;
};

template <class Rank>
struct Ranking {  // everything a kernel needs, in its arguments
  const Row* rows;
  const int64_t* first;  // chunks of row i: first[i] to first[i + 1] - 1
  int count;
  int64_t total, chunks, keep;
  bool magnitude, has_alive;
  unsigned* sample;                         // [kSampleBins]
  typename Numbers<Rank>::Bits* sample_top; // [2][kSampleBins]: the largest rank in a bin, and of the complements
  unsigned* list_bins;                      // [kListBins]
  Tally* tallies;                           // [chunks]
  int* quotas;                              // [chunks]
  Entry<Rank>* list;
  Entry<Rank>* close;
  int64_t room, close_room;
  State<Rank>* state;
  unsigned long long* counts;               // of the rows' masks
};

template <class Rank>
__device__ int row_of_chunk(const Ranking<Rank>& k, int64_t chunk) {
  int low = 0, high = k.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (k.first[middle] <= chunk)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <class Rank>
__device__ int row_of_index(const Ranking<Rank>& k, int64_t index) {  // the last row that starts at or before it
  int low = 0, high = k.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (k.rows[middle].start <= index)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <class Rank>
__device__ typename Numbers<Rank>::Bits biased(Rank r) {
  return static_cast<typename Numbers<Rank>::Bits>(r) ^ static_cast<typename Numbers<Rank>::Bits>(Numbers<Rank>::kMin);
}
template <class Rank>
__device__ Rank unbiased(typename Numbers<Rank>::Bits u) {
  return static_cast<Rank>(u ^ static_cast<typename Numbers<Rank>::Bits>(Numbers<Rank>::kMin));
}

// The sample's bin of a rank, and the first rank of a bin.
template <class Rank>
__device__ int sample_bin(Rank rank, bool magnitude) {
  if (magnitude) return rank < 0 ? 0 : static_cast<int>(rank >> (8 * sizeof(Rank) - 17));
  return static_cast<int>(biased(rank) >> (8 * sizeof(Rank) - 16));
}
template <class Rank>
__device__ Rank sample_bin_start(int bin, bool magnitude) {
  using Bits = typename Numbers<Rank>::Bits;
  if (magnitude) return bin == 0 ? kNan<Rank> : static_cast<Rank>(static_cast<Bits>(bin) << (8 * sizeof(Rank) - 17));
  return bin == 0 ? kNan<Rank> : unbiased<Rank>(static_cast<Bits>(bin) << (8 * sizeof(Rank) - 16));
}

struct Upload {
  Row rows[kTableRows];
  int64_t first[kTableRows];
  int count, begin;
};
static_assert(sizeof(Upload) <= 32764);

__global__ void __launch_bounds__(kThreads) upload_kernel(const __grid_constant__ Upload upload, Row* rows, int64_t* first) {
  for (int i = threadIdx.x; i < upload.count; i += blockDim.x) {
    rows[upload.begin + i] = upload.rows[i];
    first[upload.begin + i] = upload.first[i];
  }
}

template <class Rank>
__global__ void __launch_bounds__(kThreads) living_kernel(const Ranking<Rank> k) {
  const int r = row_of_chunk(k, blockIdx.x);
  const Row& row = k.rows[r];
  const int64_t begin = (blockIdx.x - k.first[r]) * int64_t{kChunk}, end = min(begin + kChunk, row.n);
  unsigned long long living = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) living += row.alive[i] != 0;
  __shared__ unsigned long long scratch[32];
  living = block_sum(living, scratch);
  if (threadIdx.x == 0) atomicAdd(&k.state->living, living);
}

template <class Rank>
__global__ void __launch_bounds__(kThreads) sample_kernel(const Ranking<Rank> k, int64_t runs) {
  const int64_t lane = blockIdx.x * int64_t{kThreads} + threadIdx.x, run = lane / kRun;
  if (run >= runs) return;
  const int64_t stratum = k.total / runs;
  const uint64_t hash = (static_cast<uint64_t>(run) + 1) * 0x9e3779b97f4a7c15ull >> 32;
  const int64_t places = stratum / kRun > 0 ? stratum / kRun : 1;
  const int64_t index = run * stratum + static_cast<int64_t>(hash % static_cast<uint64_t>(places)) * kRun + lane % kRun;
  if (index >= k.total) return;
  int r = row_of_index(k, index);
  const Rank rank = rank_at<Rank>(k.rows[r], index - k.rows[r].start, k.magnitude);
  if (rank == kDead<Rank>) return;
  using Word = std::conditional_t<sizeof(Rank) == 4, unsigned, unsigned long long>;
  const Word bits = biased(rank);
  const int bin = sample_bin(rank, k.magnitude);
  Word* top = reinterpret_cast<Word*>(k.sample_top);
  atomicAdd(k.sample + bin, 1u);
  if (__ldcg(top + bin) < bits) atomicMax(top + bin, bits);
  if (__ldcg(top + kSampleBins + bin) < static_cast<Word>(~bits)) atomicMax(top + kSampleBins + bin, static_cast<Word>(~bits));
}

// The bin that holds the want-th from the top (1-based), -1 where there are fewer. One block; all threads call it.
template <int kBins>
__device__ int bin_from_top(const unsigned* bins, long long want, long long* found_above) {
  constexpr int kEach = kBins / kWide;
  __shared__ long long scratch[32];
  __shared__ int bin;
  __shared__ long long above_bin;
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kEach;  // this thread's bins, downwards
  long long sum = 0;
  for (int j = 0; j < kEach; ++j) sum += bins[top - j];
  long long total;
  long long above = block_before(sum, scratch, total);
  if (threadIdx.x == 0) bin = -1;
  __syncthreads();
  if (want >= 1 && above < want && want <= above + sum) {
    for (int j = 0; j < kEach; ++j) {
      if (above + bins[top - j] >= want) {
        bin = top - j;
        above_bin = above;
        break;
      }
      above += bins[top - j];
    }
  }
  __syncthreads();
  const int result = bin;
  if (found_above != nullptr) *found_above = above_bin;
  __syncthreads();
  return result;
}

template <class Rank>
__global__ void __launch_bounds__(kWide) bracket_kernel(const Ranking<Rank> k) {
  State<Rank>& s = *k.state;
  __shared__ long long scratch[32];
  long long sampled = 0;
  for (int i = threadIdx.x; i < kSampleBins; i += kWide) sampled += k.sample[i];
  sampled = block_sum(sampled, scratch);
  const long long living = k.has_alive ? static_cast<long long>(s.living) : k.total;
  const double share = living > 0 ? static_cast<double>(k.keep) / static_cast<double>(living) : 1.0;
  // seven standard deviations of independent samples, because neighbouring weights are alike
  const long long width = static_cast<long long>(7.0 * sqrt(static_cast<double>(sampled) * share * (1.0 - min(share, 1.0)))) + 8;
  const long long middle = static_cast<long long>(share * static_cast<double>(sampled));
  const int top = bin_from_top<kSampleBins>(k.sample, middle - width, nullptr);
  const int bottom = bin_from_top<kSampleBins>(k.sample, middle + width, nullptr);
  if (threadIdx.x != 0) return;
  using Bits = typename Numbers<Rank>::Bits;
  s.keep = k.keep;
  s.all = k.keep >= living;
  Rank lo = kDead<Rank>, hi = Numbers<Rank>::kMax;
  if (k.keep == 0) {
    lo = hi - 1;
  } else if (s.all) {
    lo = kDead<Rank>;
    hi = kNan<Rank>;
  } else {
    // a bin of one value (ties) gives that value; else the bin's outer edge, so that all of it is listed
    if (top >= 0 && top < kSampleBins - 1) {
      const Bits largest = k.sample_top[top], smallest = ~k.sample_top[kSampleBins + top];
      hi = largest == smallest ? unbiased<Rank>(largest) : sample_bin_start<Rank>(top + 1, k.magnitude);
    }
    if (bottom > 0) {
      const Bits largest = k.sample_top[bottom], smallest = ~k.sample_top[kSampleBins + bottom];
      lo = largest == smallest ? unbiased<Rank>(largest) : sample_bin_start<Rank>(bottom, k.magnitude) - 1;
    }
    if (lo >= hi) lo = hi - 1;
  }
  s.lo = lo;
  s.hi = hi;
  const Bits span = biased(hi) - biased(lo);
  int shift = 0;
  while (span >> shift >= kListBins) ++shift;
  s.shift = shift;
}

template <class Rank>
__global__ void __launch_bounds__(kThreads) classify_kernel(const Ranking<Rank> k) {
  const int r = row_of_chunk(k, blockIdx.x);
  const Row row = k.rows[r];
  const int64_t begin = (blockIdx.x - k.first[r]) * int64_t{kChunk};
  const int n = static_cast<int>(min(int64_t{kChunk}, row.n - begin));
  const Rank lo = k.state->lo, hi = k.state->hi;
  int above = 0, at_hi = 0, at_lo = 0;
  uint32_t inside = 0;  // bit 4 * turn + j: element (turn * kThreads + thread) * 4 + j of the chunk
#pragma unroll 2
  for (int turn = 0; turn < kChunk / kThreads / 4; ++turn) {
    const int at = (turn * kThreads + static_cast<int>(threadIdx.x)) * 4;
    if (at >= n) break;
    Rank ranks[4];
    const bool whole = row.vector && at + 4 <= n;
    if (whole) {
      ranks_at_four<Rank>(row, begin + at, k.magnitude, ranks);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) ranks[j] = at + j < n ? rank_at<Rank>(row, begin + at + j, k.magnitude) : kDead<Rank>;
    }
    uint32_t bytes = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool here = at + j < n;
      bytes |= static_cast<uint32_t>(ranks[j] >= hi) << 8 * j;
      above += here && ranks[j] > hi;
      at_hi += here && ranks[j] == hi;
      at_lo += here && ranks[j] == lo;
      inside |= static_cast<uint32_t>(ranks[j] > lo && ranks[j] < hi) << (4 * turn + j);
    }
    if (whole) {
      *reinterpret_cast<uint32_t*>(row.mask + begin + at) = bytes;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (at + j < n) row.mask[begin + at + j] = static_cast<char>(bytes >> 8 * j & 1);
    }
  }
  __shared__ int scratch[32];
  __shared__ unsigned long long base;
  above = block_sum(above, scratch);
  at_hi = block_sum(at_hi, scratch);
  at_lo = block_sum(at_lo, scratch);
  int total;
  const int before = block_before(__popc(inside), scratch, total);
  if (threadIdx.x == 0) {
    k.tallies[blockIdx.x] = {above, at_hi, at_lo};
    if (above + at_hi != 0) atomicAdd(k.counts + r, static_cast<unsigned long long>(above + at_hi));
    base = total == 0 ? 0 : atomicAdd(&k.state->inside, static_cast<unsigned long long>(total));
  }
  __syncthreads();
  int64_t slot = static_cast<int64_t>(base) + before;
  const int shift = k.state->shift;
  for (; inside != 0; inside &= inside - 1, ++slot) {
    if (slot >= k.room) break;  // the ranking will be a miss
    const int bit = __ffs(static_cast<int>(inside)) - 1;
    const int64_t i = begin + ((bit / 4) * kThreads + static_cast<int>(threadIdx.x)) * 4 + bit % 4;
    const Rank rank = rank_at<Rank>(row, i, k.magnitude);
    k.list[slot] = Entry<Rank>::make(rank, row.start + i);
    atomicAdd(k.list_bins + ((biased(rank) - biased(lo)) >> shift), 1u);
  }
}

template <class Rank>
__global__ void __launch_bounds__(kWide) decide_kernel(const Ranking<Rank> k) {
  State<Rank>& s = *k.state;
  __shared__ long long scratch[32];
  long long above = 0, at_hi = 0, at_lo = 0;
  for (int64_t c = threadIdx.x; c < k.chunks; c += kWide) {
    above += k.tallies[c].above;
    at_hi += k.tallies[c].at_hi;
    at_lo += k.tallies[c].at_lo;
  }
  above = block_sum(above, scratch);
  at_hi = block_sum(at_hi, scratch);
  at_lo = block_sum(at_lo, scratch);
  const long long inside = static_cast<long long>(s.inside), rest = s.keep - above - at_hi;
  if (s.keep == 0 || s.all) return;  // classified rightly at once
  if (s.keep > above && rest > 0 && rest <= inside && inside <= k.room) {
    long long listed_above = 0;
    const int bin = bin_from_top<kListBins>(k.list_bins, rest, &listed_above);
    if (threadIdx.x == 0) {
      s.mode = kListed;
      s.bin = bin;
      s.close_keep = rest - listed_above;
    }
    return;
  }
  const bool hi = s.keep > above && rest <= 0, lo = rest > inside && rest <= inside + at_lo;
  if (threadIdx.x == 0) {
    s.mode = hi || lo ? kThreshold : kMissed;
    s.threshold = hi ? s.hi : s.lo;
    s.at_lo = !hi;
  }
  if (!hi && !lo) return;
  long long left = hi ? s.keep - above : rest - inside;  // ties to keep, handed to the chunks in order
  for (int64_t base = 0; base < k.chunks; base += kWide) {
    const int64_t c = base + threadIdx.x;
    const long long ties = c < k.chunks ? (hi ? k.tallies[c].at_hi : k.tallies[c].at_lo) : 0;
    long long total;
    const long long before = block_before(ties, scratch, total);
    if (c < k.chunks) k.quotas[c] = static_cast<int>(max(0ll, min(ties, left - before)));
    left -= total;
  }
}

template <class Rank>
__device__ void keep_entry(const Ranking<Rank>& k, const Entry<Rank>& entry) {
  const int r = row_of_index(k, entry.index());
  k.rows[r].mask[entry.index() - k.rows[r].start] = 1;
  const unsigned active = __activemask(), same = __match_any_sync(active, r);
  if (static_cast<int>(threadIdx.x % 32) == __ffs(static_cast<int>(same)) - 1)
    atomicAdd(k.counts + r, static_cast<unsigned long long>(__popc(same)));
}

template <class Rank>
__global__ void __launch_bounds__(kThreads) settle_listed_kernel(const Ranking<Rank> k) {
  const State<Rank>& s = *k.state;
  if (s.mode != kListed) return;
  const int64_t n = static_cast<int64_t>(s.inside);
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < n; i += gridDim.x * int64_t{kThreads}) {
    const Entry<Rank> entry = k.list[i];
    const int bin = static_cast<int>((biased(entry.rank()) - biased(s.lo)) >> s.shift);
    if (bin > s.bin) {
      keep_entry(k, entry);
    } else if (bin == s.bin) {
      const unsigned long long slot = atomicAdd(&k.state->close, 1ull);
      if (slot < static_cast<unsigned long long>(k.close_room)) k.close[slot] = entry;
    }
  }
}

// The keep-th largest key of the close entries decides the rest. One block.
template <class Rank>
__device__ void settle_close(const Ranking<Rank>& k, int64_t n, long long keep) {
  __shared__ unsigned bins[256];
  __shared__ long long left;
  __shared__ int digits[Entry<Rank>::kDigits];
  if (threadIdx.x == 0) left = keep;
  for (int d = 0; d < Entry<Rank>::kDigits; ++d) {
    for (int b = threadIdx.x; b < 256; b += blockDim.x) bins[b] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const Entry<Rank> entry = k.close[i];
      bool same = true;
      for (int e = 0; e < d; ++e) same = same && entry.digit(e) == digits[e];
      if (same) atomicAdd(bins + entry.digit(d), 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int b = 255;
      while (b > 0 && static_cast<long long>(bins[b]) < left) left -= bins[b--];
      digits[d] = b;
    }
    __syncthreads();
  }
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const Entry<Rank> entry = k.close[i];
    int order = 0;
    for (int d = 0; d < Entry<Rank>::kDigits && order == 0; ++d) order = entry.digit(d) - digits[d];
    if (order >= 0) keep_entry(k, entry);
  }
}

// Ranks rows[first] to rows[last - 1] digit by digit and writes their masks and counts. One block.
template <class Rank>
__device__ void select_alone(const Row* rows, int first, int last, long long keep, bool magnitude, unsigned long long* counts) {
  using Bits = typename Numbers<Rank>::Bits;
  constexpr int kDigits = sizeof(Rank), kAhead = 8;
  __shared__ unsigned long long bins[256];
  __shared__ long long left, scratch[32];
  __shared__ Bits prefix;
  __shared__ int chosen;
  if (threadIdx.x == 0) {
    left = keep;
    prefix = 0;
  }
  bool none = keep == 0;
  for (int d = 0; d < kDigits && !none; ++d) {
    const int shift = 8 * (kDigits - 1 - d);
    for (int b = threadIdx.x; b < 256; b += blockDim.x) bins[b] = 0;
    __syncthreads();
    const Bits wanted = prefix;
    for (int r = first; r < last; ++r) {
      const Row row = rows[r];
      for (int64_t base = threadIdx.x; base < row.n; base += int64_t{kAhead} * blockDim.x) {
        Rank ranks[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          const int64_t i = base + int64_t{j} * blockDim.x;
          ranks[j] = i < row.n ? rank_at<Rank>(row, i, magnitude) : kDead<Rank>;
        }
#pragma unroll
        for (int j = 0; j < kAhead; ++j) {
          const Bits bits = biased(ranks[j]);
          if (ranks[j] != kDead<Rank> && (d == 0 || bits >> (shift + 8) == wanted)) atomicAdd(bins + (bits >> shift & 255), 1ull);
        }
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      long long living = 0;
      if (d == 0) {
        for (int b = 0; b < 256; ++b) living += static_cast<long long>(bins[b]);
        left = min(left, living);
      }
      int b = 255;
      while (b > 0 && static_cast<long long>(bins[b]) < left) left -= static_cast<long long>(bins[b--]);
      prefix = prefix << 8 | static_cast<Bits>(b);
      chosen = left > 0;
    }
    __syncthreads();
    none = chosen == 0;  // nothing is alive
  }
  const Rank threshold = none ? Numbers<Rank>::kMax : unbiased<Rank>(prefix);
  long long quota = none ? 0 : left;
  for (int r = first; r < last; ++r) {
    const Row row = rows[r];
    long long kept = 0;
    for (int64_t base = 0; base < row.n; base += blockDim.x) {
      const int64_t i = base + threadIdx.x;
      const Rank rank = i < row.n ? rank_at<Rank>(row, i, magnitude) : kDead<Rank>;
      const bool tie = rank == threshold && rank != kDead<Rank>;
      bool keeps = rank > threshold;
      if (__syncthreads_or(tie && quota > 0)) {
        long long total;
        const long long before = block_before(static_cast<long long>(tie), scratch, total);
        keeps = keeps || (tie && before < quota);
        quota -= min(quota, total);
      }
      if (i < row.n) row.mask[i] = keeps;
      kept += keeps;
    }
    kept = block_sum(kept, scratch);
    if (threadIdx.x == 0) counts[r] = static_cast<unsigned long long>(kept);
  }
}

template <class Rank>
__global__ void __launch_bounds__(kWide) settle_rest_kernel(const Ranking<Rank> k) {
  const State<Rank>& s = *k.state;
  const int mode = s.mode;
  const int64_t close = static_cast<int64_t>(s.close);
  if (mode == kListed && close <= k.close_room)
    settle_close(k, close, s.close_keep);
  else if (mode == kListed || mode == kMissed)
    select_alone<Rank>(k.rows, 0, k.count, s.keep, k.magnitude, k.counts);
}

template <class Rank>
__global__ void __launch_bounds__(kThreads, 4) settle_ties_kernel(const Ranking<Rank> k) {
  const State<Rank>& s = *k.state;
  if (s.mode != kThreshold) return;
  const Tally tally = k.tallies[blockIdx.x];
  const int ties = s.at_lo ? tally.at_lo : tally.at_hi;
  int quota = k.quotas[blockIdx.x];
  if (!s.at_lo && quota == ties) return;  // the mask holds them all already
  const int r = row_of_chunk(k, blockIdx.x);
  const Row row = k.rows[r];
  const int64_t begin = (blockIdx.x - k.first[r]) * int64_t{kChunk}, end = min(begin + kChunk, row.n);
  const Rank threshold = s.threshold;
  __shared__ int scratch[32];
  int kept = 0;
  if (quota == 0 || quota == ties) {  // no order to keep: above the threshold, with all of its ties or none
    const Rank at_least = quota == 0 ? threshold + 1 : threshold;
    for (int64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * kThreads) {
      Rank ranks[4];
      const bool whole = row.vector && i + 4 <= end;
      if (whole) ranks_at_four<Rank>(row, i, k.magnitude, ranks);
      uint32_t bytes = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (!whole) ranks[j] = i + j < end ? rank_at<Rank>(row, i + j, k.magnitude) : kDead<Rank>;
        const bool keeps = ranks[j] >= at_least;
        bytes |= static_cast<uint32_t>(keeps) << 8 * j;
        kept += keeps;
      }
      if (whole) {
        *reinterpret_cast<uint32_t*>(row.mask + i) = bytes;
      } else {
        for (int j = 0; j < 4 && i + j < end; ++j) row.mask[i + j] = static_cast<char>(bytes >> 8 * j & 1);
      }
    }
  } else {
    for (int64_t base = begin; base < end; base += kThreads) {
      const int64_t i = base + threadIdx.x;
      const Rank rank = i < end ? rank_at<Rank>(row, i, k.magnitude) : kDead<Rank>;
      const int tie = i < end && rank == threshold;
      int total;
      const int before = block_before(tie, scratch, total);
      const bool keeps = rank > threshold || (tie && before < quota);
      quota -= min(quota, total);
      if (i < end) row.mask[i] = keeps;
      kept += keeps;
    }
  }
  kept = block_sum(kept, scratch);
  const int counted = tally.above + tally.at_hi;
  if (threadIdx.x == 0 && kept != counted)
    atomicAdd(k.counts + r, static_cast<unsigned long long>(static_cast<long long>(kept - counted)));
}

struct Alone {
  int first, last;
  long long keep;
  bool wide;
};
constexpr int kAloneRows = kArgumentBytes / 24;
struct Alones {
  Alone groups[kAloneRows];
};

__global__ void __launch_bounds__(kWide) alone_kernel(const __grid_constant__ Alones alones, const Row* rows, bool magnitude, unsigned long long* counts) {
  const Alone& group = alones.groups[blockIdx.x];
  if (group.wide)
    select_alone<int64_t>(rows, group.first, group.last, group.keep, magnitude, counts);
  else
    select_alone<int32_t>(rows, group.first, group.last, group.keep, magnitude, counts);
}

#define PRUNE_KERNELS(Rank)                                                \
  template __global__ void living_kernel<Rank>(const Ranking<Rank>);         \
  template __global__ void sample_kernel<Rank>(const Ranking<Rank>, int64_t); \
  template __global__ void bracket_kernel<Rank>(const Ranking<Rank>);        \
  template __global__ void classify_kernel<Rank>(const Ranking<Rank>);       \
  template __global__ void decide_kernel<Rank>(const Ranking<Rank>);         \
  template __global__ void settle_listed_kernel<Rank>(const Ranking<Rank>);  \
  template __global__ void settle_rest_kernel<Rank>(const Ranking<Rank>);    \
  template __global__ void settle_ties_kernel<Rank>(const Ranking<Rank>);
PRUNE_KERNELS(int32_t)
PRUNE_KERNELS(int64_t)

}  // namespace

#ifndef __CUDA_ARCH__

namespace {

int64_t chunks_of(const Row& row) { return (row.n + kChunk - 1) / kChunk; }

// Carves typed arrays, zero at first, out of one allocation.
class Memory {
 public:
  template <class T>
  T* take(T*& pointer, int64_t n) {
    size_ = (size_ + 15) / 16 * 16;
    wishes_.push_back({reinterpret_cast<void**>(&pointer), size_});
    size_ += n * static_cast<int64_t>(sizeof(T));
    return nullptr;
  }
  Tensor allocate(const Tensor& like, int64_t zeroed, cudaStream_t stream) {
    Tensor bytes = torch::stable::new_empty(like, {&size_, 1}, ScalarType::Byte);
    char* base = static_cast<char*>(bytes.data_ptr());
    for (auto& [pointer, offset] : wishes_) *pointer = base + offset;
    if (zeroed > 0) check(cudaMemsetAsync(base, 0, zeroed, stream), "topk_masks");
    return bytes;
  }
  int64_t size() const { return size_; }

 private:
  std::vector<std::pair<void**, int64_t>> wishes_;
  int64_t size_ = 0;
};

template <class Rank>
void rank_many(const std::vector<Row>& host, const Row* rows, const int64_t* first, int begin, int end, int64_t keep,
               bool magnitude, bool has_alive, unsigned long long* counts, const Tensor& like, cudaStream_t stream) {
  Ranking<Rank> k{};
  k.rows = rows + begin;
  k.first = first + begin;
  k.count = end - begin;
  k.keep = keep;
  k.magnitude = magnitude;
  k.has_alive = has_alive;
  k.counts = counts + begin;
  for (int i = begin; i < end; ++i) {
    k.total += host[i].n;
    k.chunks += chunks_of(host[i]);
  }
  check_blocks(k.chunks, "topk_masks");
  int64_t sampled = int64_t{1} << 16;
  while (sampled < k.total / 128 && sampled < int64_t{1} << 21) sampled *= 2;
  const int64_t runs = std::max<int64_t>(std::min(sampled, k.total) / kRun, 1);
  k.room = std::min(k.total, std::max<int64_t>((5 << 20) / static_cast<int64_t>(sizeof(Entry<Rank>)), k.total / 120));
  k.close_room = std::max<int64_t>(k.room / 8, std::min<int64_t>(k.total, 4096));
  Memory memory;
  memory.take(k.state, 1);
  memory.take(k.sample, kSampleBins);
  memory.take(k.sample_top, 2 * kSampleBins);
  memory.take(k.list_bins, kListBins);
  const int64_t zeroed = memory.size();
  memory.take(k.tallies, k.chunks);
  memory.take(k.quotas, k.chunks);
  memory.take(k.list, k.room);
  memory.take(k.close, k.close_room);
  const Tensor bytes = memory.allocate(like, zeroed, stream);  // freed to the stream: a later ranking may reuse it
  const unsigned chunks = static_cast<unsigned>(k.chunks);
  if (k.has_alive) living_kernel<Rank><<<chunks, kThreads, 0, stream>>>(k);
  check_launch("topk_masks living");
  sample_kernel<Rank><<<static_cast<unsigned>((runs * kRun + kThreads - 1) / kThreads), kThreads, 0, stream>>>(k, runs);
  check_launch("topk_masks sample");
  bracket_kernel<Rank><<<1, kWide, 0, stream>>>(k);
  check_launch("topk_masks bracket");
  classify_kernel<Rank><<<chunks, kThreads, 0, stream>>>(k);
  check_launch("topk_masks classify");
  decide_kernel<Rank><<<1, kWide, 0, stream>>>(k);
  check_launch("topk_masks decide");
  settle_listed_kernel<Rank><<<256, kThreads, 0, stream>>>(k);
  check_launch("topk_masks settle listed");
  settle_rest_kernel<Rank><<<1, kWide, 0, stream>>>(k);
  check_launch("topk_masks settle rest");
  settle_ties_kernel<Rank><<<chunks, kThreads, 0, stream>>>(k);
  check_launch("topk_masks settle ties");
}

}  // namespace

Tensor topk_masks_cuda(const std::vector<Tensor>& tensors, const std::vector<int64_t>& keep, bool magnitude,
                       const std::vector<Tensor>& alive, const std::vector<Tensor>& out) {
  const int n = static_cast<int>(tensors.size());
  STD_TORCH_CHECK(n > 0 && out.size() == tensors.size() && (alive.empty() || alive.size() == tensors.size()),
                  "topk_masks: lists of unlike lengths");
  const Place place(tensors[0]);
  const bool alone = n == 1 || keep.size() != 1;
  STD_TORCH_CHECK(keep.size() == static_cast<size_t>(alone ? n : 1), "topk_masks: keep has ", keep.size(), " counts for ", n, " tensors");
  std::vector<Tensor> held;
  std::vector<std::pair<Tensor, Tensor>> back;  // strided masks are written through contiguous ones
  std::vector<Row> rows;
  std::vector<int64_t> first{0};
  const auto contiguous = [&](const Tensor& t) {
    held.push_back(torch::stable::contiguous(t));
    return static_cast<char*>(held.back().data_ptr());
  };
  int64_t start = 0;
  bool any_wide = false;
  for (int t = 0; t < n; ++t) {
    const View x = view(tensors[t]), m = view(out[t]);
    STD_TORCH_CHECK(is_float(x.type), "topk_masks: tensors[", t, "] is no floating-point tensor");
    STD_TORCH_CHECK(m.type == ScalarType::Bool && same_shape(m, x), "topk_masks: out[", t, "] does not fit");
    check_cuda(tensors[t], tensors[0], "topk_masks", "tensors", t);
    check_cuda(out[t], tensors[0], "topk_masks", "out", t);
    Row row{};
    row.x = contiguous(tensors[t]);
    row.mask = contiguous(out[t]);
    if (!m.flat) back.push_back({out[t], held.back()});
    if (!alive.empty()) {
      const View a = view(alive[t]);
      STD_TORCH_CHECK(a.type == ScalarType::Bool && same_shape(a, x), "topk_masks: alive[", t, "] does not fit");
      check_cuda(alive[t], tensors[0], "topk_masks", "alive", t);
      row.alive = contiguous(alive[t]);
    }
    row.n = x.numel;
    row.start = alone ? 0 : start;
    row.type = x.type;
    row.vector = aligned(row.x, x.type == ScalarType::Float ? 16 : 8) && aligned(row.mask, 4) && aligned(row.alive, 4);
    start += x.numel;
    any_wide = any_wide || x.type == ScalarType::Double;
    rows.push_back(row);
    first.push_back(alone ? 0 : first.back() + chunks_of(row));
    if (alone) STD_TORCH_CHECK(keep[t] >= 0 && keep[t] <= x.numel, "topk_masks: keep is ", keep[t], " of ", x.numel);
  }
  if (!alone) STD_TORCH_CHECK(keep[0] >= 0 && keep[0] <= start, "topk_masks: keep is ", keep[0], " of ", start);
  const int64_t count = n;
  Tensor counts = torch::stable::new_zeros(tensors[0], {&count, 1}, ScalarType::Long);
  auto* kept = static_cast<unsigned long long*>(counts.data_ptr());

  Memory memory;
  Row* device_rows = nullptr;
  int64_t* device_first = nullptr;
  memory.take(device_rows, n);
  memory.take(device_first, n);
  held.push_back(memory.allocate(tensors[0], 0, place.stream));
  Upload upload;
  for (int begin = 0; begin < n; begin += kTableRows) {
    upload.begin = begin;
    upload.count = std::min(kTableRows, n - begin);
    std::copy_n(rows.begin() + begin, upload.count, upload.rows);
    std::copy_n(first.begin() + begin, upload.count, upload.first);
    upload_kernel<<<1, kThreads, 0, place.stream>>>(upload, device_rows, device_first);
    check_launch("topk_masks upload");
  }
  const auto many = [&](int begin, int end, int64_t k, bool wide) {
    if (wide)
      rank_many<int64_t>(rows, device_rows, device_first, begin, end, k, magnitude, !alive.empty(), kept, tensors[0], place.stream);
    else
      rank_many<int32_t>(rows, device_rows, device_first, begin, end, k, magnitude, !alive.empty(), kept, tensors[0], place.stream);
  };
  std::vector<Alone> small;
  if (alone) {
    for (int t = 0; t < n; ++t) {
      const bool wide = rows[t].type == ScalarType::Double || rows[t].n >= int64_t{1} << 32;
      if (rows[t].n > kOneBlockEach)
        many(t, t + 1, keep[t], wide);
      else
        small.push_back({t, t + 1, keep[t], wide});
    }
  } else if (start > kOneBlock) {
    many(0, n, keep[0], any_wide || start >= int64_t{1} << 32);
  } else {
    small.push_back({0, n, keep[0], any_wide});
  }
  Alones alones;
  for (size_t begin = 0; begin < small.size(); begin += kAloneRows) {
    const size_t some = std::min<size_t>(kAloneRows, small.size() - begin);
    std::copy_n(small.begin() + begin, some, alones.groups);
    alone_kernel<<<static_cast<unsigned>(some), kWide, 0, place.stream>>>(alones, device_rows, magnitude, kept);
    check_launch("topk_masks alone");
  }
  for (auto& [to, from] : back) torch::stable::copy_(to, from);
  return counts;
}

STABLE_TORCH_LIBRARY_IMPL(prune, CUDA, m) { m.impl("topk_masks", TORCH_BOX(&topk_masks_cuda)); }

#endif  // __CUDA_ARCH__

}  // namespace prune

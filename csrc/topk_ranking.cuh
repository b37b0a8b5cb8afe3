// One ranking over many weights, as the kernels of topk_masks share it: its rows and chunks, what was decided so far, and
// what several kernels do alike: counting by digits, finding a place from the top, and knowing who finishes last.

#pragma once

#include "topk_ranks.cuh"

namespace prune {
namespace {

constexpr int kDigitBits = 11, kDigitBins = 1 << kDigitBits;
template <class Rank>
constexpr int kDigits = sizeof(Rank) == 4 ? 3 : 6;  // 11 + 11 + 10 bits, or 5 * 11 + 9
constexpr int kListBins = 4096;                     // over the bracket

// How far to shift a rank for the digit d, the leading one first, and how many values it has.
template <class Rank>
__device__ int digit_shift(int d) {
  const int shift = static_cast<int>(8 * sizeof(Rank)) - kDigitBits * (d + 1);
  return shift > 0 ? shift : 0;
}
template <class Rank>
__device__ int digit_of(Bits<Rank> bits, int d) {
  const int shift = digit_shift<Rank>(d), width = d + 1 < kDigits<Rank> ? kDigitBits : static_cast<int>(8 * sizeof(Rank)) - kDigitBits * d;
  return static_cast<int>(bits >> shift) & ((1 << width) - 1);
}

// A listed entry: its rank, then its index from the end, so that larger keys are kept first. 32-bit ranks with 32-bit
// indices make one word; 64-bit ranks (and rankings of 2^32 and more entries) two.
template <class Rank>
struct Entry;
template <>
struct Entry<int32_t> {
  uint64_t key;
  static constexpr int kBytes = 8;
  __device__ static Entry make(int32_t rank, int64_t index) {
    return {static_cast<uint64_t>(biased(rank)) << 32 | (0xffffffffu - static_cast<uint32_t>(index))};
  }
  __device__ int32_t rank() const { return unbiased<int32_t>(static_cast<uint32_t>(key >> 32)); }
  __device__ int64_t index() const { return 0xffffffffu - static_cast<uint32_t>(key); }
  __device__ int byte(int d) const { return key >> 8 * (7 - d) & 255; }  // 0 leads
  __device__ bool operator>(const Entry& other) const { return key > other.key; }
};
template <>
struct Entry<int64_t> {
  uint64_t high, low;
  static constexpr int kBytes = 16;
  __device__ static Entry make(int64_t rank, int64_t index) { return {biased(rank), ~static_cast<uint64_t>(index)}; }
  __device__ int64_t rank() const { return unbiased<int64_t>(high); }
  __device__ int64_t index() const { return static_cast<int64_t>(~low); }
  __device__ int byte(int d) const { return (d < 8 ? high >> 8 * (7 - d) : low >> 8 * (15 - d)) & 255; }
  __device__ bool operator>(const Entry& other) const { return high != other.high ? high > other.high : low > other.low; }
};

// kDone: the masks stand. kListed: those of the list that rank high enough are still to be kept. kThreshold: what equals
// the threshold is still to be handed out. kMissed: the bracket does not hold the threshold.
enum Mode : int { kDone, kListed, kThreshold, kMissed };

template <class Rank>
struct State {  // of one ranking, in device memory, zero at first
  unsigned long long above, at_hi, at_lo, inside, close, sampled;
  long long want[2];       // the bracket's ends as places from the top among what has their leading digits; 0: none
  long long close_keep, quota;
  Bits<Rank> leading[2];   // their digits so far
  Rank lo, hi, threshold;
  unsigned finished[8];    // blocks of each kernel
  int mode, bin, shift;
  bool at_low_end;         // the threshold's ties are those counted at lo, else at hi
};

struct Tally {  // of a chunk
  int above, at_hi, at_lo;
};

struct Chunk {
  int row, number;  // its place within the row
};

template <class Rank>
struct Ranking {  // everything a kernel needs, in its arguments
  const Row* rows;
  const Chunk* chunk;  // [chunks]
  int count;
  int64_t total, chunks, keep;
  bool magnitude;
  int64_t runs;          // sampled runs of four neighbours; 0: the sample is everything
  Bits<Rank>* sample;    // biased ranks, in the memory of `list`
  int64_t sample_size;   // room of the sample, dead entries and gaps included
  unsigned* digits;      // [kDigits][2][kDigitBins]
  unsigned* list_bins;   // [kListBins]
  Tally* tallies;        // [chunks]
  int* quotas;           // [chunks]
  Entry<Rank>* list;
  Entry<Rank>* close;
  int64_t room, close_room;
  State<Rank>* state;
  unsigned long long* counts;  // of the rows' masks
};

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

// Adds one to bins[bin] for every lane that counts; lanes that agree with the first add together, because ties are
// common and would queue up for one bin. All lanes of the warp call it.
__device__ inline void count_in(unsigned* bins, int bin, bool counts) {
  const unsigned all = __ballot_sync(0xffffffffu, counts);
  if (all == 0) return;
  const int leader = __ffs(static_cast<int>(all)) - 1, first = __shfl_sync(0xffffffffu, bin, leader);
  const unsigned same = __ballot_sync(0xffffffffu, counts && bin == first);
  if (static_cast<int>(threadIdx.x % 32) == leader)
    atomicAdd(bins + first, static_cast<unsigned>(__popc(same)));
  else if (counts && bin != first)
    atomicAdd(bins + bin, 1u);
}

struct Found {
  int bin;          // -1: there are fewer
  long long above;  // what the bins above hold
};

// The bin with the want-th from the top, 1 being the first. The whole block calls it, kBins a multiple of its size.
template <int kBins, class Count>
__device__ Found from_top(const Count& count, long long want) {
  __shared__ long long scratch[32];
  __shared__ Found found;
  const int each = kBins / static_cast<int>(blockDim.x);
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * each;  // this thread's bins, downwards
  long long sum = 0;
  for (int j = 0; j < each; ++j) sum += count(top - j);
  if (threadIdx.x == 0) found = {-1, 0};
  long long total, above = block_before(sum, scratch, total);  // waits for the line before
  if (want >= 1 && above < want && want <= above + sum) {
    for (int j = 0; j < each; ++j) {
      const long long here = count(top - j);
      if (above + here >= want) {
        found = {top - j, above};
        break;
      }
      above += here;
    }
  }
  __syncthreads();
  const Found result = found;
  __syncthreads();
  return result;
}

// Whether this block is the last of the grid to come here; what the others wrote before is then seen. All threads call it.
__device__ inline bool last_block(unsigned* finished) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(finished, 1u) == gridDim.x - 1;
  __syncthreads();
  if (last) __threadfence();
  return last;
}

}  // namespace
}  // namespace prune

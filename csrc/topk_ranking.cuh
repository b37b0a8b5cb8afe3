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

// How far to shift a rank for the digit d, the leading one being 0, and how many bits it has.
template <class Rank>
__device__ int digit_shift(int d) {
  const int shift = static_cast<int>(8 * sizeof(Rank)) - kDigitBits * (d + 1);
  return shift > 0 ? shift : 0;
}
template <class Rank>
__device__ int digit_width(int d) {
  return d + 1 < kDigits<Rank> ? kDigitBits : static_cast<int>(8 * sizeof(Rank)) - kDigitBits * d;
}
template <class Rank>
__device__ int digit_of(Bits<Rank> bits, int d) {
  return static_cast<int>(bits >> digit_shift<Rank>(d)) & ((1 << digit_width<Rank>(d)) - 1);
}

// A listed entry: its rank, then its index from the end, so that larger keys are kept first. 32-bit ranks with 32-bit
// indices make one word; 64-bit ranks (and rankings of 2^32 and more entries) two.
template <class Rank>
struct Entry;
template <>
struct Entry<int32_t> {
  uint64_t key;
  static constexpr int kWords = 1;
  __device__ static Entry make(int32_t rank, int64_t index) {
    return {static_cast<uint64_t>(biased(rank)) << 32 | (0xffffffffu - static_cast<uint32_t>(index))};
  }
  __device__ int32_t rank() const { return unbiased<int32_t>(static_cast<uint32_t>(key >> 32)); }
  __device__ int64_t index() const { return 0xffffffffu - static_cast<uint32_t>(key); }
  __device__ uint64_t word(int) const { return key; }
  __device__ bool operator>(const Entry& other) const { return key > other.key; }
};
template <>
struct Entry<int64_t> {
  uint64_t high, low;
  static constexpr int kWords = 2;
  __device__ static Entry make(int64_t rank, int64_t index) { return {biased(rank), ~static_cast<uint64_t>(index)}; }
  __device__ int64_t rank() const { return unbiased<int64_t>(high); }
  __device__ int64_t index() const { return static_cast<int64_t>(~low); }
  __device__ uint64_t word(int w) const { return w == 0 ? high : low; }  // 0 leads
  __device__ bool operator>(const Entry& other) const { return high != other.high ? high > other.high : low > other.low; }
};

template <class Rank>
struct Ends {             // of the bracket, as far as they are known: [0] above the threshold, [1] below
  long long want[2];      // their places from the top among what has their leading digits; 0: infinity, -1: what is dead
  Bits<Rank> leading[2];  // their digits so far
  long long sharing[2];   // how many of the sample have these digits

  __device__ bool joined() const { return want[0] > 0 && want[1] > 0 && leading[0] == leading[1]; }  // so far
};

template <class Rank>
struct State {  // of one ranking, in device memory, zero at first
  alignas(64) unsigned long long inside;  // what every chunk adds to, away from what is only read
  alignas(64) unsigned long long above, at_hi, at_lo, close, sampled;
  Ends<Rank> ends[kDigits<Rank>];  // after so many digits
  Rank lo, hi;
  unsigned finished;               // blocks of the last kernel
  int shift;                       // of a rank above lo, to its bin of the list
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
  Entry<Rank>* list;
  Entry<Rank>* close;
  int64_t room, close_room;
  State<Rank>* state;
  unsigned long long* counts;  // of the rows' masks
};

// Finds the row of an index: the last that starts at or before it. The starts are kept in shared memory where they fit.
template <class Rank>
struct Search {
  static constexpr int kRows = 256;
  const Ranking<Rank>& k;
  int64_t* starts;  // [kRows], shared

  __device__ void prepare() const {  // before a barrier
    if (k.count > kRows) return;
    for (int r = threadIdx.x; r < k.count; r += blockDim.x) starts[r] = k.rows[r].start;
  }
  __device__ int operator()(int64_t index) const {
    int low = 0, high = k.count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if ((k.count > kRows ? k.rows[middle].start : starts[middle]) <= index)
        low = middle;
      else
        high = middle;
    }
    return low;
  }
};

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
  long long here;   // what it holds itself
};

// The bins with the want[w]-th from the top, 1 being the first, among counts of which each thread holds kEach neighbours:
// thread t those from (threads - 1 - t) * kEach on. The whole block calls it.
template <int kEach, int kWants, class Count>
__device__ void from_top(const Count (&counts)[kWants][kEach], const long long (&want)[kWants], Found (&found)[kWants]) {
  __shared__ long long scratch[32];
  __shared__ Found shared[kWants];
  const int first = (static_cast<int>(blockDim.x) - 1 - static_cast<int>(threadIdx.x)) * kEach;
  if (threadIdx.x < kWants) shared[threadIdx.x] = {-1, 0, 0};
#pragma unroll
  for (int w = 0; w < kWants; ++w) {
    long long sum = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) sum += static_cast<long long>(counts[w][j]);
    long long total, above = block_before(sum, scratch, total);  // waits for the line before
    if (want[w] >= 1 && above < want[w] && want[w] <= above + sum) {
#pragma unroll
      for (int j = kEach - 1; j >= 0; --j) {
        const long long here = static_cast<long long>(counts[w][j]);
        if (above < want[w] && above + here >= want[w]) shared[w] = {first + j, above, here};
        above += here;
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWants; ++w) found[w] = shared[w];
  __syncthreads();
}

// Reads kEach neighbouring bins.
template <int kEach>
__device__ void read_bins(const unsigned* bins, unsigned (&counts)[kEach]) {
  const int first = (static_cast<int>(blockDim.x) - 1 - static_cast<int>(threadIdx.x)) * kEach;
  static_assert(kEach % 4 == 0);
#pragma unroll
  for (int j = 0; j < kEach; j += 4) {
    const uint4 four = *reinterpret_cast<const uint4*>(bins + first + j);
    counts[j] = four.x;
    counts[j + 1] = four.y;
    counts[j + 2] = four.z;
    counts[j + 3] = four.w;
  }
}

// The ends after d digits, from the counts of the last of them. Every block calls it at its start, for itself: that takes
// less time than one block that waits for all others and is waited for by all others.
template <class Rank>
__device__ Ends<Rank> ends_after(const Ranking<Rank>& k, int d) {
  Ends<Rank> ends{};
  if (d == 1) {
    const double share = static_cast<double>(k.keep) / static_cast<double>(k.total);
    const double sampled = k.runs == 0 ? static_cast<double>(k.total) : static_cast<double>(k.state->sampled);
    // seven standard deviations of independent samples, because neighbouring weights are alike
    const long long width = k.runs == 0 ? 0 : static_cast<long long>(7.0 * sqrt(sampled * share * (1.0 - share))) + 8;
    const long long middle = k.runs == 0 ? k.keep : static_cast<long long>(share * sampled);
    ends.want[0] = max(middle - width, 0ll);
    ends.want[1] = middle + width;
  } else {
    ends = k.state->ends[d - 1];
  }
  constexpr int kEach = kDigitBins / kThreads;
  const unsigned* bins = k.digits + 2 * (d - 1) * kDigitBins;
  unsigned counts[2][kEach];
  read_bins(bins, counts[0]);
  read_bins(bins + (d == 1 || ends.joined() ? 0 : kDigitBins), counts[1]);
  Found found[2];
  from_top(counts, ends.want, found);
#pragma unroll
  for (int end = 0; end < 2; ++end) {
    if (found[end].bin >= 0) {
      ends.want[end] -= found[end].above;
      ends.sharing[end] = found[end].here;
      ends.leading[end] = ends.leading[end] << digit_width<Rank>(d - 1) | static_cast<Bits<Rank>>(found[end].bin);
    } else if (d == 1) {  // above the sample's top there is no end but infinity, below its bottom none but what is dead
      ends.want[end] = ends.want[end] < 1 ? 0 : -1;
    }
  }
  if (d < kDigits<Rank> && blockIdx.x == 0 && threadIdx.x == 0) k.state->ends[d] = ends;
  return ends;
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

// One ranking over many weights, as the kernels of topk_masks share it: its rows and chunks, what was listed, what was decided.

#pragma once

#include "topk_ranks.cuh"

namespace prune {
namespace {

constexpr int kChunk = 8192;         // elements that a block classifies; 32 per thread, one bit each in a register
constexpr int kWide = 1024;          // threads of the kernels that run as one block
constexpr int kSampleBins = 1 << 16; // by a rank's leading 16 bits; magnitudes have no sign, and so one bit more
constexpr int kListBins = 4096;      // over the bracket
constexpr int kRun = 8;              // neighbours sampled together, 32 bytes of floats

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

}  // namespace
}  // namespace prune

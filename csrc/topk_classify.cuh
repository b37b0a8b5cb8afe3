// The first half of topk_masks on CUDA: a sample brackets the threshold, one pass writes masks, lists and counts.

#pragma once

#include "topk_ranking.cuh"

namespace prune {
namespace {

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

}  // namespace
}  // namespace prune

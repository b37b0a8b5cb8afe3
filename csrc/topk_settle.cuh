// The second half of topk_masks on CUDA: where the threshold lies is decided, and what was left open is settled.

#pragma once

#include "topk_alone.cuh"

namespace prune {
namespace {

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

}  // namespace
}  // namespace prune

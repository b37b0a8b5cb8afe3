// The last part of topk_masks on CUDA: what the pass left open is settled: the listed, the threshold's ties, or everything
// where the sample misled.

#pragma once

#include "topk_alone.cuh"
#include "topk_classify.cuh"

namespace prune {
namespace {

constexpr int kSettlers = 512;  // threads of a block
constexpr int kCompared = 1024; // so many close entries are compared each with each

// Keeps the entries of the lanes that say so. All lanes of the warp call it.
template <class Rank>
__device__ void keep_entry(const Ranking<Rank>& k, const Entry<Rank>& entry, bool keeps) {
  int r = -1;
  if (keeps) {
    const int64_t index = entry.index();
    r = row_of_index(k, index);
    const Row& row = k.rows[r];
    row.mask[row.place_of(index - row.start)] = 1;
  }
  const unsigned same = __match_any_sync(0xffffffffu, r);
  if (keeps && static_cast<int>(threadIdx.x % 32) == __ffs(static_cast<int>(same)) - 1)
    atomicAdd(k.counts + r, static_cast<unsigned long long>(__popc(same)));
}

template <class Rank>
__device__ int list_bin(const State<Rank>& s, const Entry<Rank>& entry) {
  return static_cast<int>((biased(entry.rank()) - biased(s.lo)) >> s.shift);
}

// Of the list, what lies above the threshold's bin stays, and what lies in it is gathered.
template <class Rank>
__device__ void settle_listed(const Ranking<Rank>& k) {
  State<Rank>& s = *k.state;
  const int64_t n = static_cast<int64_t>(s.inside);
  for (int64_t base = blockIdx.x * int64_t{kSettlers}; base < n; base += gridDim.x * int64_t{kSettlers}) {
    const int64_t i = base + threadIdx.x;
    const Entry<Rank> entry = i < n ? k.list[i] : Entry<Rank>{};
    const int bin = i < n ? list_bin(s, entry) : -1;
    keep_entry(k, entry, i < n && bin > s.bin);
    const unsigned close = __ballot_sync(0xffffffffu, i < n && bin == s.bin), lane = threadIdx.x % 32;
    unsigned long long slot = 0;
    if (lane == 0 && close != 0) slot = atomicAdd(&s.close, static_cast<unsigned long long>(__popc(close)));
    slot = __shfl_sync(0xffffffffu, slot, 0) + __popc(close & ((1u << lane) - 1));
    if (close >> lane & 1 && slot < static_cast<unsigned long long>(k.close_room)) k.close[slot] = entry;
  }
}

// Of n entries those in the threshold's bin, all or among others: the `keep` largest of them stay. One block.
template <class Rank>
__device__ void settle_close(const Ranking<Rank>& k, const Entry<Rank>* entries, int64_t n, bool all, long long keep) {
  const State<Rank>& s = *k.state;
  if (all && n <= kCompared) {
    __shared__ Entry<Rank> shared[kCompared];
    for (int i = threadIdx.x; i < n; i += kSettlers) shared[i] = entries[i];
    __syncthreads();
    for (int base = 0; base < n; base += kSettlers) {
      const int i = base + static_cast<int>(threadIdx.x);
      long long larger = 0;
      if (i < n)
        for (int j = 0; j < n; ++j) larger += shared[j] > shared[i];
      keep_entry(k, i < n ? shared[i] : Entry<Rank>{}, i < n && larger < keep);
    }
    return;
  }
  __shared__ unsigned bins[kSettlers];  // 256 are used: one look for a place serves any power of two
  __shared__ int chosen[Entry<Rank>::kBytes];
  for (int d = 0; d < Entry<Rank>::kBytes; ++d) {
    bins[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t base = 0; base < n; base += kSettlers) {
      const int64_t i = base + threadIdx.x;
      const Entry<Rank> entry = i < n ? entries[i] : Entry<Rank>{};
      bool same = i < n && (all || list_bin(s, entry) == s.bin);
      for (int e = 0; e < d; ++e) same = same && entry.byte(e) == chosen[e];
      count_in(bins, entry.byte(d), same);
    }
    __syncthreads();
    const Found found = from_top<kSettlers>([&](int b) { return static_cast<long long>(bins[b]); }, keep);
    keep -= found.above;
    if (threadIdx.x == 0) chosen[d] = found.bin;
    __syncthreads();
  }
  for (int64_t base = 0; base < n; base += kSettlers) {
    const int64_t i = base + threadIdx.x;
    const Entry<Rank> entry = i < n ? entries[i] : Entry<Rank>{};
    int order = 0;
    for (int d = 0; d < Entry<Rank>::kBytes && order == 0; ++d) order = entry.byte(d) - chosen[d];
    keep_entry(k, entry, i < n && (all || list_bin(s, entry) == s.bin) && order >= 0);
  }
}

// Writes the mask of the chunk c: what ranks above the threshold, and the first `quota` that equal it.
template <class Rank>
__device__ void settle_ties(const Ranking<Rank>& k, int64_t c) {
  const State<Rank>& s = *k.state;
  const Tally tally = k.tallies[c];
  const int ties = s.at_low_end ? tally.at_lo : tally.at_hi;
  int quota = k.quotas[c];
  if (!s.at_low_end && quota == ties) return;  // the mask holds them all already
  const Chunk chunk = k.chunk[c];
  const Row row = k.rows[chunk.row];
  const int64_t begin = chunk.number * int64_t{row.chunk};
  const int n = static_cast<int>(min(int64_t{row.chunk}, row.n - begin));
  const Rank threshold = s.threshold;
  __shared__ int scratch[32];
  int kept = 0;
  if (quota == 0 || quota == ties) {  // no order to keep: above the threshold, with all of its ties or none
    const Rank at_least = quota == 0 ? threshold + 1 : threshold;
    for (int at = 4 * static_cast<int>(threadIdx.x); at < n; at += 4 * kSettlers) {
      Rank ranks[4];
      const bool whole = row.vector && at + 4 <= n;
      if (whole) {
        Four<Rank> four;
        four.read(row, begin + at);
        four.ranks(row.type, k.magnitude, ranks);
      }
      uint32_t bytes = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (!whole) ranks[j] = at + j < n ? rank_at<Rank>(row, begin + at + j, k.magnitude) : kDead<Rank>;
        const bool keeps = ranks[j] >= at_least && ranks[j] != kDead<Rank>;
        bytes |= static_cast<uint32_t>(keeps) << 8 * j;
        kept += keeps;
      }
      if (whole) {
        *reinterpret_cast<uint32_t*>(row.mask + begin + at) = bytes;
      } else {
        for (int j = 0; j < 4 && at + j < n; ++j) row.mask[begin + at + j] = static_cast<char>(bytes >> 8 * j & 1);
      }
    }
  } else {
    for (int base = 0; base < n; base += kSettlers) {
      const int at = base + static_cast<int>(threadIdx.x);
      const int64_t place = at < n ? row.place_of(begin + at) : 0;
      const Rank rank = at < n ? rank_at<Rank>(row, place, k.magnitude) : kDead<Rank>;
      const int tie = at < n && rank == threshold;
      int total;
      const int before = block_before(tie, scratch, total);
      const bool keeps = at < n && (rank > threshold || (tie && before < quota));
      quota -= min(quota, total);
      if (at < n) row.mask[place] = keeps;
      kept += keeps;
    }
  }
  kept = block_sum(kept, scratch);
  const int counted = tally.above + tally.at_hi;
  if (threadIdx.x == 0 && kept != counted)
    atomicAdd(k.counts + chunk.row, static_cast<unsigned long long>(static_cast<long long>(kept - counted)));
}

template <class Rank>
__global__ void __launch_bounds__(kSettlers) settle_kernel(const Ranking<Rank> k) {
  State<Rank>& s = *k.state;
  const int mode = s.mode;
  if (mode == kDone) return;
  if (mode == kThreshold) {
    for (int64_t c = blockIdx.x; c < k.chunks; c += gridDim.x) settle_ties(k, c);
    return;
  }
  if (mode == kListed) {
    settle_listed(k);
    if (s.bin < 0) return;
  }
  if (!last_block(s.finished + kDigits<Rank> + 1)) return;
  if (mode == kMissed) {
    select_alone<Rank>(k.rows, 0, k.count, k.keep, k.magnitude, k.counts);
  } else {
    const int64_t close = static_cast<int64_t>(__ldcg(&s.close));
    if (close <= k.close_room)
      settle_close(k, k.close, close, true, s.close_keep);
    else
      settle_close(k, k.list, static_cast<int64_t>(s.inside), false, s.close_keep);
  }
}

}  // namespace
}  // namespace prune

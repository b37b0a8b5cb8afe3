// The second part of topk_masks on CUDA: one pass writes masks, lists what lies inside the bracket and counts; the block
// that finishes last decides what is left to do.

#pragma once

#include "topk_ranking.cuh"

namespace prune {
namespace {

constexpr int kChunk = 8192, kSmallChunk = 2048;  // elements that a block classifies; at most 32 a thread, one bit each
constexpr int kAhead = 4;                         // reads of four that are on their way at a time

// Says where the threshold lies, from the counts of the whole pass. One block.
template <class Rank>
__device__ void decide(const Ranking<Rank>& k) {
  State<Rank>& s = *k.state;
  const long long above = static_cast<long long>(__ldcg(&s.above)), at_hi = static_cast<long long>(__ldcg(&s.at_hi));
  const long long at_lo = static_cast<long long>(__ldcg(&s.at_lo)), inside = static_cast<long long>(__ldcg(&s.inside));
  const long long rest = k.keep - above - at_hi;  // to be found below hi
  const bool has_list = inside <= k.room, at_end = s.lo == kDead<Rank>;
  Mode mode = kMissed;
  int bin = -1;
  long long quota = 0, close_keep = 0;
  bool low = false;
  if (rest <= 0 && k.keep >= above) {
    quota = k.keep - above;
    mode = rest == 0 ? kDone : kThreshold;
  } else if (rest > 0 && rest < inside && has_list) {
    const Found found = from_top<kListBins>([&](int b) { return static_cast<long long>(__ldcg(k.list_bins + b)); }, rest);
    mode = kListed;
    bin = found.bin;
    close_keep = rest - found.above;
  } else if (rest > 0 && has_list && (rest == inside || (at_end && rest > inside))) {
    mode = inside == 0 ? kDone : kListed;  // all of the list stays
  } else if (rest >= inside && (at_end || rest <= inside + at_lo)) {
    quota = at_end ? 0 : rest - inside;
    mode = kThreshold;
    low = true;
  }
  if (threadIdx.x == 0) {
    s.mode = mode;
    s.bin = bin;
    s.close_keep = close_keep;
    s.quota = quota;
    s.at_low_end = low;
    s.threshold = low ? s.lo : s.hi;
  }
  if (mode != kThreshold) return;
  for (int64_t base = 0; base < k.chunks; base += kThreads) {  // ties to keep, handed to the chunks in order
    __shared__ long long scratch[32];
    const int64_t c = base + threadIdx.x;
    const long long ties = c < k.chunks ? (low ? __ldcg(&k.tallies[c].at_lo) : __ldcg(&k.tallies[c].at_hi)) : 0;
    long long total;
    const long long before = block_before(ties, scratch, total);
    if (c < k.chunks) k.quotas[c] = static_cast<int>(max(0ll, min(ties, quota - before)));
    quota -= total;
  }
}

template <class Rank>
__global__ void __launch_bounds__(kThreads, 4) classify_kernel(const Ranking<Rank> k) {
  const Chunk chunk = k.chunk[blockIdx.x];
  const Rank lo = k.state->lo, hi = k.state->hi;
  const int shift = k.state->shift;
  const Row row = k.rows[chunk.row];
  const int64_t begin = chunk.number * int64_t{row.chunk};
  const int n = static_cast<int>(min(int64_t{row.chunk}, row.n - begin));
  int above = 0, at_hi = 0, at_lo = 0;
  uint32_t inside = 0;  // bit 4 * turn + j: element (turn * kThreads + thread) * 4 + j of the chunk
  for (int first = 0; first * kThreads * 4 < n; first += kAhead) {
    Four<Rank> four[kAhead];
#pragma unroll
    for (int t = 0; t < kAhead; ++t) {
      const int at = ((first + t) * kThreads + static_cast<int>(threadIdx.x)) * 4;
      if (row.vector && at + 4 <= n) four[t].read(row, begin + at);
    }
#pragma unroll
    for (int t = 0; t < kAhead; ++t) {
      const int at = ((first + t) * kThreads + static_cast<int>(threadIdx.x)) * 4;
      if (at >= n) break;
      Rank ranks[4];
      const bool whole = row.vector && at + 4 <= n;
      if (whole) {
        four[t].ranks(row.type, k.magnitude, ranks);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) ranks[j] = at + j < n ? rank_at<Rank>(row, begin + at + j, k.magnitude) : kDead<Rank>;
      }
      uint32_t bytes = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        bytes |= static_cast<uint32_t>(ranks[j] >= hi) << 8 * j;
        above += ranks[j] > hi;
        at_hi += ranks[j] == hi;
        at_lo += ranks[j] == lo && lo != kDead<Rank>;
        inside |= static_cast<uint32_t>(ranks[j] > lo && ranks[j] < hi) << (4 * (first + t) + j);
      }
      if (whole) {
        *reinterpret_cast<uint32_t*>(row.mask + begin + at) = bytes;
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (at + j < n) row.mask[begin + at + j] = static_cast<char>(bytes >> 8 * j & 1);
      }
    }
  }
  __shared__ unsigned long long scratch[32];
  __shared__ unsigned long long base;
  // four counts of at most 8,192 in one word, summed over the block at once
  const unsigned long long packed = static_cast<unsigned long long>(above) | static_cast<unsigned long long>(at_hi) << 16 |
                                    static_cast<unsigned long long>(at_lo) << 32 |
                                    static_cast<unsigned long long>(__popc(inside)) << 48;
  unsigned long long total;
  const unsigned long long before = block_before(packed, scratch, total);
  if (threadIdx.x == 0) {
    const unsigned tally_above = total & 0xffff, tally_hi = total >> 16 & 0xffff, tally_lo = total >> 32 & 0xffff;
    State<Rank>& s = *k.state;
    k.tallies[blockIdx.x] = {static_cast<int>(tally_above), static_cast<int>(tally_hi), static_cast<int>(tally_lo)};
    if (tally_above + tally_hi != 0) atomicAdd(k.counts + chunk.row, static_cast<unsigned long long>(tally_above + tally_hi));
    if (tally_above != 0) atomicAdd(&s.above, static_cast<unsigned long long>(tally_above));
    if (tally_hi != 0) atomicAdd(&s.at_hi, static_cast<unsigned long long>(tally_hi));
    if (tally_lo != 0) atomicAdd(&s.at_lo, static_cast<unsigned long long>(tally_lo));
    base = total >> 48 == 0 ? 0 : atomicAdd(&s.inside, total >> 48);
  }
  __syncthreads();
  int64_t slot = static_cast<int64_t>(base + (before >> 48));
  for (; inside != 0 && slot < k.room; inside &= inside - 1, ++slot) {  // past the room the list is not used
    const int bit = __ffs(static_cast<int>(inside)) - 1;
    const int64_t place = begin + ((bit / 4) * kThreads + static_cast<int>(threadIdx.x)) * 4 + bit % 4;
    const Rank rank = rank_at<Rank>(row, place, k.magnitude);
    k.list[slot] = Entry<Rank>::make(rank, row.start + row.index_of(place));
    atomicAdd(k.list_bins + ((biased(rank) - biased(lo)) >> shift), 1u);
  }
  if (last_block(k.state->finished + kDigits<Rank>)) decide(k);
}

}  // namespace
}  // namespace prune
